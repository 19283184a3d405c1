package tree

import (
	"fmt"

	"kist/crypto/seal"
)

// Sink takes sealed blobs into packs; pack.Writer is one. A pack is closed only
// by Room, never by Place, so that what was written for the pack being filled
// goes into that pack.
type Sink interface {
	// Room makes sure that a blob of n sealed bytes fits into the pack being
	// filled. If that pack had to be closed for it, rolled is its name.
	Room(n int) (rolled *[32]byte, err error)
	// Place puts a blob into the pack being filled and says where it begins.
	Place(kind uint8, b seal.Blob) (off uint32, err error)
}

// Range is a part of a pack.
type Range struct {
	Pack     [32]byte
	Off, Len uint32
}

// Sealing turns what is new in a state into blobs in packs, and knows the places
// it gave until the caller decides what becomes of them. It is for one goroutine.
// Nothing outside it changes before Install or KeepChunks.
type Sealing struct {
	vault  seal.VaultID
	sink   Sink
	state  State
	nodes  map[any]placed // by *ref
	blobs  map[*Blob]placed
	names  [][32]byte // closed packs; len(names) is the number of the one being filled
	ranges map[int]span
	page   []byte

	// Keep, if set, is given every page that is sealed, to copy.
	Keep func(fingerprint [32]byte, page []byte)
}

// placed is a pointer whose pack is known by number.
type placed struct {
	ptr  Pointer
	pack int
}

type span struct{ from, to uint32 }

type installer interface{ install(p Pointer) }

func (r *ref[V, C]) install(p Pointer) { r.ptr.Store(&p) }

// NewSealing begins a sealing into sink.
func NewSealing(vault seal.VaultID, sink Sink) *Sealing {
	return &Sealing{
		vault: vault, sink: sink,
		nodes: map[any]placed{}, blobs: map[*Blob]placed{}, ranges: map[int]span{},
	}
}

// PlaceChunk puts the sealed bytes of b into the sink.
func (s *Sealing) PlaceChunk(sealed seal.Blob, b *Blob) error {
	if sealed.PlainLen != b.n {
		return fmt.Errorf("%w: a chunk of another length", ErrInvalid)
	}
	if err := s.room(len(sealed.Sealed)); err != nil {
		return err
	}
	p, err := s.place(KindChunk, sealed)
	if err == nil {
		s.blobs[b] = p
	}
	return err
}

// Placed reports whether this sealing has given b a place.
func (s *Sealing) Placed(b *Blob) bool {
	_, ok := s.blobs[b]
	return ok
}

// SealState seals every page of st that is not stored: the inode table, then the
// directories, children before parents, so that the pages of a directory are
// neighbours and stand next to those of the directories in it. All content of st
// must be stored or placed by this sealing.
func (s *Sealing) SealState(st State) error {
	s.state = st
	if err := sealMap(s, st.Table, ""); err != nil {
		return err
	}
	return sealMap(s, st.Root.Dir, "")
}

// Finish gives the name of the pack being filled; zero, if nothing went into it.
func (s *Sealing) Finish(last [32]byte) {
	if last != ([32]byte{}) {
		s.names = append(s.names, last)
	}
}

// State is the encoded state for the commit. Finish comes first.
func (s *Sealing) State() ([]byte, error) {
	w := writer{s: s}
	b := s.state.append(nil, &w)
	return b, w.err
}

// Nodes are the parts of packs that hold all pages sealed here. Finish comes
// first.
func (s *Sealing) Nodes() []Range {
	var rs []Range
	for i, name := range s.names {
		if r, ok := s.ranges[i]; ok {
			rs = append(rs, Range{Pack: name, Off: r.from, Len: r.to - r.from})
		}
	}
	return rs
}

// Install records all places in the pages and blobs in memory. Call it when the
// commit is in the log.
func (s *Sealing) Install() {
	s.KeepChunks()
	for r, p := range s.nodes {
		if p.pack < len(s.names) {
			p.ptr.Pack = s.names[p.pack]
			r.(installer).install(p.ptr)
		}
	}
}

// KeepChunks records the places of chunks only. Call it instead of Install when
// the commit was lost but the packs named so far are in the store.
func (s *Sealing) KeepChunks() {
	for b, p := range s.blobs {
		if p.pack < len(s.names) {
			p.ptr.Pack = s.names[p.pack]
			b.Store(p.ptr)
		}
	}
}

func (s *Sealing) room(n int) error {
	rolled, err := s.sink.Room(n)
	if rolled != nil {
		s.names = append(s.names, *rolled)
	}
	return err
}

func (s *Sealing) place(kind uint8, b seal.Blob) (placed, error) {
	off, err := s.sink.Place(kind, b)
	return placed{pack: len(s.names), ptr: Pointer{
		Kind: kind, Codec: b.Codec, PlainLen: b.PlainLen, SealedLen: uint32(len(b.Sealed)),
		Offset: off, Fingerprint: b.Fingerprint, Key: b.Key,
	}}, err
}

// worstSealed is the sealed size of the largest page.
var worstSealed = seal.Padded(MaxPage) + seal.OverheadBlob

func sealMap[V any, C Codec[V]](s *Sealing, m Map[V, C], bound string) error {
	if m.root == nil || isPlaced(s, m.root) {
		return nil
	}
	if err := visit(s, m.root, s.sealExtents, nil); err != nil {
		return err
	}
	if err := visit(s, m.root, nil, s.sealDir); err != nil {
		return err
	}
	return sealPages(s, m.root, bound)
}

func isPlaced[V any, C Codec[V]](s *Sealing, r *ref[V, C]) bool {
	_, ok := s.nodes[r]
	return ok || r.ptr.Load() != nil
}

func (s *Sealing) sealExtents(x *Extents, size uint64) error {
	if x.embedded() != nil {
		return nil
	}
	return sealMap(s, *x, Key(size))
}

func (s *Sealing) sealDir(d *Dir) error { return sealMap(s, *d, "") }

// visit hands over what the values in new pages refer to.
func visit[V any, C Codec[V]](s *Sealing, r *ref[V, C], extents func(*Extents, uint64) error, dir func(*Dir) error) error {
	if isPlaced(s, r) {
		return nil
	}
	var c C
	p := r.page.Load()
	for _, kid := range p.kids {
		if err := visit(s, kid, extents, dir); err != nil {
			return err
		}
	}
	for _, v := range p.vals {
		in := c.inode(v)
		if in == nil {
			continue
		}
		if extents != nil && !in.Extents.Empty() {
			if err := extents(&in.Extents, in.Size); err != nil {
				return err
			}
		}
		if dir != nil && !in.Dir.Empty() {
			if err := dir(&in.Dir); err != nil {
				return err
			}
		}
	}
	return nil
}

func sealPages[V any, C Codec[V]](s *Sealing, r *ref[V, C], bound string) error {
	if isPlaced(s, r) {
		return nil
	}
	var c C
	p := r.page.Load()
	for i, kid := range p.kids {
		if err := sealPages(s, kid, p.below(place{bound: bound}, i).bound); err != nil {
			return err
		}
	}
	// Room first: whether a child is "here" depends on it.
	if err := s.room(worstSealed); err != nil {
		return err
	}
	w := writer{s: s, open: true}
	s.page = p.append(s.page[:0], bound, &w)
	if len(s.page) > MaxPage {
		w.fail("a page grew after it was set")
	}
	if w.err != nil {
		return w.err
	}
	b, err := seal.SealBlob(s.vault, c.nodeKind(), s.page)
	if err != nil {
		return err
	}
	at, err := s.place(c.nodeKind(), b)
	if err != nil {
		return err
	}
	s.nodes[r] = at
	s.cover(at)
	if s.Keep != nil {
		s.Keep(b.Fingerprint, s.page)
	}
	return nil
}

func (s *Sealing) cover(p placed) {
	from, to := p.ptr.Offset, p.ptr.Offset+p.ptr.SealedLen
	if r, ok := s.ranges[p.pack]; ok {
		from, to = min(from, r.from), max(to, r.to)
	}
	s.ranges[p.pack] = span{from, to}
}
