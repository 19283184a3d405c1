package log

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"kist/backend"
)

// Open finds and verifies the head. The trust file is durable before it returns.
func Open(ctx context.Context, cfg Config) (*Log, error) {
	seen, ok := cfg.Trust.Vault(cfg.Vault)
	l := newLog(cfg)
	if err := l.open(ctx, seen, ok); err != nil {
		return nil, err
	}
	return l, l.remember(l.Head())
}

// Newest returns the head that the store shows to a machine without memory. It
// remembers nothing: it is for a person who has to decide about a store that
// contradicts what this device has seen. See [Trust.Reset].
func Newest(ctx context.Context, cfg Config) (*Commit, error) {
	cfg.Trust, cfg.Cache = nil, nil
	l := newLog(cfg)
	if err := l.open(ctx, Head{}, false); err != nil {
		return nil, err
	}
	return l.Head(), nil
}

func (l *Log) open(ctx context.Context, seen Head, ok bool) error {
	var ahead [][]byte
	var err error
	if ok {
		ahead, err = l.again(ctx, seen)
	} else {
		ahead, err = l.first(ctx)
	}
	if err != nil {
		return err
	}
	if err := l.catchUp(ctx, ahead); err != nil {
		return err
	}
	return l.checkKnown()
}

// again starts from the head that this device remembers: verified before it was
// remembered, so its hash is all that is asked. Returns what the next slot holds.
func (l *Log) again(ctx context.Context, seen Head) ([][]byte, error) {
	got, err := l.readMany(ctx, []uint64{seen.Seq, seen.Seq + 1})
	if err != nil {
		return nil, err
	}
	raw, err := l.confirm(ctx, seen, got[0])
	if err != nil {
		return nil, err
	}
	return got[1:], l.stand(ctx, seen, raw)
}

// stand starts from the bytes of the head that is remembered.
func (l *Log) stand(ctx context.Context, seen Head, raw []byte) error {
	o, err := parseObject(raw, l.vault, seen.Seq)
	if err != nil {
		return err
	}
	if len(o.clear) > 0 {
		if err := learn(l.cfg.Session, l.secrets, o); err != nil && !errors.Is(err, errNoWrap) {
			return err
		}
	}
	c, roster, err := l.recallHead(ctx, o)
	if err != nil {
		return err
	}
	if err := l.secrets.holds(l.vault, roster.Roster); err != nil {
		return err
	}
	return l.start(ctx, c, roster)
}

// recallHead opens a commit that was verified before, and the roster in force.
// What cache and store show for the roster is only a guess until the commit, whose
// hash is vouched for, has opened and named it: nothing in it is believed before,
// nor that it has no key for this identity.
func (l *Log) recallHead(ctx context.Context, o *object) (c, roster *Commit, err error) {
	if _, ok := l.secrets[o.epoch]; ok && len(o.clear) > 0 {
		c, err = l.recall(o)
		return c, c, err
	}
	if raw := l.cfg.Cache.Get(l.key(o.roster)); raw != nil {
		if c, roster, err = l.recallUnder(o, raw); err == nil {
			return c, roster, nil
		}
	}
	for range 3 {
		raw, err := l.get(ctx, o.roster)
		if errors.Is(err, backend.ErrNotExist) {
			return nil, nil, fmt.Errorf("membership commit %d is missing: %w", o.roster, ErrWithheld)
		}
		if err != nil {
			return nil, nil, err
		}
		if c, roster, err = l.recallUnder(o, raw); err == nil {
			l.cfg.Cache.Put(l.key(o.roster), raw)
			return c, roster, nil
		}
		ctx = backend.Fresh(ctx)
	}
	return nil, nil, fmt.Errorf("membership commit %d is not the one that was seen: %w", o.roster, ErrWithheld)
}

// recallUnder opens o with what the bytes of its roster's slot give away.
func (l *Log) recallUnder(o *object, raw []byte) (c, roster *Commit, err error) {
	saved := l.secrets
	defer func() {
		if err != nil {
			l.secrets = saved
		}
	}()
	if roster, err = l.learnFrom(raw, o.roster); err != nil {
		return nil, nil, err
	}
	if c, err = l.recall(o); err != nil {
		return nil, nil, err
	}
	if c.RosterAt != roster.Head {
		return nil, nil, bad("another roster")
	}
	if c.Kind == Membership {
		return c, c, nil
	}
	c.Roster = roster.Roster
	return c, roster, nil
}

func (l *Log) learnFrom(raw []byte, seq uint64) (*Commit, error) {
	o, err := parseObject(raw, l.vault, seq)
	if err != nil {
		return nil, err
	}
	sec := maps.Clone(l.secrets)
	if err := learn(l.cfg.Session, sec, o); errors.Is(err, errNoWrap) {
		return nil, ErrNotMember
	} else if err != nil {
		return nil, err
	}
	l.secrets = sec
	c, err := l.recall(o)
	if err == nil && c.Roster == nil {
		err = bad("not a membership commit")
	}
	return c, err
}

// recall opens a commit without judging it: its hash is vouched for.
func (l *Log) recall(o *object) (*Commit, error) {
	bd, _, err := l.unseal(o)
	if err != nil {
		return nil, err
	}
	return bd.commit(Head{o.seq, o.hash}, o.epoch, o.prev), nil
}

func (l *Log) start(ctx context.Context, c, roster *Commit) error {
	self, err := l.selfAfter(ctx, c)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.head, l.roster, l.self = c, roster, self
	l.known[c.Seq], l.known[roster.Seq] = c.Hash, roster.Hash
	l.rosters[roster.Seq] = roster
	return nil
}

// first starts on a machine without memory: from the head that is vouched for,
// else from the hint, else from genesis. Returns what the next slot holds.
func (l *Log) first(ctx context.Context) ([][]byte, error) {
	from := l.cfg.Known.Seq
	if from == 0 {
		var err error
		if from, err = l.hint(ctx); err != nil {
			return nil, err
		}
	}
	seqs := []uint64{0, from, from + 1}
	if from == 0 {
		seqs = []uint64{0, 1}
	}
	got, err := l.readMany(ctx, seqs)
	if err != nil {
		return nil, err
	}
	genesis, err := l.genesis(ctx, got[0])
	if err != nil {
		return nil, err
	}
	if from == 0 {
		return l.gallop(ctx, genesis, got[1:])
	}
	if l.cfg.Known.Seq > 0 {
		if got[1], err = l.confirm(ctx, l.cfg.Known, got[1]); err != nil {
			return nil, err
		}
	}
	c, err := l.contact(ctx, got[1], from)
	switch {
	case err == nil:
		return l.gallop(ctx, c, got[2:])
	case l.cfg.Known.Seq > 0 || !unusable(err):
		return nil, err
	}
	return l.gallop(ctx, genesis, nil)
}

// unusable: what a hint or a leap led to is no place to start from. That is no
// verdict; the walk from a better place gives that.
func unusable(err error) bool {
	return doubtful(err) || errors.Is(err, ErrWithheld) || errors.Is(err, ErrNotMember)
}

// genesis verifies slot 0, and is where a person who is no member learns it.
func (l *Log) genesis(ctx context.Context, raw []byte) (*Commit, error) {
	if raw == nil {
		return nil, fmt.Errorf("its first commit is missing: %w", ErrVault)
	}
	r, err := l.settle(ctx, 0, raw, func(raw []byte) (*Commit, error) { return l.chain(ctx, raw, 0) })
	if errors.Is(err, ErrNotMember) {
		return nil, nil // joined later: the roster's past opens it
	}
	if isBad(err) {
		return nil, fmt.Errorf("%w (%w)", ErrVault, err)
	}
	if err != nil {
		return nil, err
	}
	return r.c, nil
}

// gallop goes from a valid commit to a later one in growing leaps, without
// reading what lies between, until less than a leap is left. What the next slot
// holds, where that is known, says whether there is anything to leap for.
func (l *Log) gallop(ctx context.Context, c *Commit, next [][]byte) ([][]byte, error) {
	const leap = 64
	if next == nil || next[0] != nil {
		for step := uint64(leap); l.cfg.Known.Seq == 0; step *= 2 {
			to := step
			if c != nil {
				to += c.Seq
			}
			got, err := l.readMany(ctx, []uint64{to})
			if err != nil {
				return nil, err
			}
			found, err := l.contact(ctx, got[0], to)
			if err != nil && !unusable(err) {
				return nil, err
			}
			if err == nil {
				c, next = found, nil
			} else if step == leap {
				break
			} else {
				step = leap / 2
			}
		}
	}
	if c == nil {
		var err error
		if c, err = l.admission(ctx); err != nil {
			return nil, err
		}
	}
	return next, l.start(ctx, c, l.rosterAfter(c))
}

// admission looks through the log for the membership commit that let this
// identity in, when genesis does not open and nothing points further.
func (l *Log) admission(ctx context.Context) (*Commit, error) {
	for seqs := upFrom(1, window); ; seqs = upFrom(seqs[0]+window, window) {
		got, err := l.readMany(ctx, seqs)
		if err != nil {
			return nil, err
		}
		for i, raw := range got {
			if raw == nil {
				return nil, fmt.Errorf("no commit up to %d has a key for this identity: %w", seqs[i], ErrNotMember)
			}
			o, err := parseObject(raw, l.vault, seqs[i])
			if err != nil || len(o.clear) == 0 {
				continue
			}
			c, err := l.contact(ctx, raw, seqs[i])
			if err == nil || !unusable(err) {
				return c, err
			}
		}
	}
}

func upFrom(seq uint64, n int) []uint64 {
	seqs := make([]uint64, n)
	for i := range seqs {
		seqs[i] = seq + uint64(i)
	}
	return seqs
}

// catchUp reads on from the head, in parallel and in growing windows, to the
// first missing slot. ahead is what is known of the next slots already.
func (l *Log) catchUp(ctx context.Context, ahead [][]byte) error {
	for n := 1; ; n = min(2*n, window) {
		seq := l.slot()
		if len(ahead) == 0 {
			var err error
			if ahead, err = l.readMany(ctx, upFrom(seq, n)); err != nil {
				return err
			}
		}
		for i, raw := range ahead {
			at := seq + uint64(i)
			if raw == nil {
				late, err := l.gapAbove(ctx, at, ahead[i+1:])
				if err != nil || late == nil {
					return err
				}
				raw = late
			}
			found, err := l.step(ctx, at, raw)
			if err != nil {
				return err
			}
			if found != nil {
				if err := l.take(ctx, found, false); err != nil {
					return err
				}
			}
		}
		ahead = nil
	}
}

// gapAbove asks about a missing slot only if something was seen above it.
func (l *Log) gapAbove(ctx context.Context, seq uint64, above [][]byte) ([]byte, error) {
	for _, raw := range above {
		if raw != nil {
			return l.gap(ctx, seq, above)
		}
	}
	return nil, nil
}

// checkKnown: the head that was found must be at or above the one that is
// vouched for, and chain back to it. A memory above it was built on it.
func (l *Log) checkKnown() error {
	k, head := l.cfg.Known, l.Head()
	if k.Seq == 0 {
		return nil
	}
	if head.Seq < k.Seq {
		return fmt.Errorf("%w: commit %s is vouched for, the store's newest is %s", ErrRollback, k, head.Head)
	}
	if hash, ok := l.known[k.Seq]; ok && hash != k.Hash {
		return fmt.Errorf("%w: commit %s is vouched for, the store shows %s", ErrFork, k, Head{k.Seq, hash})
	}
	return nil
}
