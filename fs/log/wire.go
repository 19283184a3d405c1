package log

import "encoding/binary"

// reader reads fixed layouts. After the first shortage everything reads as zero
// and end reports false.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.rest) {
		r.bad = true
		return make([]byte, min(n, 64))
	}
	out := r.rest[:n:n]
	r.rest = r.rest[n:]
	return out
}

func (r *reader) u8() uint8      { return r.take(1)[0] }
func (r *reader) u16() uint16    { return binary.BigEndian.Uint16(r.take(2)) }
func (r *reader) u32() uint32    { return binary.BigEndian.Uint32(r.take(4)) }
func (r *reader) u64() uint64    { return binary.BigEndian.Uint64(r.take(8)) }
func (r *reader) b32() [32]byte  { return [32]byte(r.take(32)) }
func (r *reader) head() Head     { return Head{Seq: r.u64(), Hash: r.b32()} }
func (r *reader) require(b bool) { r.bad = r.bad || !b }
func (r *reader) end() bool      { return !r.bad && len(r.rest) == 0 }

// field reads a length-prefixed field of at most limit bytes.
func (r *reader) field(limit int) []byte {
	n := r.u32()
	if r.require(int64(n) <= int64(limit)); r.bad {
		return nil
	}
	return r.take(int(n))
}

// list reads the length of a list of at most limit items of size bytes each,
// and checks that they are there before anything is allocated for them.
func (r *reader) list(limit, size int) int {
	n := r.u32()
	r.require(int64(n) <= int64(limit) && int64(n)*int64(size) <= int64(len(r.rest)))
	if r.bad {
		return 0
	}
	return int(n)
}

func readList[T any](r *reader, limit, size int, read func() T) []T {
	n := r.list(limit, size)
	if n == 0 {
		return nil
	}
	out := make([]T, n)
	for i := range out {
		out[i] = read()
	}
	return out
}

type writer []byte

func (w *writer) u8(v uint8)     { *w = append(*w, v) }
func (w *writer) u16(v uint16)   { *w = binary.BigEndian.AppendUint16(*w, v) }
func (w *writer) u32(v uint32)   { *w = binary.BigEndian.AppendUint32(*w, v) }
func (w *writer) u64(v uint64)   { *w = binary.BigEndian.AppendUint64(*w, v) }
func (w *writer) bytes(b []byte) { *w = append(*w, b...) }
func (w *writer) head(h Head)    { w.u64(h.Seq); w.bytes(h.Hash[:]) }

func (w *writer) field(b []byte) {
	w.u32(uint32(len(b)))
	w.bytes(b)
}

func writeList[T any](w *writer, items []T, write func(T)) {
	w.u32(uint32(len(items)))
	for _, it := range items {
		write(it)
	}
}
