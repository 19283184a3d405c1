package seal

import (
	"encoding/binary"
	"fmt"
	"sync"
)

const (
	// MaxPlain is the largest content of a blob.
	MaxPlain = 1 << 20
	// OverheadBlob is what sealing adds to the padded data of a blob.
	OverheadBlob = overheadGCM + headBlob
	// MaxBlob is the largest sealed blob, MinBlob the smallest.
	MaxBlob = MaxPlain + OverheadBlob
	MinBlob = minData + OverheadBlob

	headBlob = 1 + 4 // codec ‖ length of the data
	minData  = 256   // tiny contents all look alike
)

// Blob is a freshly sealed blob: the bytes for a pack, and what the parent's
// pointer must hold about them.
type Blob struct {
	Sealed      []byte
	Key         Key
	Fingerprint Fingerprint
	Codec       uint8
	PlainLen    uint32
}

// scratch holds rooms for one large plaintext each. Small ones are not worth a
// megabyte of a pool.
var scratch = sync.Pool{New: func() any { b := make([]byte, 0, headBlob+MaxPlain); return &b }}

const smallRoom = 64 << 10

func takeRoom(n int) *[]byte {
	if n <= smallRoom {
		b := make([]byte, 0, n)
		return &b
	}
	return scratch.Get().(*[]byte)
}

func giveRoom(b *[]byte) {
	if cap(*b) > smallRoom {
		scratch.Put(b)
	}
}

// SealBlob seals data under a fresh random key as a blob of the given kind and
// vault, compressed where that saves a sixteenth. The only error is data beyond
// [MaxPlain].
func SealBlob(vault VaultID, kind uint8, data []byte) (Blob, error) {
	if len(data) > MaxPlain {
		return Blob{}, fmt.Errorf("a blob of %d bytes is beyond the limit of %d; nothing was sealed", len(data), MaxPlain)
	}
	room := takeRoom(headBlob + paddedData(len(data)))
	defer giveRoom(room)

	pt, codec := encode((*room)[:headBlob], data)
	pt[0] = codec
	n := len(pt) - headBlob
	binary.BigEndian.PutUint32(pt[1:], uint32(n))
	pt = appendZeros(pt, paddedData(n)-n)

	b := Blob{Key: NewKey(), Codec: codec, PlainLen: uint32(len(data))}
	b.Sealed = gcmRandom(&b.Key).Seal(make([]byte, 0, overheadGCM+len(pt)), nil, pt, blobAAD(vault, kind))
	b.Fingerprint = FingerprintOf(b.Sealed)
	return b, nil
}

// OpenBlob returns the content of a blob, of which everything but the sealed
// bytes comes from the parent's pointer. It checks, in this order: the sealed
// length, the fingerprint, the seal, codec and length, the padding; then it
// decompresses, never beyond plainLen. The only error is [ErrUnseal].
//
// The fingerprint comes before the seal because GCM does not commit to its key,
// and because whoever may read a vault knows the keys of its blobs.
func OpenBlob(vault VaultID, kind, codec uint8, plainLen uint32, fp Fingerprint, key *Key, sealed []byte) ([]byte, error) {
	if len(sealed) < MinBlob || len(sealed) > MaxBlob || plainLen > MaxPlain {
		return nil, ErrUnseal
	}
	if FingerprintOf(sealed) != fp {
		return nil, ErrUnseal
	}
	if codec == CodecRaw {
		pt, err := gcmOpen(make([]byte, 0, len(sealed)-overheadGCM), key, blobAAD(vault, kind), sealed)
		if err != nil {
			return nil, err
		}
		return blobData(pt, codec, int(plainLen))
	}
	room := takeRoom(len(sealed) - overheadGCM)
	defer giveRoom(room)
	pt, err := gcmOpen((*room)[:0], key, blobAAD(vault, kind), sealed)
	if err != nil {
		return nil, err
	}
	return blobData(pt, codec, int(plainLen))
}

// blobData checks an opened blob and returns its content: a part of pt if raw,
// else freshly made.
func blobData(pt []byte, codec uint8, plainLen int) ([]byte, error) {
	n := int64(binary.BigEndian.Uint32(pt[1:]))
	if pt[0] != codec || n > int64(len(pt)-headBlob) || paddedData(int(n)) != len(pt)-headBlob {
		return nil, ErrUnseal
	}
	data, padding := pt[headBlob:headBlob+n:headBlob+n], pt[headBlob+n:]
	for _, b := range padding {
		if b != 0 {
			return nil, ErrUnseal
		}
	}
	switch {
	case codec == CodecRaw && int(n) == plainLen:
		return data, nil
	case codec == CodecZstd:
		return decompress(data, plainLen)
	}
	return nil, ErrUnseal
}

func blobAAD(vault VaultID, kind uint8) []byte {
	aad := append(make([]byte, 0, 48), LabelBlob...)
	aad = append(aad, suite, kind)
	return append(aad, vault[:]...)
}

func paddedData(n int) int { return max(minData, Padded(n)) }

func appendZeros(b []byte, n int) []byte {
	at := len(b)
	if cap(b)-at < n {
		b = append(b, make([]byte, n)...)
		return b
	}
	b = b[:at+n]
	clear(b[at:])
	return b
}
