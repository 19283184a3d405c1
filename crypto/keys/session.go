package keys

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"

	"kist/crypto/seal"
)

// Session is an opened keyfile without the master key: everything a mount needs.
// The exported fields are not secret; Head and TopVault are the caller's to set,
// within [Keyfile.Update], the others are for reading.
type Session struct {
	Store    StoreID
	User     string
	Identity IdentityID
	Version  uint64 // of the keyfile, one more with each change
	Head     Head   // of the identity chain, as last recorded
	TopVault seal.VaultID

	// Zero without a device, see HasDevice.
	Device     DeviceID
	DeviceName string
	State      [16]byte // names this machine's state folder
	Machine    [32]byte // hash of the machine the device was made on

	master    ed25519.PublicKey
	mk        seal.Key
	userKeys  []seal.Key // seeds, by version
	device    seal.Key   // seed
	installed seal.Key   // parent of the local keys
}

// NewSession makes the secrets of a new person: a first encryption key, no device
// yet. It becomes durable through [NewKeyfile].
func NewSession(store StoreID, user string, m *Master) *Session {
	return &Session{
		Store: store, User: user, Identity: m.Identity(),
		master: m.PublicKey(), mk: seal.NewKey(), userKeys: []seal.Key{seal.NewKey()},
	}
}

// SetDevice makes a device of this machine: new device key, new local keys, new
// state id. Whatever was sealed under the former local keys is lost. The key
// still has to be certified, see DevicePublic. A bad name is [ErrInput].
func (s *Session) SetDevice(name string, machine [32]byte) error {
	if !ValidName(name) {
		return ErrInput
	}
	s.device, s.installed = seal.NewKey(), seal.NewKey()
	rand.Read(s.State[:])
	s.Machine, s.DeviceName = machine, name
	s.Device = deviceOf(publicOf(s.device))
	return nil
}

func (s *Session) dropDevice() {
	s.device.Wipe()
	s.installed.Wipe()
	s.Device, s.DeviceName = DeviceID{}, ""
	s.State, s.Machine = [16]byte{}, [32]byte{}
}

// HasDevice reports whether there is a device section. Without one, Sign and the
// local keys panic.
func (s *Session) HasDevice() bool { return s.Device != DeviceID{} }

// DevicePublic returns the device's public key.
func (s *Session) DevicePublic() ed25519.PublicKey {
	s.needDevice()
	return publicOf(s.device)
}

// Sign signs with the device key; [VerifyDevice] checks.
func (s *Session) Sign(label seal.Label, msg []byte) []byte {
	s.needDevice()
	return signWith(s.device, seal.SigMessage(label, msg))
}

// MasterPublic returns the pinned master public key.
func (s *Session) MasterPublic() ed25519.PublicKey {
	return append(ed25519.PublicKey(nil), s.master...)
}

// UserPublic returns the encryption key in use and its version.
func (s *Session) UserPublic() (version uint32, public []byte) {
	n := len(s.userKeys)
	return uint32(n), userPrivate(s.userKeys[n-1]).PublicKey().Bytes()
}

// AddUserKey makes a new encryption key and returns its public half, to be
// certified. The earlier ones stay, to open what was wrapped before.
func (s *Session) AddUserKey() (public []byte) {
	s.userKeys = append(s.userKeys, seal.NewKey())
	_, public = s.UserPublic()
	return public
}

// CacheKey is the key of what the cache keeps on this machine.
func (s *Session) CacheKey() seal.Key {
	s.needDevice()
	return seal.DeriveKey(s.installed, seal.LabelCacheKey, nil)
}

// JournalKey is the key of the journals on this machine.
func (s *Session) JournalKey() seal.Key {
	s.needDevice()
	return seal.DeriveKey(s.installed, seal.LabelJournalKey, nil)
}

// TrustKey is the key of the trust file on this machine.
func (s *Session) TrustKey() seal.Key {
	s.needDevice()
	return seal.DeriveKey(s.installed, seal.LabelTrustKey, nil)
}

// Check compares the newest identity object with the secrets at hand. An error
// means that the store shows an old or foreign chain, or that this device was
// revoked; it is [ErrIdentity].
func (s *Session) Check(st *IdentityState) error {
	switch {
	case st.ID != s.Identity:
		return fmt.Errorf("%w: it is not this user's", ErrIdentity)
	case st.Head.Seq < s.Head.Seq || st.Head.Seq == s.Head.Seq && st.Head != s.Head:
		return fmt.Errorf("%w: the keyfile knows sequence %d of it, the store shows %d or another history",
			ErrIdentity, s.Head.Seq, st.Head.Seq)
	case len(st.UserKeys) < len(s.userKeys):
		return fmt.Errorf("%w: an encryption key of this keyfile is missing in it", ErrIdentity)
	}
	for i, seed := range s.userKeys {
		if string(userPrivate(seed).PublicKey().Bytes()) != string(st.UserKeys[i]) {
			return fmt.Errorf("%w: an encryption key in it is not the one in the keyfile", ErrIdentity)
		}
	}
	if _, ok := st.DeviceKey(s.Device); s.HasDevice() && !ok {
		return fmt.Errorf("%w: this device is not certified in it, or was revoked", ErrIdentity)
	}
	return nil
}

// Wipe overwrites the secrets; the Session is of no use afterwards.
func (s *Session) Wipe() {
	s.mk.Wipe()
	s.device.Wipe()
	s.installed.Wipe()
	clear(s.userKeys)
	s.Device = DeviceID{}
}

func (Session) Format(f fmt.State, _ rune)   { io.WriteString(f, redacted) }
func (Session) MarshalText() ([]byte, error) { return []byte(redacted), nil }
func (Session) LogValue() slog.Value         { return slog.StringValue(redacted) }

func (s *Session) needDevice() {
	if !s.HasDevice() {
		panic("keys: this keyfile has no device")
	}
}
