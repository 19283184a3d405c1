package log

import (
	"context"
	"errors"
	"fmt"

	"kist/backend"
)

// At returns the commit in a slot at or below the head; nil without an error if
// the slot is void. It is reached by hash from a commit that is verified, so the
// first call costs what lies between; going down one by one costs one read each.
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
	raw, err := l.descend(ctx, seq)
	if raw == nil || err != nil {
		return nil, err
	}
	c, err := l.judgePast(ctx, raw, seq)
	if isBad(err) {
		return nil, fmt.Errorf("commit %d stands in the chain and does not verify: %w (%w)", seq, ErrFork, err)
	}
	return c, err
}

// descend follows the hashes of earlier commits down to a slot. nil: the commit
// above it names it as void.
func (l *Log) descend(ctx context.Context, seq uint64) ([]byte, error) {
	at := l.anchor(seq)
	raw, err := l.pinned(ctx, at)
	if err != nil {
		return nil, err
	}
	near := map[uint64][]byte{}
	for at.Seq > seq {
		c, err := l.recallPast(ctx, raw, at.Seq)
		if err != nil {
			return nil, err
		}
		below := uint64(len(c.Voids)) + 1
		if below > at.Seq {
			return nil, fmt.Errorf("commit %s: %w", at, ErrFork)
		}
		at = Head{at.Seq - below, c.Prev}
		if at.Seq < seq {
			return nil, nil
		}
		if _, ok := near[at.Seq]; !ok {
			if near, err = l.below(ctx, seq, at.Seq); err != nil {
				return nil, err
			}
		}
		if raw, err = l.confirm(ctx, at, near[at.Seq]); err != nil {
			return nil, err
		}
		l.known[at.Seq] = at.Hash
	}
	return raw, nil
}

// anchor is the lowest commit at or above seq whose hash is vouched for.
func (l *Log) anchor(seq uint64) Head {
	state := l.state()
	best := state.prev.Head
	for _, h := range state.roster.Roster.Past {
		l.known[h.Seq] = h.Hash
	}
	for s, hash := range l.known {
		if s >= seq && s < best.Seq {
			best = Head{s, hash}
		}
	}
	return best
}

// below reads the slots from high downwards, not below low, side by side.
func (l *Log) below(ctx context.Context, low, high uint64) (map[uint64][]byte, error) {
	out := map[uint64][]byte{}
	var seqs []uint64
	for s := high; s+window > high; s-- {
		if raw := l.cfg.Cache.Get(l.key(s)); raw != nil {
			out[s] = raw
		} else {
			seqs = append(seqs, s)
		}
		if s == low {
			break
		}
	}
	got, err := l.readMany(ctx, seqs)
	for i, s := range seqs {
		out[s] = got[i]
	}
	return out, err
}

// recallPast opens a commit whose hash is vouched for, of any epoch.
func (l *Log) recallPast(ctx context.Context, raw []byte, seq uint64) (*Commit, error) {
	o, err := parseObject(raw, l.vault, seq)
	if err != nil {
		return nil, err
	}
	if _, ok := l.secret(o.epoch); !ok {
		if err := l.loadPast(ctx); err != nil {
			return nil, err
		}
	}
	return l.recall(o)
}

// judgePast judges a commit below the head by the roster then in force, which
// the one in force now vouches for.
func (l *Log) judgePast(ctx context.Context, raw []byte, seq uint64) (*Commit, error) {
	c, err := l.recallPast(ctx, raw, seq)
	if err != nil {
		return nil, err
	}
	if seq == 0 {
		return l.judgeGenesis(ctx, raw)
	}
	roster, err := l.pastRoster(ctx, c.RosterAt)
	if err != nil {
		return nil, err
	}
	return l.judge(ctx, raw, seq, before{roster: roster})
}

// pastRoster opens a membership commit that one below the head names.
func (l *Log) pastRoster(ctx context.Context, at Head) (*Commit, error) {
	if c, ok := l.rosters[at.Seq]; ok {
		return c, nil
	}
	raw, err := l.pinned(ctx, at)
	if err != nil {
		return nil, err
	}
	c, err := l.recallPast(ctx, raw, at.Seq)
	if err != nil {
		return nil, err
	}
	if c.Roster == nil {
		return nil, bad("a roster that is none")
	}
	l.rosters[at.Seq] = c
	return c, nil
}

// settled: the slot is behind the head. Was it ours?
func (l *Log) settled(ctx context.Context, p *Pending) error {
	hash, ok := l.known[p.Seq]
	if !ok && p.Seq < l.Head().Seq {
		raw, err := l.get(ctx, p.Seq)
		if errors.Is(err, backend.ErrNotExist) {
			return fmt.Errorf("commit %d is not shown: %w", p.Seq, ErrWithheld)
		}
		if err != nil {
			return fmt.Errorf("commit %d: %w: %w", p.Seq, ErrUnknown, err)
		}
		hash = shown(p.Seq, raw).Hash
	}
	if hash == p.Hash {
		return nil
	}
	return fmt.Errorf("commit %d: %w", p.Seq, ErrLost)
}
