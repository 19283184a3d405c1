package tree

import (
	"errors"
	"slices"
	"sync/atomic"
)

// Codec says how the keys and values of a Map look in its pages. Its
// implementations are DirCodec, ExtentCodec and TableCodec.
type Codec[V any] interface {
	nodeKind() uint8
	valid(key string, v V) bool
	keyOK(key string) bool
	// follows says whether next may be the key after key, which holds v.
	follows(key string, v V, next string) bool
	keySize(key string) int
	appendKey(dst []byte, key string) []byte
	parseKey(r *reader) string
	complete(v V) V
	valueSize(v V) int
	appendValue(dst []byte, v V, w *writer) []byte
	parseValue(r *reader, key string) V
	// rootOK refuses a root page that ought to stand embedded in its record.
	rootOK(level uint8, size int) bool
	inode(v V) *Inode // the record in a value, if it has one
}

// Map is an ordered map from strings to V, in pages of at most MaxPage bytes.
// The zero value is empty. See the package comment for what copies are worth.
type Map[V any, C Codec[V]] struct{ root *ref[V, C] }

// A Dir maps names to entries, Extents maps offsets to content, a Table maps
// inode numbers to the records of files with more than one name.
type (
	Dir     = Map[Entry, DirCodec]
	Extents = Map[Extent, ExtentCodec]
	Table   = Map[*Inode, TableCodec]
)

// ref is a reference to a page, shared by all copies of the page that holds it.
// Once ptr is set the page never changes, so it may be dropped and read again.
// At least one of the two is always there.
type ref[V any, C Codec[V]] struct {
	ptr  atomic.Pointer[Pointer]
	page atomic.Pointer[page[V, C]]
}

// page is one page in memory. Only the Edit that made it may change it.
type page[V any, C Codec[V]] struct {
	owner *Edit // nil: decoded
	used  atomic.Bool
	level uint8
	size  int // bytes, encoded
	keys  []string
	sizes []uint16     // of each item, encoded
	vals  []V          // level 0
	kids  []*ref[V, C] // other levels; keys[i] is the first key below kids[i]
}

// Edit is the right to change the pages made under it. Freezing a state is
// keeping a copy of it and going on with a new Edit; an Edit is not used again
// after that.
type Edit struct{ _ byte }

// NewEdit makes an Edit that owns nothing yet.
func NewEdit() *Edit { return new(Edit) }

// Miss says that an operation needs a page that is not in memory.
type Miss struct {
	Ptr Pointer
	// Next are further pages that a Scan will need after this one, in order.
	Next []*Miss
	fill func(plain []byte) error
}

func (m *Miss) Error() string { return "tree: a page is not in memory" }

// Fill decodes the plaintext of the blob at Ptr and puts it in its place. It may
// be called at any time, by several goroutines, more than once.
func (m *Miss) Fill(plain []byte) error { return m.fill(plain) }

// Load calls op until it returns something else than a Miss, and fetch for each
// Miss on the way. It is for callers that hold no lock.
func Load(fetch func(*Miss) error, op func() error) error {
	for {
		err := op()
		var miss *Miss
		if !errors.As(err, &miss) {
			return err
		}
		if err := fetch(miss); err != nil {
			return err
		}
	}
}

// place is where a page stands below its parent: what the parent says of it.
type place struct {
	root  bool
	level uint8
	first string
	bound string // no key at or above it, if not empty
}

var atRoot = place{root: true}

func newRef[V any, C Codec[V]](p *page[V, C]) *ref[V, C] {
	r := new(ref[V, C])
	r.page.Store(p)
	return r
}

func storedRef[V any, C Codec[V]](ptr Pointer) *ref[V, C] {
	s := &struct {
		r ref[V, C]
		p Pointer
	}{p: ptr}
	s.r.ptr.Store(&s.p)
	return &s.r
}

func (r *ref[V, C]) load(at place) (*page[V, C], error) {
	if p := r.page.Load(); p != nil {
		if !p.used.Load() {
			p.used.Store(true)
		}
		return p, nil
	}
	return nil, r.miss(at)
}

func (r *ref[V, C]) miss(at place) *Miss {
	ptr := *r.ptr.Load()
	return &Miss{Ptr: ptr, fill: func(plain []byte) error {
		if r.page.Load() != nil {
			return nil
		}
		p, err := parsePage[V, C](plain, ptr.Pack, at)
		if err == nil {
			r.page.CompareAndSwap(nil, p)
		}
		return err
	}}
}

// find is the index of key or, if it is not there, where it would be.
func (p *page[V, C]) find(key string) (int, bool) { return slices.BinarySearch(p.keys, key) }

// floor is the index of the last key not above key, -1 if there is none.
func (p *page[V, C]) floor(key string) int {
	i, found := p.find(key)
	if found {
		return i
	}
	return i - 1
}

// below is the place of kid i of a page at the given place.
func (p *page[V, C]) below(at place, i int) place {
	bound := at.bound
	if i+1 < len(p.keys) {
		bound = p.keys[i+1]
	}
	return place{level: p.level - 1, first: p.keys[i], bound: bound}
}

// Empty reports whether there is nothing in the map.
func (m Map[V, C]) Empty() bool { return m.root == nil }

// Same reports whether two maps are known to be equal without looking inside:
// they share their root or have the same fingerprint.
func (m Map[V, C]) Same(o Map[V, C]) bool { return m.root.same(o.root) }

func (r *ref[V, C]) same(o *ref[V, C]) bool {
	if r == o {
		return true
	}
	if r == nil || o == nil {
		return false
	}
	a, b := r.ptr.Load(), o.ptr.Load()
	return a != nil && b != nil && a.Fingerprint == b.Fingerprint
}

// adopt takes over what an equal reference at an equal place has in memory: there, every
// check of the page and of what hangs below it has the same outcome.
func (r *ref[V, C]) adopt(o *ref[V, C], at, was place) {
	if r == o || r == nil || o == nil || at != was || r.page.Load() != nil {
		return
	}
	p, mine, theirs := o.page.Load(), r.ptr.Load(), o.ptr.Load()
	if p != nil && mine != nil && theirs != nil && *mine == *theirs {
		r.page.CompareAndSwap(nil, p)
	}
}

// Pointer is where the map's root page is stored, false if it is not, or stands
// embedded in a record.
func (m Map[V, C]) Pointer() (Pointer, bool) {
	if m.root != nil {
		if p := m.root.ptr.Load(); p != nil {
			return *p, true
		}
	}
	return Pointer{}, false
}

// Get looks key up.
func (m Map[V, C]) Get(key string) (v V, ok bool, err error) {
	k, v, ok, err := m.Floor(key)
	if err != nil || !ok || k != key {
		var none V
		return none, false, err
	}
	return v, true, nil
}

// Floor finds the last key that is not above key.
func (m Map[V, C]) Floor(key string) (at string, v V, ok bool, err error) {
	r, where := m.root, atRoot
	for r != nil {
		p, err := r.load(where)
		if err != nil {
			return "", v, false, err
		}
		i := p.floor(key)
		if i < 0 { // only in the root: elsewhere the first key led here
			break
		}
		if p.level == 0 {
			return p.keys[i], p.vals[i], true, nil
		}
		r, where = p.kids[i], p.below(where, i)
	}
	return "", v, false, nil
}

// Scan calls fn for each key from from on, in order, until fn returns false. When
// it returns a Miss, fn has seen all that stands before the missing page: go on
// from behind the last key seen. fn must not change the map.
func (m Map[V, C]) Scan(from string, fn func(key string, v V) bool) error {
	if m.root == nil {
		return nil
	}
	_, err := m.root.scan(atRoot, from, fn)
	return err
}

func (r *ref[V, C]) scan(at place, from string, fn func(string, V) bool) (more bool, err error) {
	p, err := r.load(at)
	if err != nil {
		return false, err
	}
	if p.level == 0 {
		i, _ := p.find(from)
		for ; i < len(p.keys); i++ {
			if !fn(p.keys[i], p.vals[i]) {
				return false, nil
			}
		}
		return true, nil
	}
	for i := max(0, p.floor(from)); i < len(p.kids); i++ {
		if p.kids[i].page.Load() == nil {
			return false, p.missFrom(at, i)
		}
		if more, err = p.kids[i].scan(p.below(at, i), from, fn); !more || err != nil {
			return false, err
		}
	}
	return true, nil
}

// readAhead is how many pages a Scan announces: half a megabyte.
const readAhead = 16

func (p *page[V, C]) missFrom(at place, i int) error {
	m := p.kids[i].miss(p.below(at, i))
	for j := i + 1; j < len(p.kids) && len(m.Next) < readAhead; j++ {
		if p.kids[j].page.Load() == nil {
			m.Next = append(m.Next, p.kids[j].miss(p.below(at, j)))
		}
	}
	return m
}
