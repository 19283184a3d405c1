package tree

import (
	"encoding/binary"
	"fmt"
)

// writer says what pointers look like in the bytes being written, and keeps the
// first reason why they cannot be written.
type writer struct {
	here [32]byte // the pack these bytes go to, if its name is known
	s    *Sealing // places made but not installed, and
	open bool     // whether the bytes go to the pack it is filling
	err  error
}

func (w *writer) fail(what string) {
	if w.err == nil {
		w.err = fmt.Errorf("%w: %s", ErrInvalid, what)
	}
}

func (w *writer) pointer(dst []byte, p Pointer) []byte {
	if p.Pack == ([32]byte{}) {
		w.fail("a pointer without a pack")
	}
	if p.Pack == w.here {
		p.Pack = [32]byte{}
	}
	return AppendPointer(dst, p)
}

func (w *writer) placed(dst []byte, p placed) []byte {
	if p.pack < len(w.s.names) {
		p.ptr.Pack = w.s.names[p.pack]
		return w.pointer(dst, p.ptr)
	}
	if !w.open {
		w.fail("a pack was not finished")
	}
	return AppendPointer(dst, p.ptr)
}

// node writes the pointer of the page that ref (a *ref) refers to.
func (w *writer) node(dst []byte, ref any, ptr *Pointer) []byte {
	if ptr != nil {
		return w.pointer(dst, *ptr)
	}
	if w.s != nil {
		if p, ok := w.s.nodes[ref]; ok {
			return w.placed(dst, p)
		}
	}
	w.fail("a page that is not stored")
	return append(dst, make([]byte, PointerSize)...)
}

// blob writes the pointer of b, of which bytes up to end are used.
func (w *writer) blob(dst []byte, b *Blob, end uint64) []byte {
	if end > uint64(b.n) {
		w.fail("an extent beyond its blob")
	}
	if w.s != nil {
		if p, ok := w.s.blobs[b]; ok {
			return w.placed(dst, p)
		}
	}
	if ptr := b.ptr.Load(); ptr != nil {
		return w.pointer(dst, *ptr)
	}
	w.fail("content that is not stored")
	return append(dst, make([]byte, PointerSize)...)
}

// append writes the page; nothing in it may be at bound or above, if there is one.
func (p *page[V, C]) append(dst []byte, bound string, w *writer) []byte {
	var c C
	before := len(dst)
	dst = append(dst, pageVersion, p.level)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(p.keys)))
	for i, key := range p.keys {
		dst = c.appendKey(dst, key)
		if p.level == 0 {
			dst = c.appendValue(dst, p.vals[i], w)
		} else {
			dst = w.node(dst, p.kids[i], p.kids[i].ptr.Load())
		}
		next := bound
		if i+1 < len(p.keys) {
			next = p.keys[i+1]
		}
		if next != "" && !p.precedes(i, next) {
			w.fail("items out of order or overlapping")
		}
	}
	if len(dst)-before != p.size {
		w.fail("a value changed after it was set")
	}
	return dst
}

// precedes says whether next may stand behind item i.
func (p *page[V, C]) precedes(i int, next string) bool {
	if p.level > 0 {
		return p.keys[i] < next
	}
	var c C
	return c.follows(p.keys[i], p.vals[i], next)
}

// parsePage decodes a page that stands at the given place, with pointers in the
// pack here.
func parsePage[V any, C Codec[V]](plain []byte, here [32]byte, at place) (*page[V, C], error) {
	var c C
	r := reader{b: plain, here: here}
	r.require(len(plain) <= MaxPage)
	p := readPage[V, C](&r, at)
	r.require(len(r.b) == 0 && (!at.root || c.rootOK(p.level, len(plain))))
	if r.bad {
		return nil, fmt.Errorf("%w: node kind %d", ErrMalformed, c.nodeKind())
	}
	p.used.Store(true)
	return p, nil
}

func readPage[V any, C Codec[V]](r *reader, at place) *page[V, C] {
	version, level, count := r.u8(), r.u8(), int(r.u16())
	r.require(version == pageVersion && level <= maxLevel && count > 0)
	r.require(at.root || level == at.level)
	p := &page[V, C]{level: level, size: headerSize}
	if r.bad {
		return p
	}
	p.reserve(min(count, len(r.b)/10)) // no item is smaller
	for i := 0; i < count && !r.bad; i++ {
		left := len(r.b)
		p.readItem(r)
		p.size += left - len(r.b)
		p.sizes = append(p.sizes, uint16(left-len(r.b)))
		switch {
		case r.bad:
		case i > 0:
			r.require(p.precedes(i-1, p.keys[i]))
		case !at.root:
			r.require(p.keys[0] == at.first)
		}
	}
	r.require(r.bad || at.bound == "" || p.precedes(count-1, at.bound))
	return p
}

func (p *page[V, C]) reserve(n int) {
	p.keys = make([]string, 0, n)
	p.sizes = make([]uint16, 0, n)
	if p.level == 0 {
		p.vals = make([]V, 0, n)
	} else {
		p.kids = make([]*ref[V, C], 0, n)
	}
}

func (p *page[V, C]) readItem(r *reader) {
	var c C
	key := c.parseKey(r)
	r.require(!r.bad && c.keyOK(key))
	p.keys = append(p.keys, key)
	if p.level > 0 {
		p.kids = append(p.kids, storedRef[V, C](r.pointer(c.nodeKind())))
		return
	}
	v := c.parseValue(r, key)
	r.require(!r.bad && c.valid(key, v))
	p.vals = append(p.vals, v)
}
