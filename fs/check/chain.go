package check

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"kist/backend"
	"kist/fs/log"
	"kist/fs/tree"
)

// maxBreaks is after how many breaks of the chain a walk is given up; each of them
// was reported.
const maxBreaks = 64

func (c *checker) folder(name string) string {
	return "vaults/" + hex.EncodeToString(c.cfg.Vault[:]) + "/" + name + "/"
}

func (c *checker) logConfig(store backend.Store, trust *log.Trust) log.Config {
	return log.Config{Store: store, Vault: c.cfg.Vault, Session: c.cfg.Session, Trust: trust, Now: c.cfg.Now,
		CheckRoot: func(b []byte) error { _, err := tree.ParseState(b); return err }}
}

// openLog finds the head: with what this device remembers or, if the store
// contradicts that, as a machine without memory would, to look at the rest.
func (c *checker) openLog(ctx context.Context) error {
	var seen *log.Head
	if c.cfg.Trust != nil {
		if h, ok := c.cfg.Trust.Vault(c.cfg.Vault); ok {
			seen = &h
		}
	}
	err := c.openWith(ctx, seen)
	if err == nil || away(err) || errors.Is(err, log.ErrNewer) {
		return err
	}
	if errors.Is(err, log.ErrNotMember) && seen == nil {
		return err // nothing is wrong; with a memory, it once had one
	}
	kind := KindLog
	if errors.Is(err, log.ErrRollback) || errors.Is(err, log.ErrFork) {
		kind, c.refused = KindRefused, err
	}
	c.problem(kind, "log", err.Error())
	if seen == nil || c.openWith(ctx, nil) != nil {
		return errors.Join(err, c.identities(ctx)) // it may be why
	}
	return nil
}

func (c *checker) openWith(ctx context.Context, seen *log.Head) error {
	trust, err := c.memory(seen)
	if err != nil {
		return err
	}
	cfg := c.logConfig(c.store, trust)
	cfg.Cache = new(recent)
	l, err := log.Open(ctx, cfg)
	if err != nil {
		return err
	}
	c.log = l
	c.report.Head = l.Head().Head.String()
	return nil
}

// chain walks the log from genesis to the head, judging each slot by the state
// before it, and goes on behind what is broken.
func (c *checker) chain(ctx context.Context) error {
	head := c.log.Head().Head
	for _, from := range c.starts() {
		for breaks := 0; ; breaks++ {
			broken, err := c.forward(ctx, from, head)
			if err != nil {
				return err
			}
			if broken == nil {
				return c.trailing(ctx)
			}
			if breaks == 0 && errors.Is(broken.why, log.ErrNotMember) && broken.seq == from.Seq && from.Seq < head.Seq {
				c.note(KindLog, atSlot(from.Seq), "this identity has no key of it; the walk begins above")
				break
			}
			next, err := c.broken(ctx, broken, head)
			if err != nil {
				return err
			}
			if next.Seq <= from.Seq || breaks == maxBreaks {
				return c.trailing(ctx)
			}
			from = next
		}
	}
	return c.trailing(ctx)
}

// starts are where the walk can begin: at genesis or, for a member who joined
// later and was given no history, at the membership commit that let them in.
func (c *checker) starts() []log.Head {
	head := c.log.Head()
	at := head.Head
	if head.Kind != log.Membership {
		at = head.RosterAt
	}
	return append(append([]log.Head{}, head.Roster.Past...), at)
}

// stop is where a walk could not go on.
type stop struct {
	seq uint64 // the first slot that is not accounted for
	why error
}

var errSkipped = errors.New("the commit does not follow from what stands below it")

// forward walks from one commit to another. nil: it arrived.
func (c *checker) forward(ctx context.Context, from, to log.Head) (*stop, error) {
	c.prev = nil
	view := c.slots(from.Seq, to.Seq)
	trust, err := c.memory(&from)
	if err != nil {
		return nil, err
	}
	l, err := log.Open(ctx, c.logConfig(view, trust)) // believes from, so that
	if err == nil {
		_, err = c.log.At(ctx, from.Seq) // it is judged here
	}
	if err != nil {
		return broke(from.Seq, err)
	}
	if err := c.commit(ctx, l.Head()); err != nil {
		return nil, err
	}
	for l.Head().Seq < to.Seq {
		voids := len(l.Voids())
		next := l.Head().Seq + 1 + uint64(voids)
		if next > to.Seq {
			return &stop{l.Head().Seq + 1, errSkipped}, nil
		}
		view.show(next)
		got, err := l.Next(ctx)
		switch {
		case err != nil:
			return broke(l.Head().Seq+1, err) // with void slots before next, it is one of them
		case got != nil:
			if err := c.commit(ctx, got); err != nil {
				return nil, err
			}
		case len(l.Voids()) == voids:
			return &stop{next, backend.ErrNotExist}, nil
		}
	}
	if l.Head().Head != to {
		return &stop{to.Seq, log.ErrWithheld}, nil
	}
	return nil, nil
}

func broke(seq uint64, err error) (*stop, error) {
	if away(err) {
		return nil, err
	}
	return &stop{seq, err}, nil
}

// broken finds out, from the head downwards, which slot is to blame for a stop,
// and returns the lowest commit above it that the head vouches for.
func (c *checker) broken(ctx context.Context, s *stop, head log.Head) (low log.Head, err error) {
	low = head
	for seq := head.Seq; seq > s.seq; {
		seq--
		if (head.Seq-1-seq)%slotsAhead == 0 && seq-s.seq >= slotsAhead {
			if _, err := c.log.At(ctx, seq-slotsAhead+1); away(err) { // brings all of them at once
				return low, err
			}
		}
		commit, err := c.log.At(ctx, seq)
		switch {
		case away(err):
			return low, err
		case err != nil:
			c.problem(KindLog, atSlot(seq), reason(err))
			if seq > s.seq {
				c.problem(KindLog, atSlot(s.seq), reason(s.why)+"; this slot and those up to the other break can't be told good from bad")
			}
			return low, nil
		case commit != nil:
			low = commit.Head
		}
	}
	c.problem(KindLog, atSlot(s.seq), reason(s.why))
	return low, nil
}

// commit takes down what a commit says, and walks its tree if asked to.
func (c *checker) commit(ctx context.Context, commit *log.Commit) error {
	c.report.Commits++
	c.step("commit %d of %d", commit.Seq, c.log.Head().Seq)
	for _, v := range commit.Voids {
		if err := c.void(ctx, v, "holds no commit; the next one says so"); err != nil {
			return err
		}
	}
	if commit.Ahead(c.cfg.Now()) {
		c.note(KindLog, atSlot(commit.Seq), "its time lies ahead of this machine's clock")
	}
	for _, p := range commit.Identities {
		c.point(p)
	}
	if !c.cfg.ReadData && commit.Seq != c.log.Head().Seq {
		return nil
	}
	for _, r := range commit.Nodes {
		c.packs.refer(r.Pack, r.Off+r.Len)
	}
	if c.cfg.ReadData {
		return c.history(ctx, commit)
	}
	return nil
}

// trailing looks at slots above the head that hold no commit.
func (c *checker) trailing(ctx context.Context) error {
	for _, v := range c.log.Voids() {
		if err := c.void(ctx, v, "holds no commit; the next one will say so"); err != nil {
			return err
		}
	}
	return nil
}

// void tells of a slot that counts as void. Junk there is nobody's damage. What a
// member has signed, with the right to, is: it lost its place because something
// below it is gone, or because its author saw another history.
func (c *checker) void(ctx context.Context, v log.Void, note string) error {
	c.report.VoidSlots++
	raw, err := c.store.Get(ctx, fmt.Sprintf("%s%016x", c.folder("log"), v.Seq), log.MaxCommit)
	if away(err) {
		return err
	}
	if err != nil || len(raw) < commitHeader {
		c.note(KindLog, atSlot(v.Seq), note)
		return nil
	}
	signed, err := c.signed(ctx, log.Head{Seq: v.Seq, Hash: commitHash(raw)})
	if err != nil {
		return err
	}
	if signed {
		c.problem(KindLog, atSlot(v.Seq), "a commit that a member signed counts as void: it does not follow from what stands below it now")
	} else {
		c.note(KindLog, atSlot(v.Seq), note)
	}
	return nil
}

// signed reports whether a slot holds what a machine that knows no more than its
// hash would take for a commit.
func (c *checker) signed(ctx context.Context, at log.Head) (bool, error) {
	trust, err := c.memory(nil)
	if err != nil {
		return false, err
	}
	cfg := c.logConfig(c.slots(at.Seq, at.Seq), trust)
	cfg.Known = at
	_, err = log.Open(ctx, cfg)
	if away(err) {
		return false, err
	}
	return err == nil, nil
}

// commitHeader is the length of the header of a commit object.
const commitHeader = 126

// commitHash is the hash of a commit object: header ‖ H(rest).
func commitHash(raw []byte) log.Hash {
	rest := sha256.Sum256(raw[commitHeader:])
	return sha256.Sum256(append(raw[:commitHeader:commitHeader], rest[:]...))
}
