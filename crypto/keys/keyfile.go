package keys

import (
	"crypto/rand"
	"crypto/subtle"
	"fmt"

	"kist/crypto/seal"
)

// Keyfile is a person's sealed secrets: a readable header and two sections under
// one passphrase. It is never changed in place: whatever changes it returns
// another one, to be written beside and renamed over.
type Keyfile struct {
	header header
	main   []byte
	master []byte
}

// NewKeyfile seals a new person's secrets.
func NewKeyfile(stretch Stretcher, p Params, pass []byte, s *Session, m *Master) (*Keyfile, error) {
	k := &Keyfile{header: header{params: p, store: s.Store, user: s.User}}
	if err := k.header.check(); err != nil {
		return nil, err
	}
	rand.Read(k.header.salt[:])
	kek, err := k.kek(stretch, pass)
	if err != nil {
		return nil, err
	}
	defer kek.Wipe()
	if err := k.sealMain(kek, s); err != nil {
		return nil, err
	}
	k.sealMaster(kek, m)
	return k, nil
}

// Store returns the store that the keyfile is for. Nothing vouches for it before
// the keyfile has been opened.
func (k *Keyfile) Store() StoreID { return k.header.store }

// User returns the user name in the header, see [Keyfile.Store].
func (k *Keyfile) User() string { return k.header.user }

// Params returns the cost in the header, which is within bounds.
func (k *Keyfile) Params() Params { return k.header.params }

// For refuses, with [ErrKeyfile], a keyfile of another store.
func (k *Keyfile) For(store StoreID) error {
	if k.header.store != store {
		return fmt.Errorf("%w: it belongs to another store", ErrKeyfile)
	}
	return nil
}

// OpenMain opens the main section: what a mount needs. It fails with
// [ErrPassphrase], or with the Stretcher's error.
func (k *Keyfile) OpenMain(stretch Stretcher, pass []byte) (*Session, error) {
	kek, err := k.kek(stretch, pass)
	if err != nil {
		return nil, err
	}
	defer kek.Wipe()
	return k.openMain(kek)
}

// OpenMaster opens both sections. Wipe the Master when the command is done.
func (k *Keyfile) OpenMaster(stretch Stretcher, pass []byte) (*Master, *Session, error) {
	kek, err := k.kek(stretch, pass)
	if err != nil {
		return nil, nil, err
	}
	defer kek.Wipe()
	return k.openBoth(kek)
}

// Update opens the main section, lets change work on it and seals it again. If
// change fails, its error is returned and k is what counts.
func (k *Keyfile) Update(stretch Stretcher, pass []byte, change func(*Session) error) (*Keyfile, error) {
	kek, err := k.kek(stretch, pass)
	if err != nil {
		return nil, err
	}
	defer kek.Wipe()
	s, err := k.openMain(kek)
	if err != nil {
		return nil, err
	}
	defer s.Wipe()
	if err := change(s); err != nil {
		return nil, err
	}
	s.Version++
	next := &Keyfile{header: k.header, master: k.master}
	if err := next.sealMain(kek, s); err != nil {
		return nil, err
	}
	return next, nil
}

// Export returns the keyfile without its device section: a device key never
// leaves its machine.
func (k *Keyfile) Export(stretch Stretcher, pass []byte) (*Keyfile, error) {
	return k.Update(stretch, pass, func(s *Session) error {
		s.dropDevice()
		return nil
	})
}

// WithDevice returns the keyfile with a new device for this machine, whose key is
// still to be certified. A bad name is [ErrInput].
func (k *Keyfile) WithDevice(stretch Stretcher, pass []byte, name string, machine [32]byte) (*Keyfile, error) {
	return k.Update(stretch, pass, func(s *Session) error { return s.SetDevice(name, machine) })
}

// Reseal returns the keyfile under another passphrase or cost, with a new salt.
// Copies of the old one still open with the old passphrase.
func (k *Keyfile) Reseal(stretch Stretcher, pass, newPass []byte, p Params) (*Keyfile, error) {
	m, s, err := k.OpenMaster(stretch, pass)
	if err != nil {
		return nil, err
	}
	defer m.Wipe()
	defer s.Wipe()
	s.Version++
	return NewKeyfile(stretch, p, newPass, s, m)
}

// kek stretches the passphrase into the key of both sections.
func (k *Keyfile) kek(stretch Stretcher, pass []byte) (seal.Key, error) {
	if len(pass) == 0 || len(pass) > MaxPassphrase {
		return seal.Key{}, ErrInput
	}
	h := &k.header
	x, err := stretch(h.params, h.salt[:], []byte(h.user), pass)
	if err != nil {
		return seal.Key{}, err
	}
	defer x.Wipe()
	ctx := append(h.store[:len(h.store):len(h.store)], h.user...)
	return seal.DeriveKey(x, seal.LabelPassphraseKey, ctx), nil
}

// sealMain refuses, with [ErrInput], what could not be opened again.
func (k *Keyfile) sealMain(kek seal.Key, s *Session) error {
	pt := s.encode()
	defer clear(pt)
	if _, ok := decodeSession(pt); !ok {
		return ErrInput
	}
	k.main = seal.SealK(kek, seal.LabelKeyfile, k.header.encode(), pt)
	return nil
}

func (k *Keyfile) openMain(kek seal.Key) (*Session, error) {
	pt, err := seal.OpenK(kek, seal.LabelKeyfile, k.header.encode(), k.main)
	if err != nil {
		return nil, ErrPassphrase
	}
	defer clear(pt)
	s, ok := decodeSession(pt)
	if !ok {
		return nil, ErrPassphrase
	}
	s.Store, s.User = k.header.store, k.header.user
	return s, nil
}

func (k *Keyfile) sealMaster(kek seal.Key, m *Master) {
	k.master = seal.SealK(kek, seal.LabelKeyfileMaster, k.header.encode(), m.seed[:])
}

// openBoth compares the two sections: the master key must be the pinned one.
func (k *Keyfile) openBoth(kek seal.Key) (*Master, *Session, error) {
	s, err := k.openMain(kek)
	if err != nil {
		return nil, nil, err
	}
	seed, err := seal.OpenK(kek, seal.LabelKeyfileMaster, k.header.encode(), k.master)
	if err != nil || len(seed) != len(seal.Key{}) {
		s.Wipe()
		return nil, nil, ErrPassphrase
	}
	defer clear(seed)
	m := masterFrom(seal.Key(seed))
	if subtle.ConstantTimeCompare(m.public, s.master) != 1 {
		m.Wipe()
		s.Wipe()
		return nil, nil, ErrPassphrase
	}
	return m, s, nil
}
