package keys

import (
	"crypto/hpke"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"kist/crypto/seal"
)

// WrapSize is the length of a wrapped epoch secret.
const WrapSize = encSize + 32 + 16

const encSize = 1120

// Wrap seals an epoch secret to a public encryption key. info and aad must be the
// same at [Session.Unwrap]; info names the purpose (vault, epoch, owner), aad
// what it must not be cut out of. The key of the recipient is added here.
//
// A wrap says nothing about who made it: accept one only from a signed commit,
// and compare the secret with [EpochCommitment].
func Wrap(public []byte, es seal.Key, info, aad []byte) ([]byte, error) {
	pk, err := userKeyOf(public)
	if err != nil {
		return nil, err
	}
	enc, sender, err := hpke.NewSender(pk, hpke.HKDFSHA256(), hpke.AES256GCM(), wrapInfo(public, info))
	if err != nil {
		return nil, fmt.Errorf("cannot wrap a key for a member: %w", err)
	}
	ct, err := sender.Seal(aad, es[:])
	if err != nil {
		return nil, fmt.Errorf("cannot wrap a key for a member: %w", err)
	}
	return append(enc, ct...), nil
}

// Unwrap opens a wrap with whichever of the person's encryption keys it was made
// for. The only error is seal.ErrUnseal, which also means: not for this person.
func (s *Session) Unwrap(wrapped, info, aad []byte) (seal.Key, error) {
	if len(wrapped) != WrapSize {
		return seal.Key{}, seal.ErrUnseal
	}
	for i := len(s.userKeys) - 1; i >= 0; i-- {
		if es, err := unwrap(s.userKeys[i], wrapped, info, aad); err == nil {
			return es, nil
		}
	}
	return seal.Key{}, seal.ErrUnseal
}

func unwrap(seed seal.Key, wrapped, info, aad []byte) (seal.Key, error) {
	private := userPrivate(seed)
	enc, ct := wrapped[:encSize], wrapped[encSize:]
	r, err := hpke.NewRecipient(enc, private, hpke.HKDFSHA256(), hpke.AES256GCM(), wrapInfo(private.PublicKey().Bytes(), info))
	if err != nil {
		return seal.Key{}, seal.ErrUnseal
	}
	es, err := r.Open(aad, ct)
	if err != nil || len(es) != len(seal.Key{}) {
		return seal.Key{}, seal.ErrUnseal
	}
	defer clear(es)
	return seal.Key(es), nil
}

func wrapInfo(public, info []byte) []byte {
	sum := sha256.Sum256(public)
	out := append([]byte(nil), seal.LabelWrap...)
	out = append(append(out, 0), sum[:]...)
	return append(out, info...)
}

// EpochCommitment fixes an epoch secret without showing it: members compare it
// with the one in the signed commit, so that all hold the same secret.
func EpochCommitment(es seal.Key, vault seal.VaultID, epoch uint32) [32]byte {
	ctx := binary.BigEndian.AppendUint32(vault[:len(vault):len(vault)], epoch)
	return [32]byte(seal.Derive(es, seal.LabelEpochCommitment, ctx, 32))
}

func userPrivate(seed seal.Key) hpke.PrivateKey {
	private, err := hpke.MLKEM768X25519().NewPrivateKey(seed[:])
	if err != nil {
		panic("keys: " + err.Error()) // 32 bytes are always a key
	}
	return private
}
