package log

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"kist/crypto/keys"
	"kist/crypto/seal"
)

// secrets are epoch secrets by epoch.
type secrets map[uint32]seal.Key

const (
	historyLen = 32 + seal.OverheadK
	minWraps   = 4
)

// epochContext binds what is derived from an epoch secret to vault and epoch.
func epochContext(vault seal.VaultID, epoch uint32) []byte {
	return binary.BigEndian.AppendUint32(vault[:len(vault):len(vault)], epoch)
}

func commitKey(es seal.Key, vault seal.VaultID, epoch uint32) seal.Key {
	return seal.DeriveKey(es, seal.LabelCommitKey, epochContext(vault, epoch))
}

func historyKey(es seal.Key, vault seal.VaultID, epoch uint32) seal.Key {
	return seal.DeriveKey(es, seal.LabelHistoryKey, epochContext(vault, epoch))
}

// commitment is what a roster says about its epoch's secret. The vault's id is
// a hash over the first one, which therefore can't contain it.
func commitment(es seal.Key, vault seal.VaultID, epoch uint32) [32]byte {
	if epoch == 0 {
		vault = seal.VaultID{}
	}
	return keys.EpochCommitment(es, vault, epoch)
}

// clearPart is the part of a membership commit that is read before it opens.
type clearPart struct {
	roster  [32]byte // hash of the roster
	history []byte   // the epoch secret before, if this commit starts an epoch
	wraps   [][]byte
}

func (c *clearPart) encode() []byte {
	var w writer
	w.bytes(c.roster[:])
	w.field(c.history)
	writeList(&w, c.wraps, w.bytes)
	return w
}

func parseClear(raw []byte) (*clearPart, error) {
	r := &reader{rest: raw}
	c := &clearPart{roster: r.b32(), history: r.field(historyLen)}
	c.wraps = readList(r, MaxMembers, keys.WrapSize, func() []byte { return r.take(keys.WrapSize) })
	if !r.end() || len(c.wraps) != wrapClass(len(c.wraps)) || len(c.history) != 0 && len(c.history) != historyLen {
		return nil, bad("malformed clear part")
	}
	if len(c.history) == 0 {
		c.history = nil
	}
	return c, nil
}

// wrapClass hides the number of members: the next power of two.
func wrapClass(n int) int {
	class := minWraps
	for class < n {
		class *= 2
	}
	return class
}

// makeClear wraps the secret of the roster's epoch to all members. Without the
// secret before there is no history: the epoch goes on, or is the first.
func makeClear(vault seal.VaultID, author keys.IdentityID, r *Roster, members []NewMember, es seal.Key, before *seal.Key) ([]byte, error) {
	c := &clearPart{roster: r.hash(author)}
	info := epochContext(vault, r.Epoch)
	if before != nil {
		c.history = seal.SealK(historyKey(es, vault, r.Epoch), seal.LabelHistory, info, before[:])
	}
	for _, m := range members {
		_, public := m.State.UserKey()
		wrap, err := keys.Wrap(public, es, info, c.roster[:])
		if err != nil {
			return nil, err
		}
		c.wraps = append(c.wraps, wrap)
	}
	for range wrapClass(len(members)) - len(members) {
		c.wraps = append(c.wraps, noWrap())
	}
	shuffle(c.wraps)
	return c.encode(), nil
}

// noWrap looks like a wrap: its KEM's last value is an X25519 point, whose
// highest bit is never set.
func noWrap() []byte {
	b := make([]byte, keys.WrapSize)
	rand.Read(b)
	b[1119] &= 0x7f
	return b
}

func shuffle(items [][]byte) {
	for i := len(items) - 1; i > 0; i-- {
		var b [8]byte
		rand.Read(b[:])
		j := binary.BigEndian.Uint64(b[:]) % uint64(i+1)
		items[i], items[j] = items[j], items[i]
	}
}

var errNoWrap = errors.New("no wrap opens")

// learn adds to sec what the clear part of a membership commit gives away to
// this identity. Nothing of it may be used before the commit was judged and
// the secret compared with its commitment.
func learn(s *keys.Session, sec secrets, o *object) error {
	c, err := parseClear(o.clear)
	if err != nil {
		return err
	}
	epoch := o.epoch
	if c.history != nil {
		epoch++
	}
	info := epochContext(o.vault, epoch)
	es, ok := sec[epoch]
	for i := 0; i < len(c.wraps) && !ok; i++ {
		es, err = s.Unwrap(c.wraps[i], info, c.roster[:])
		ok = err == nil
	}
	if !ok {
		return errNoWrap
	}
	sec[epoch] = es
	if c.history == nil {
		return nil
	}
	pt, err := seal.OpenK(historyKey(es, o.vault, epoch), seal.LabelHistory, info, c.history)
	if err != nil || len(pt) != len(es) {
		return bad("the history does not open")
	}
	if _, ok := sec[o.epoch]; !ok {
		sec[o.epoch] = seal.Key(pt)
	}
	return nil
}

// holds checks the secret of the roster's epoch against what its owner signed.
func (sec secrets) holds(vault seal.VaultID, r *Roster) error {
	es, ok := sec[r.Epoch]
	if !ok {
		return fmt.Errorf("epoch %d: %w", r.Epoch, ErrNotMember)
	}
	if commitment(es, vault, r.Epoch) != r.ESCommit {
		return fmt.Errorf("epoch %d: the wrapped key is not the one that was signed: %w", r.Epoch, ErrNotMember)
	}
	return nil
}
