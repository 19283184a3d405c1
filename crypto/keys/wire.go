package keys

import "encoding/binary"

// wire reads fixed layouts. After the first shortage everything reads as zero and
// end reports false.
type wire struct {
	rest  []byte
	short bool
}

func (w *wire) take(n int) []byte {
	if w.short || n > len(w.rest) {
		w.short = true
		return make([]byte, min(n, 64))
	}
	out := w.rest[:n:n]
	w.rest = w.rest[n:]
	return out
}

func (w *wire) u8() uint8      { return w.take(1)[0] }
func (w *wire) u32() uint32    { return binary.BigEndian.Uint32(w.take(4)) }
func (w *wire) u64() uint64    { return binary.BigEndian.Uint64(w.take(8)) }
func (w *wire) b32() [32]byte  { return [32]byte(w.take(32)) }
func (w *wire) b16() [16]byte  { return [16]byte(w.take(16)) }
func (w *wire) fail()          { w.short = true }
func (w *wire) end() bool      { return !w.short && len(w.rest) == 0 }
func (w *wire) is(s string)    { w.require(string(w.take(len(s))) == s) }
func (w *wire) require(b bool) { w.short = w.short || !b }

// lp reads a length-prefixed field of at most limit bytes.
func (w *wire) lp(limit int) []byte {
	n := w.u32()
	if int64(n) > int64(limit) {
		w.fail()
		return nil
	}
	return w.take(int(n))
}

// count reads the length of a list of at most limit items.
func (w *wire) count(limit int) int {
	n := w.u32()
	if int64(n) > int64(limit) {
		w.fail()
		return 0
	}
	return int(n)
}

func appendLP(dst, b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(b))), b...)
}
