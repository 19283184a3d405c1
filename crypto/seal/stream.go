package seal

import (
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"io"
)

// OverheadStream is what [Stream.Seal] adds to a record.
const OverheadStream = 16

// Stream seals the numbered records of one local file.
//
// The number is the nonce, and that is safe only because the key is random,
// fresh for this file and never used for another, and because each number is
// used once: two records under one number would give away both. Make the key
// with [NewKey], keep it sealed with [SealK] at the head of the file, and never
// write to a file that an earlier process began.
//
// A Stream may be used concurrently.
type Stream struct{ aead cipher.AEAD }

// NewStream returns the cipher of the file whose fresh key this is.
func NewStream(key Key) *Stream {
	aead, err := cipher.NewGCM(newAES(&key))
	if err != nil {
		panic("seal: " + err.Error()) // only where FIPS mode forbids chosen nonces
	}
	return &Stream{aead}
}

// Seal appends the sealed record n to dst.
func (s *Stream) Seal(dst []byte, n uint64, aad, pt []byte) []byte {
	return s.aead.Seal(dst, nonce(n), pt, aad)
}

// Open appends record n to dst, or returns [ErrUnseal] and nil; the room behind
// dst is then overwritten.
func (s *Stream) Open(dst []byte, n uint64, aad, sealed []byte) ([]byte, error) {
	testingOnlyBeforeOpen()
	pt, err := s.aead.Open(dst, nonce(n), sealed, aad)
	if err != nil {
		return nil, ErrUnseal
	}
	return pt, nil
}

// Format keeps the key schedule out of all printing.
func (*Stream) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

func nonce(n uint64) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 4, 12), n)
}
