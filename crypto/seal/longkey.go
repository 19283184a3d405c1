package seal

import (
	"crypto/rand"
	"crypto/subtle"
)

// OverheadK is what [SealK] adds to a plaintext.
const OverheadK = headK + overheadGCM

const (
	versionK = 1
	saltK    = 32
	headK    = 2 + saltK + 32
)

// SealK seals pt under a key that seals many things. ctx is associated data. k
// may be used without limit and on clones of one machine: what encrypts is
// derived from k and a fresh salt each time.
func SealK(k Key, label Label, ctx, pt []byte) []byte {
	out := make([]byte, headK, OverheadK+len(pt))
	out[0], out[1] = versionK, suite
	rand.Read(out[2 : 2+saltK])
	ek, kc := splitK(k, label, ctx, out[2:2+saltK])
	defer ek.Wipe()
	copy(out[2+saltK:], kc[:])
	return gcmRandom(&ek).Seal(out, nil, pt, aadK(out, ctx))
}

// OpenK opens what [SealK] sealed with the same k, label and ctx.
//
// The commitment is compared before anything is decrypted: GCM alone accepts
// ciphertexts that were built to open under several keys, which lets an enemy
// test many passphrases with one answer.
func OpenK(k Key, label Label, ctx, sealed []byte) ([]byte, error) {
	if len(sealed) < OverheadK || sealed[0] != versionK || sealed[1] != suite {
		return nil, ErrUnseal
	}
	head, body := sealed[:headK:headK], sealed[headK:]
	ek, kc := splitK(k, label, ctx, head[2:2+saltK])
	defer ek.Wipe()
	if subtle.ConstantTimeCompare(kc[:], head[2+saltK:]) != 1 {
		return nil, ErrUnseal
	}
	return gcmOpen(make([]byte, 0, len(body)-overheadGCM), &ek, aadK(head, ctx), body)
}

// splitK derives the message's own key and the commitment to it.
func splitK(k Key, label Label, ctx, salt []byte) (ek, kc Key) {
	okm := expand(k, salt, label, ctx, 64)
	defer clear(okm)
	return Key(okm[:32]), Key(okm[32:])
}

func aadK(head, ctx []byte) []byte {
	aad := make([]byte, 0, headK+len(ctx))
	return append(append(aad, head[:headK]...), ctx...)
}
