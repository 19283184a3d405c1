package log

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"kist/backend"
)

// contact judges a commit by the roster that its header names, which is verified
// from genesis on. What needs the commit before is left open.
func (l *Log) contact(ctx context.Context, raw []byte, seq uint64) (*Commit, error) {
	if raw == nil {
		return nil, bad("nothing there")
	}
	o, err := parseObject(raw, l.vault, seq)
	if err != nil {
		return nil, err
	}
	if o.roster >= seq {
		return nil, bad("a roster from later")
	}
	if len(o.clear) > 0 { // it may be the one that let this identity in
		return l.chain(ctx, raw, seq)
	}
	roster, err := l.rosterAt(ctx, o.roster)
	if err != nil {
		return nil, err
	}
	c, err := l.judge(ctx, raw, seq, before{roster: roster})
	if err != nil {
		return nil, err
	}
	l.known[c.Seq] = c.Hash
	l.cfg.Cache.Put(l.key(seq), raw)
	return c, nil
}

// rosterAfter is the membership commit in force after c, which was judged by
// contact or chain.
func (l *Log) rosterAfter(c *Commit) *Commit {
	if c.Kind == Membership {
		return c
	}
	return l.rosters[c.RosterAt.Seq]
}

// rosterAt reads and verifies the membership commit in a slot.
func (l *Log) rosterAt(ctx context.Context, seq uint64) (*Commit, error) {
	if c, ok := l.rosters[seq]; ok {
		return c, nil
	}
	raw := l.cfg.Cache.Get(l.key(seq))
	if raw == nil {
		var err error
		if raw, err = l.get(ctx, seq); errors.Is(err, backend.ErrNotExist) {
			return nil, fmt.Errorf("membership commit %d is missing: %w", seq, ErrWithheld)
		} else if err != nil {
			return nil, err
		}
	}
	r, err := l.settle(ctx, seq, raw, func(raw []byte) (*Commit, error) { return l.chain(ctx, raw, seq) })
	if err != nil {
		return nil, err
	}
	return r.c, nil
}

// chain verifies a membership commit and all before it, from genesis on, each by
// the roster before it. Secrets that came out of wraps stay only if all of it
// holds: a wrap proves nothing about who made it.
func (l *Log) chain(ctx context.Context, raw []byte, seq uint64) (*Commit, error) {
	saved := l.secrets
	l.secrets = maps.Clone(saved)
	c, err := l.verifyChain(ctx, raw, seq)
	if err == nil {
		err = l.secrets.holds(l.vault, c.Roster)
	}
	if err != nil {
		l.secrets = saved
		return nil, err
	}
	l.rosters[seq], l.known[seq] = c, c.Hash
	l.cfg.Cache.Put(l.key(seq), raw)
	return c, nil
}

func (l *Log) verifyChain(ctx context.Context, raw []byte, seq uint64) (*Commit, error) {
	o, err := parseObject(raw, l.vault, seq)
	if err != nil {
		return nil, err
	}
	if seq == 0 && o.epoch != 0 { // no wrap would open, and this identity seem no member
		return nil, bad("a first commit with something before it")
	}
	if err := learn(l.cfg.Session, l.secrets, o); errors.Is(err, errNoWrap) {
		return nil, fmt.Errorf("membership commit %d: %w", seq, ErrNotMember)
	} else if err != nil {
		return nil, err
	}
	if seq == 0 {
		return l.judgeGenesis(ctx, raw)
	}
	claim, err := l.recall(o)
	if err != nil {
		return nil, err
	}
	if claim.Roster == nil || len(claim.Roster.Past) == 0 || claim.Roster.Past[len(claim.Roster.Past)-1].Seq >= seq {
		return nil, bad("not a membership commit")
	}
	raws, err := l.past(ctx, claim.Roster.Past)
	if err != nil {
		return nil, err
	}
	last, err := l.replay(ctx, claim.Roster.Past, raws)
	if err != nil {
		return nil, err
	}
	return l.judge(ctx, raw, seq, before{roster: last})
}

// past reads membership commits by the hashes that a later one lists.
func (l *Log) past(ctx context.Context, heads []Head) ([][]byte, error) {
	raws := make([][]byte, len(heads))
	var missing []uint64
	var at []int
	for i, h := range heads {
		if raw := l.cfg.Cache.Get(l.key(h.Seq)); isAt(raw, h) {
			raws[i] = raw
		} else {
			missing, at = append(missing, h.Seq), append(at, i)
		}
	}
	got, err := l.readMany(ctx, missing)
	if err != nil {
		return nil, err
	}
	for n, i := range at {
		if raws[i] = got[n]; isAt(raws[i], heads[i]) {
			l.cfg.Cache.Put(l.key(heads[i].Seq), raws[i])
			continue
		}
		again, err := l.get(backend.Fresh(ctx), heads[i].Seq)
		if err != nil && !errors.Is(err, backend.ErrNotExist) {
			return nil, err
		}
		if raws[i] = again; !isAt(again, heads[i]) {
			return nil, fmt.Errorf("membership commit %s is not what the store shows: %w", heads[i], ErrWithheld)
		}
	}
	return raws, nil
}

// replay opens older epochs, newest first, through the histories, and then
// judges the membership commits, oldest first.
func (l *Log) replay(ctx context.Context, heads []Head, raws [][]byte) (*Commit, error) {
	for i := len(raws) - 1; i >= 0; i-- {
		o, err := parseObject(raws[i], l.vault, heads[i].Seq)
		if err != nil {
			return nil, err
		}
		if err := learn(l.cfg.Session, l.secrets, o); err != nil && !errors.Is(err, errNoWrap) {
			return nil, err
		}
	}
	last, err := l.judgeGenesis(ctx, raws[0])
	for i := 1; err == nil && i < len(raws); i++ {
		last, err = l.judge(ctx, raws[i], heads[i].Seq, before{roster: last})
	}
	if err != nil {
		return nil, err
	}
	for i, h := range heads {
		l.known[h.Seq] = h.Hash
		if i == len(heads)-1 {
			l.rosters[h.Seq] = last
		}
	}
	return last, nil
}

// loadPast opens the epochs before the one in force, through the histories.
func (l *Log) loadPast(ctx context.Context) error {
	roster := l.state().roster
	heads := append(slices.Clone(roster.Roster.Past), roster.Head)
	raws, err := l.past(ctx, heads)
	if err != nil {
		return err
	}
	l.mu.Lock()
	sec := maps.Clone(l.secrets)
	l.mu.Unlock()
	for i := len(raws) - 1; i >= 0; i-- {
		o, err := parseObject(raws[i], l.vault, heads[i].Seq)
		if err != nil {
			return err
		}
		if err := learn(l.cfg.Session, sec, o); err != nil && !errors.Is(err, errNoWrap) {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.secrets = sec
	return nil
}
