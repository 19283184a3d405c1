package log

import (
	"context"
	"errors"
	"fmt"

	"kist/backend"
)

// At returns the commit in a slot at or below the head; nil without an error if
// the slot is void. A commit that this session or the roster vouches for is
// returned by its hash. Any other is judged by the roster that was in force, the
// commit before it being unknown; it is what the store shows today.
func (l *Log) At(ctx context.Context, seq uint64) (*Commit, error) {
	if err := l.begin(ctx); err != nil {
		return nil, err
	}
	defer l.end()
	head := l.Head()
	switch {
	case seq == head.Seq:
		return head, nil
	case seq > head.Seq:
		return nil, fmt.Errorf("commit %d is not there yet, the newest is %s", seq, head.Head)
	}
	raw, err := l.rawAt(ctx, seq)
	if err != nil {
		return nil, err
	}
	found, err := l.settle(ctx, seq, raw, func(raw []byte) (*Commit, error) { return l.judgePast(ctx, raw, seq) })
	if isBad(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	l.cfg.Cache.Put(l.key(seq), found.raw)
	l.known[seq] = found.c.Hash
	return found.c, nil
}

// rawAt reads a slot at or below the head, by its hash if that is known.
func (l *Log) rawAt(ctx context.Context, seq uint64) ([]byte, error) {
	hash, ok := l.known[seq]
	for _, h := range l.state().roster.Roster.Past {
		if h.Seq == seq {
			hash, ok = h.Hash, true
		}
	}
	if ok {
		return l.pinned(ctx, Head{seq, hash})
	}
	if raw := l.cfg.Cache.Get(l.key(seq)); raw != nil {
		if _, err := l.judgePast(ctx, raw, seq); err == nil {
			return raw, nil
		}
	}
	raw, err := l.get(ctx, seq)
	if errors.Is(err, backend.ErrNotExist) {
		return nil, fmt.Errorf("commit %d is not shown, but commit %s above it is: %w", seq, l.Head().Head, ErrWithheld)
	}
	return raw, err
}

// judgePast judges a commit below the head by the roster then in force, which
// the one in force now vouches for.
func (l *Log) judgePast(ctx context.Context, raw []byte, seq uint64) (*Commit, error) {
	o, err := parseObject(raw, l.vault, seq)
	if err != nil {
		return nil, err
	}
	if _, ok := l.secret(o.epoch); !ok && o.epoch < l.state().roster.Roster.Epoch {
		if err := l.loadPast(ctx); err != nil {
			return nil, err
		}
	}
	if seq == 0 {
		return l.judgeGenesis(ctx, raw)
	}
	roster, err := l.pastRoster(ctx, o.roster)
	if err != nil {
		return nil, err
	}
	return l.judge(ctx, raw, seq, before{roster: roster})
}

func (l *Log) pastRoster(ctx context.Context, seq uint64) (*Commit, error) {
	if c, ok := l.rosters[seq]; ok {
		return c, nil
	}
	for _, h := range l.state().roster.Roster.Past {
		if h.Seq != seq {
			continue
		}
		raw, err := l.pinned(ctx, h)
		if err != nil {
			return nil, err
		}
		o, err := parseObject(raw, l.vault, seq)
		if err != nil {
			return nil, err
		}
		if _, ok := l.secret(o.epoch); !ok {
			if err := l.loadPast(ctx); err != nil {
				return nil, err
			}
		}
		c, err := l.recall(o)
		if err == nil {
			l.rosters[seq] = c
		}
		return c, err
	}
	return nil, bad("made under a roster that never was")
}
