package keys

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"slices"
)

// IdentityState is what a verified identity object says: all keys that ever were
// this person's, with the time of each.
type IdentityState struct {
	ID     IdentityID
	Master ed25519.PublicKey
	Head   Head     // of this object
	Prev   [32]byte // hash of the object before, zero at sequence 0
	// UserKeys are the encryption keys; the version is the index plus one. The last
	// one is in use, the earlier ones open old wraps.
	UserKeys [][]byte
	Devices  []Device // in the order in which they came
}

// Device is a device key with its time in the chain's sequence numbers.
type Device struct {
	Public ed25519.PublicKey
	Name   string // readable by the store; may be empty
	Since  uint64
	Until  uint64 // the sequence that revoked it, 0 if in force
}

// ID returns the device's id.
func (d Device) ID() DeviceID { return deviceOf(d.Public) }

// At reports whether the device was in force at a sequence of the chain.
func (d Device) At(seq uint64) bool { return d.Since <= seq && (d.Until == 0 || seq < d.Until) }

// Device returns the device of that id, revoked or not.
func (s *IdentityState) Device(id DeviceID) (Device, bool) {
	for _, d := range s.Devices {
		if d.ID() == id {
			return d, true
		}
	}
	return Device{}, false
}

// DeviceKey returns the key of a device that is in force in this state.
func (s *IdentityState) DeviceKey(id DeviceID) (ed25519.PublicKey, bool) {
	return s.DeviceKeyAt(id, s.Head.Seq)
}

// DeviceKeyAt returns the key of a device that was in force at an earlier
// sequence: what a commit signed then is checked with.
func (s *IdentityState) DeviceKeyAt(id DeviceID, seq uint64) (ed25519.PublicKey, bool) {
	d, ok := s.Device(id)
	if !ok || seq > s.Head.Seq || !d.At(seq) {
		return nil, false
	}
	return d.Public, true
}

// UserKey returns the encryption key in use and its version.
func (s *IdentityState) UserKey() (version uint32, public []byte) {
	return uint32(len(s.UserKeys)), s.UserKeys[len(s.UserKeys)-1]
}

// Follows checks that s is the object right after prev and takes nothing back.
func (s *IdentityState) Follows(prev *IdentityState) error {
	switch {
	case s.ID != prev.ID:
		return fmt.Errorf("%w: it belongs to somebody else", ErrIdentity)
	case s.Head.Seq != prev.Head.Seq+1 || s.Prev != prev.Head.Hash:
		return fmt.Errorf("%w: it does not continue the one known", ErrIdentity)
	case !s.extends(prev):
		return fmt.Errorf("%w: it takes back what was certified or revoked", ErrIdentity)
	}
	return nil
}

func (s *IdentityState) extends(prev *IdentityState) bool {
	if len(s.UserKeys) < len(prev.UserKeys) || len(s.Devices) < len(prev.Devices) {
		return false
	}
	for i, k := range prev.UserKeys {
		if string(s.UserKeys[i]) != string(k) {
			return false
		}
	}
	for i, old := range prev.Devices {
		now := s.Devices[i]
		kept := string(now.Public) == string(old.Public) && now.Name == old.Name && now.Since == old.Since
		if !kept || now.Until != old.Until && (old.Until != 0 || now.Until != s.Head.Seq) {
			return false
		}
	}
	for _, d := range s.Devices[len(prev.Devices):] {
		if d.Since != s.Head.Seq || d.Until != 0 {
			return false
		}
	}
	return true
}

// Change is what a new identity object adds to the one before.
type Change struct {
	UserKey []byte      // a new encryption key, from [Session.AddUserKey]; nil if none
	Devices []NewDevice // to be certified
	Revoke  []DeviceID  // in force until now
}

// NewDevice is a device to be certified. The store can read the name; it may be
// empty.
type NewDevice struct {
	Public ed25519.PublicKey
	Name   string
}

// Certify signs the object that follows prev; prev is nil for the first, which
// must bring an encryption key. What it returns has been parsed back.
func (m *Master) Certify(prev *IdentityState, c Change) ([]byte, *IdentityState, error) {
	next := &IdentityState{ID: m.Identity(), Master: m.PublicKey()}
	if prev != nil {
		if prev.ID != next.ID {
			return nil, nil, fmt.Errorf("%w: it is not this master key's", ErrIdentity)
		}
		next.Head.Seq, next.Prev = prev.Head.Seq+1, prev.Head.Hash
		next.UserKeys, next.Devices = slices.Clone(prev.UserKeys), slices.Clone(prev.Devices)
	}
	for _, id := range c.Revoke {
		if err := next.revoke(id); err != nil {
			return nil, nil, err
		}
	}
	for _, d := range c.Devices {
		next.Devices = append(next.Devices, Device{Public: d.Public, Name: d.Name, Since: next.Head.Seq})
	}
	if c.UserKey != nil {
		next.UserKeys = append(next.UserKeys, c.UserKey)
	}
	raw := m.sign(next.statement())
	state, err := ParseIdentity(next.ID, next.Head.Seq, raw)
	if err != nil {
		return nil, nil, err
	}
	return raw, state, nil
}

func (s *IdentityState) revoke(id DeviceID) error {
	for i := range s.Devices {
		if s.Devices[i].ID() == id && s.Devices[i].Until == 0 {
			s.Devices[i].Until = s.Head.Seq
			return nil
		}
	}
	return fmt.Errorf("device %.16s is not in force, so it cannot be revoked; nothing was signed", id)
}

// hashOf is the hash by which an object is chained and remembered.
func hashOf(raw []byte) [32]byte { return sha256.Sum256(raw) }
