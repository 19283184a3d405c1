package keys

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"slices"

	"kist/crypto/seal"
)

const (
	keyfileMagic   = "KISTKEYF"
	keyfileVersion = 1
	kdfArgon2id    = 1
	mainVersion    = 1
	masterSection  = seal.OverheadK + 32

	// MaxKeyfile is the largest keyfile.
	MaxKeyfile = 64 << 10
)

// header is the readable part of a keyfile. All of it is context of both seals.
type header struct {
	params Params
	salt   [saltSize]byte
	store  StoreID
	user   string
}

func (h *header) check() error {
	if !ValidName(h.user) {
		return fmt.Errorf("%w: its user name is not allowed", ErrKeyfile)
	}
	return h.params.Check()
}

func (h *header) encode() []byte {
	b := append([]byte(keyfileMagic), keyfileVersion, kdfArgon2id)
	b = appendParams(b, h.params)
	b = append(b, h.salt[:]...)
	b = append(b, h.store[:]...)
	return appendLP(b, []byte(h.user))
}

// Bytes returns the keyfile as it is written.
func (k *Keyfile) Bytes() []byte {
	return append(appendLP(k.header.encode(), k.main), k.master...)
}

// ParseKeyfile reads a keyfile's layout and bounds; nothing is opened yet. The
// only error is [ErrKeyfile].
func ParseKeyfile(raw []byte) (*Keyfile, error) {
	if len(raw) > MaxKeyfile {
		return nil, fmt.Errorf("%w: it is too long", ErrKeyfile)
	}
	w := wire{rest: slices.Clone(raw)}
	if w.is(keyfileMagic); w.short {
		return nil, fmt.Errorf("%w: it is not one", ErrKeyfile)
	}
	if version, kdf := w.u8(), w.u8(); version != keyfileVersion || kdf != kdfArgon2id {
		return nil, fmt.Errorf("%w: it is of another version of the format", ErrKeyfile)
	}
	k := &Keyfile{header: header{params: w.params(), salt: w.b16(), store: w.b32(), user: string(w.lp(MaxName))}}
	k.main = w.lp(MaxKeyfile)
	k.master = w.take(masterSection)
	if !w.end() {
		return nil, fmt.Errorf("%w: its length is wrong", ErrKeyfile)
	}
	if err := k.header.check(); err != nil {
		return nil, err
	}
	return k, nil
}

// encode is the plaintext of the main section. Beside each seed stands its public
// half or a hash of it, to be compared when it is opened.
func (s *Session) encode() []byte {
	b := make([]byte, 0, 512+len(s.userKeys)*(4+32+sha256.Size)) // never moves: one copy to wipe
	b = append(b, mainVersion)
	b = binary.BigEndian.AppendUint64(b, s.Version)
	b = append(b, s.master...)
	b = binary.BigEndian.AppendUint64(b, s.Head.Seq)
	b = append(b, s.Head.Hash[:]...)
	b = append(b, s.TopVault[:]...)
	b = append(b, s.mk[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(s.userKeys)))
	for i, seed := range s.userKeys {
		b = binary.BigEndian.AppendUint32(b, uint32(i+1))
		b = append(b, seed[:]...)
		b = append(b, userKeyHash(seed)...)
	}
	if !s.HasDevice() {
		return append(b, 0)
	}
	b = append(b, 1)
	b = append(b, s.device[:]...)
	b = append(b, s.DevicePublic()...)
	b = append(b, s.installed[:]...)
	b = append(b, s.State[:]...)
	b = append(b, s.Machine[:]...)
	return appendLP(b, []byte(s.DeviceName))
}

func decodeSession(pt []byte) (*Session, bool) {
	w := wire{rest: pt}
	w.require(w.u8() == mainVersion)
	s := &Session{Version: w.u64(), master: slices.Clone(w.take(ed25519.PublicKeySize))}
	s.Head = Head{Seq: w.u64(), Hash: w.b32()}
	s.TopVault, s.mk = w.b32(), w.b32()
	for i := range w.count(maxUserKeys) {
		w.require(w.u32() == uint32(i+1))
		seed := seal.Key(w.b32())
		w.matches(userKeyHash(seed), w.take(sha256.Size))
		s.userKeys = append(s.userKeys, seed)
	}
	switch w.u8() {
	case 0:
	case 1:
		w.device(s)
	default:
		w.fail()
	}
	w.require(len(s.userKeys) > 0 && admissible(s.master))
	s.Identity = identityOf(s.master)
	return s, w.end()
}

func (w *wire) device(s *Session) {
	s.device = w.b32()
	public := w.take(ed25519.PublicKeySize)
	w.matches(publicOf(s.device), public)
	s.Device = deviceOf(public)
	s.installed, s.State, s.Machine = w.b32(), w.b16(), w.b32()
	s.DeviceName = string(w.lp(MaxName))
	w.require(ValidName(s.DeviceName))
}

// matches compares what was computed anew with what was stored.
func (w *wire) matches(computed, stored []byte) {
	w.require(subtle.ConstantTimeCompare(computed, stored) == 1)
}

func userKeyHash(seed seal.Key) []byte {
	sum := sha256.Sum256(userPrivate(seed).PublicKey().Bytes())
	return sum[:]
}
