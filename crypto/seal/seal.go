// Package seal turns bytes into sealed bytes and back. It is stateless and
// knows neither files nor stores nor people.
//
// There are three forms. Which one to use follows from the life of the key:
//
//   - [SealBlob]: a key used once, made here, to be kept in the parent's
//     pointer. Everything that goes into packs.
//   - [SealK]: a key used many times. The output commits to the key, so that
//     nobody can make one ciphertext that opens under two of them.
//   - [Stream]: a key of one local file, made for it and never used again, with
//     the record number as nonce.
//
// What it promises:
//
//   - Associated data is a required argument everywhere: what was sealed as one
//     thing does not open as another.
//   - Nothing is returned before everything has been checked, and every failure
//     to open is [ErrUnseal], without a reason: whoever feeds us altered bytes
//     learns one bit. There is no way to switch a check off.
//   - No counters and no convergence: all keys, salts and nonces are fresh from
//     the operating system ([Stream] alone counts, and says why it may).
//   - Opening never allocates more than the caller's stated length and the
//     sealed bytes at hand warrant.
//   - A [Key] never shows itself: all forms of printing, JSON and slog yield
//     "[redacted]". A struct that holds a Key in an unexported field escapes
//     this, because fmt does not call methods there: such a type must redact
//     itself.
//
// Nobody is trusted: sealed bytes come from an enemy, and so may the lengths and
// codecs that were sealed by another member. Returned slices belong to the
// caller; arguments are not kept. All functions may be called concurrently.
//
// Panics mean a bug in the caller (a blob larger than [MaxPlain] is an error,
// not a panic) or a platform without AES-GCM.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"errors"
)

// ErrUnseal is the only error of opening: the bytes are not what was sealed
// with this key for this purpose.
var ErrUnseal = errors.New("sealed data was altered, or belongs elsewhere; nothing was read from it")

// Fingerprint is the SHA-256 of sealed bytes. It is public.
type Fingerprint [sha256.Size]byte

// VaultID names a vault. To this package it is opaque associated data.
type VaultID [32]byte

// FingerprintOf returns the fingerprint of sealed bytes.
func FingerprintOf(sealed []byte) Fingerprint { return sha256.Sum256(sealed) }

const (
	suite       = 1 // AES-256-GCM, SHA-256
	overheadGCM = 12 + 16
)

// testingOnlyBeforeOpen lets a test count decryptions.
var testingOnlyBeforeOpen = func() {}

// gcmRandom returns AES-256-GCM that draws its nonces itself and writes them in
// front. Both errors are impossible for a 32-byte key.
func gcmRandom(key *Key) cipher.AEAD {
	aead, err := cipher.NewGCMWithRandomNonce(newAES(key))
	if err != nil {
		panic("seal: " + err.Error())
	}
	return aead
}

func newAES(key *Key) cipher.Block {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic("seal: " + err.Error())
	}
	return block
}

// gcmOpen appends the plaintext to dst. The key must be fixed by a fingerprint
// or by a commitment before it is called.
func gcmOpen(dst []byte, key *Key, aad, sealed []byte) ([]byte, error) {
	testingOnlyBeforeOpen()
	pt, err := gcmRandom(key).Open(dst, nil, sealed, aad)
	if err != nil {
		return nil, ErrUnseal
	}
	return pt, nil
}

// NewKey returns a fresh random key.
func NewKey() Key {
	var k Key
	rand.Read(k[:])
	return k
}
