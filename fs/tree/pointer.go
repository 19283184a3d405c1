package tree

import (
	"encoding/binary"
	"errors"

	"kist/crypto/seal"
)

// Kinds of blobs. The kind is part of a blob's associated data.
const (
	KindChunk   uint8 = 1
	KindDir     uint8 = 2
	KindExtents uint8 = 3
	KindTable   uint8 = 4
)

// Limits of the format.
const (
	PointerSize = 110
	MaxChunk    = 1 << 20  // plaintext of a chunk
	MaxPage     = 32 << 10 // plaintext of a node
	MinPage     = 8 << 10  // a smaller page is merged where that needs no fetch
	MaxPack     = 32 << 20 // no blob ends behind this offset
	MaxInline   = 512
	MaxXattrs   = 10 << 10
	MaxTarget   = 4095
	MaxName     = 255
	MaxIno      = 1<<45 - 1
	MaxDevice   = 1<<13 - 1
	MaxFileSize = 1<<63 - 1
	maxLevel    = 8
	headerSize  = 4
	pageVersion = 1
)

// ErrMalformed says that bytes do not follow the format. Bytes that reach a
// decoder have been authenticated, so this is a hostile or broken writer.
var ErrMalformed = errors.New("tree: the data does not follow the format")

// Pointer is what a parent holds about a child: place, fingerprint and key.
// In memory Pack is always the name of a pack; on the wire all zero means the
// pack in which the page holding the pointer lies.
type Pointer struct {
	Kind, Codec uint8
	PlainLen    uint32
	SealedLen   uint32
	Offset      uint32
	Pack        [32]byte
	Fingerprint seal.Fingerprint
	Key         seal.Key
}

// AppendPointer appends the 110 bytes of p.
func AppendPointer(dst []byte, p Pointer) []byte {
	dst = append(dst, p.Kind, p.Codec)
	dst = binary.BigEndian.AppendUint32(dst, p.PlainLen)
	dst = binary.BigEndian.AppendUint32(dst, p.SealedLen)
	dst = binary.BigEndian.AppendUint32(dst, p.Offset)
	dst = append(dst, p.Pack[:]...)
	dst = append(dst, p.Fingerprint[:]...)
	return append(dst, p.Key[:]...)
}

// ParsePointer reads a pointer to a blob of the given kind that stands in the
// pack here. A zero here refuses pointers that need one.
func ParsePointer(b []byte, kind uint8, here [32]byte) (Pointer, error) {
	r := reader{b: b, here: here}
	p := r.pointer(kind)
	if r.bad || len(r.b) != 0 {
		return Pointer{}, ErrMalformed
	}
	return p, nil
}

func (p *Pointer) ok(kind uint8) bool {
	limit := uint32(MaxPage)
	if kind == KindChunk {
		limit = MaxChunk
	}
	return p.Kind == kind && p.Codec <= 1 &&
		p.PlainLen > 0 && p.PlainLen <= limit &&
		p.SealedLen >= seal.MinBlob && p.SealedLen <= seal.MaxBlob &&
		uint64(p.Offset)+uint64(p.SealedLen) <= MaxPack
}

// reader consumes b from the front. Its first failure sticks in bad; callers
// look at bad once, at the end, and use nothing before.
type reader struct {
	b    []byte
	here [32]byte
	bad  bool
}

func (r *reader) take(n int) []byte {
	if r.bad || len(r.b) < n {
		r.bad = true
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) u8() uint8 {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) require(ok bool) {
	if !ok {
		r.bad = true
	}
}

func (r *reader) pointer(kind uint8) (p Pointer) {
	p.Kind, p.Codec = r.u8(), r.u8()
	p.PlainLen, p.SealedLen, p.Offset = r.u32(), r.u32(), r.u32()
	copy(p.Pack[:], r.take(32))
	copy(p.Fingerprint[:], r.take(32))
	copy(p.Key[:], r.take(32))
	none := [32]byte{}
	switch p.Pack {
	case none:
		r.require(r.here != none)
		p.Pack = r.here
	case r.here:
		r.bad = true // there is one way to say "here"
	}
	r.require(p.ok(kind))
	return p
}
