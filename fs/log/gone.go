package log

import (
	"context"
	"errors"
	"fmt"

	"kist/backend"
)

// gone tells junk from loss. A commit that is void although a writer's device
// signed it as the next after a commit in a slot that is void, too, is proof that
// one stood there: to step over both would be to leave the history that others
// are in. Nothing in the proof can be made by a reader or a stranger, so that they
// can't block the chain with it; what is no proof is left void.
func (l *Log) gone(ctx context.Context, raw []byte, seq uint64, b before) error {
	o, err := parseObject(raw, l.vault, seq)
	if err != nil || b.prev == nil || o.epoch != b.roster.Roster.Epoch {
		return nil
	}
	bd, sig, err := l.unseal(o)
	if err != nil {
		return nil
	}
	slot, ok := b.follows(o, bd)
	if !ok || !b.rosterFits(o, bd) || !allowed(b.roster.Roster.role(bd.author), bd.kind) || b.checkFloor(bd) != nil {
		return nil
	}
	known, _ := findPoint(b.points(), bd.author)
	err = l.checkAuthor(ctx, o, bd, sig)
	if isBad(err) || bd.point != known && absent(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("commit %s was signed as the next after one in slot %d (%s) that the store does not show; what verifies ends at commit %s; nothing was changed: %w",
		Head{seq, o.hash}, slot, o.prev.Short(), b.prev.Head, ErrWithheld)
}

// follows returns the slot of the commit that this one was signed after, if that
// slot is void. With the hash of a commit that is known, the author only named
// void slots wrongly.
func (b before) follows(o *object, bd *body) (uint64, bool) {
	n := uint64(len(bd.voids))
	if n >= o.seq || n > 0 && bd.voids[n-1].Seq+1 != o.seq || o.prev == b.prev.Hash || o.prev == b.prev.Prev {
		return 0, false
	}
	return o.seq - 1 - n, b.isVoid(o.seq - 1 - n)
}

// isVoid reports whether a slot is one of those since the commit before, or of
// those that it names itself.
func (b before) isVoid(slot uint64) bool {
	p := b.prev.Seq
	return slot > p && slot-p <= uint64(len(b.voids)) || slot < p && p-slot <= uint64(len(b.prev.Voids))
}

// rosterFits: made under the roster in force, or one that is gone with its slot.
func (b before) rosterFits(o *object, bd *body) bool {
	if bd.genesis != nil || bd.rosterAt.Seq != o.roster {
		return false
	}
	return bd.rosterAt == b.roster.Head || b.isVoid(o.roster)
}

// absent: a point that only the commit itself names has no object. Anybody can
// name one that does not exist, and put something else in its place.
func absent(err error) bool {
	return errors.Is(err, ErrWithheld) || errors.Is(err, backend.ErrNotExist) ||
		errors.Is(err, backend.ErrTooLarge) || errors.Is(err, backend.ErrDenied)
}
