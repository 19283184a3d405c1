package check

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"kist/backend"
	"kist/crypto/keys"
	"kist/fs/log"
)

// points are the places in identity chains that something vouches for.
type points map[keys.IdentityID]map[uint64]log.Hash

func (c *checker) point(p log.IdentityHead) {
	chain := c.points[p.Identity]
	if chain == nil {
		chain = map[uint64]log.Hash{}
		c.points[p.Identity] = chain
	}
	if had, ok := chain[p.Seq]; ok && had != p.Hash {
		c.problem(KindIdentity, atIdentity(p.Identity, p.Seq), "the log names two objects for this place")
		return
	}
	chain[p.Seq] = p.Hash
}

func atIdentity(id keys.IdentityID, seq uint64) string {
	return fmt.Sprintf("ids/%.12s/%016x", id, seq)
}

// identities reads the chains of all identities that the log names.
func (c *checker) identities(ctx context.Context) error {
	s := c.cfg.Session
	c.point(log.IdentityHead{Identity: s.Identity, Head: log.Head{Seq: s.Head.Seq, Hash: s.Head.Hash}})
	for id := range c.points {
		if err := c.remembered(ctx, id); err != nil {
			return err
		}
		if err := c.identity(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// remembered holds a chain against what this device has seen of it.
func (c *checker) remembered(ctx context.Context, id keys.IdentityID) error {
	if c.cfg.Trust == nil {
		return nil
	}
	seen, ok := c.cfg.Trust.Identity(id)
	if !ok {
		return nil
	}
	_, state, err := log.FetchIdentity(ctx, c.store, id, seen.Seq)
	switch {
	case away(err):
		return err
	case err != nil:
		err = fmt.Errorf("%w: of an identity, this device saw statement %s, which the store does not show", log.ErrRollback, seen)
	case log.Hash(state.Head.Hash) != seen.Hash:
		err = fmt.Errorf("%w: of an identity, this device saw statement %s, now there is another", log.ErrFork, seen)
	default:
		return nil
	}
	c.problem(KindRefused, atIdentity(id, seen.Seq), err.Error())
	if c.refused == nil {
		c.refused = err
	}
	return nil
}

// maxChain bounds how far below the newest known point a chain is read: whoever
// signs for themselves may choose any number.
const maxChain = 4096

// identity reads a chain object by object, to behind the newest that is known.
func (c *checker) identity(ctx context.Context, id keys.IdentityID) error {
	known := c.points[id]
	var top, from uint64
	for seq := range known {
		top = max(top, seq)
	}
	if top > maxChain {
		from = top - maxChain
		c.note(KindIdentity, atIdentity(id, from), "the chain is read from here on")
	}
	var prev *keys.IdentityState
	for seq := from; ; seq++ {
		_, state, err := log.FetchIdentity(ctx, c.store, id, seq)
		if away(err) {
			return err
		}
		if err != nil && seq > top {
			if !errors.Is(err, backend.ErrNotExist) {
				c.problem(KindIdentity, atIdentity(id, seq), "does not verify")
			}
			return nil
		}
		if err != nil {
			state = nil
			what := "does not verify"
			if errors.Is(err, backend.ErrNotExist) {
				what = "missing"
			}
			c.problem(KindIdentity, atIdentity(id, seq), what)
		} else {
			c.follow(prev, state, known)
		}
		prev = state
	}
}

func (c *checker) follow(prev, state *keys.IdentityState, known map[uint64]log.Hash) {
	c.report.Identities++
	where := atIdentity(state.ID, state.Head.Seq)
	if hash, ok := known[state.Head.Seq]; ok && hash != log.Hash(state.Head.Hash) {
		c.problem(KindIdentity, where, "is not the one that the log or the keyfile names")
	}
	if prev != nil && state.Follows(prev) != nil {
		c.problem(KindIdentity, where, "does not continue the one before")
	}
}

// loneIdentities verifies, each by itself, objects of identities that the log
// does not name.
func (c *checker) loneIdentities(ctx context.Context) error {
	for id, seqs := range c.listing.ids {
		if _, ok := c.points[id]; ok {
			continue
		}
		slices.Sort(seqs)
		for _, seq := range seqs {
			_, _, err := log.FetchIdentity(ctx, c.store, id, seq)
			switch {
			case away(err):
				return err
			case errors.Is(err, backend.ErrNotExist): // the listing was wrong, or it is gone
			case err != nil:
				c.problem(KindIdentity, atIdentity(id, seq), "does not verify")
			default:
				c.report.Identities++
			}
		}
	}
	return nil
}
