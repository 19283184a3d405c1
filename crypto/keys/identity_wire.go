package keys

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hpke"
	"encoding/binary"
	"fmt"
	"slices"
)

const (
	identityMagic = "KISTIDEN\x01\x01" // version 1, suite 1: Ed25519, X-Wing

	maxUserKeys = 64
	maxDevices  = 1024

	// UserKeySize is the length of a public encryption key.
	UserKeySize = 1216
	// MaxIdentity is the largest identity object.
	MaxIdentity = len(identityMagic) + 32 + 8 + 32 + 4 + maxUserKeys*(4+UserKeySize) +
		4 + maxDevices*(32+8+8+4+MaxName) + ed25519.SignatureSize
)

func (s *IdentityState) statement() []byte {
	b := append([]byte(identityMagic), s.Master...)
	b = binary.BigEndian.AppendUint64(b, s.Head.Seq)
	b = append(b, s.Prev[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(s.UserKeys)))
	for i, k := range s.UserKeys {
		b = append(binary.BigEndian.AppendUint32(b, uint32(i+1)), k...)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(s.Devices)))
	for _, d := range s.Devices {
		b = append(b, d.Public...)
		b = binary.BigEndian.AppendUint64(b, d.Since)
		b = binary.BigEndian.AppendUint64(b, d.Until)
		b = appendLP(b, []byte(d.Name))
	}
	return b
}

// ParseIdentity reads and verifies the object ids/<id>/<seq>. The only error is
// [ErrIdentity]; what it returns is genuine, and as new as seq says.
func ParseIdentity(id IdentityID, seq uint64, raw []byte) (*IdentityState, error) {
	if len(raw) > MaxIdentity || len(raw) < ed25519.SignatureSize {
		return nil, fmt.Errorf("%w: bad length", ErrIdentity)
	}
	raw = slices.Clone(raw)
	cut := len(raw) - ed25519.SignatureSize
	statement, sig := raw[:cut:cut], raw[cut:]
	s, ok := parseStatement(statement)
	if !ok {
		return nil, fmt.Errorf("%w: bad layout", ErrIdentity)
	}
	if identityOf(s.Master) != id || s.Head.Seq != seq {
		return nil, fmt.Errorf("%w: it stands under a name that is not its own", ErrIdentity)
	}
	if verify(s.Master, statementMessage(statement), sig) != nil {
		return nil, fmt.Errorf("%w: bad signature", ErrIdentity)
	}
	if !s.sound() {
		return nil, fmt.Errorf("%w: a key or its time is not allowed", ErrIdentity)
	}
	s.ID, s.Head.Hash = id, hashOf(raw)
	return s, nil
}

func parseStatement(statement []byte) (*IdentityState, bool) {
	w := wire{rest: statement}
	w.is(identityMagic)
	s := &IdentityState{Master: w.take(ed25519.PublicKeySize)}
	s.Head.Seq, s.Prev = w.u64(), w.b32()
	for i := range w.count(maxUserKeys) {
		w.require(w.u32() == uint32(i+1))
		s.UserKeys = append(s.UserKeys, w.take(UserKeySize))
	}
	for range w.count(maxDevices) {
		s.Devices = append(s.Devices, Device{
			Public: w.take(ed25519.PublicKeySize),
			Since:  w.u64(), Until: w.u64(),
			Name: string(w.lp(MaxName)),
		})
	}
	return s, w.end()
}

// sound checks what the statement says. It comes after the signature, so that
// strangers cannot make us compute.
func (s *IdentityState) sound() bool {
	if len(s.UserKeys) == 0 || (s.Head.Seq == 0) != (s.Prev == [32]byte{}) {
		return false
	}
	for _, k := range s.UserKeys {
		if _, err := userKeyOf(k); err != nil {
			return false
		}
	}
	seen := map[string]bool{string(s.Master): true}
	since := uint64(0)
	for _, d := range s.Devices {
		inTime := since <= d.Since && d.Since <= s.Head.Seq &&
			(d.Until == 0 || d.Since < d.Until && d.Until <= s.Head.Seq)
		if !inTime || seen[string(d.Public)] || !admissible(d.Public) || d.Name != "" && !ValidName(d.Name) {
			return false
		}
		seen[string(d.Public)], since = true, d.Since
	}
	return true
}

// anyScalar finds X25519 keys of low order: multiplying by it gives zero. Parsing
// a hybrid key does not, and sealing to one would fail much later.
var anyScalar = func() *ecdh.PrivateKey {
	k, err := ecdh.X25519().NewPrivateKey(append(make([]byte, 31), 1))
	if err != nil {
		panic("keys: " + err.Error())
	}
	return k
}()

// userKeyOf admits a public encryption key.
func userKeyOf(public []byte) (hpke.PublicKey, error) {
	pk, err := hpke.MLKEM768X25519().NewPublicKey(public)
	if err != nil {
		return nil, ErrIdentity
	}
	point, err := ecdh.X25519().NewPublicKey(public[len(public)-32:])
	if err != nil {
		return nil, ErrIdentity
	}
	if _, err := anyScalar.ECDH(point); err != nil {
		return nil, ErrIdentity
	}
	return pk, nil
}
