package tree

import "sync/atomic"

// Blob is a piece of content that extents refer to. It is pending until Store
// gives it a place in a pack. Safe for concurrent use.
type Blob struct {
	n     uint32
	ptr   atomic.Pointer[Pointer]
	local atomic.Pointer[any]
	moved atomic.Pointer[move]
}

type move struct {
	to    *Blob
	delta uint32
}

// NewBlob makes a pending blob of n bytes (at most MaxChunk); local says where
// its bytes are until they are stored.
func NewBlob(n uint32, local any) *Blob {
	b := &Blob{n: n}
	b.SetLocal(local)
	return b
}

// StoredBlob makes the blob that p points to.
func StoredBlob(p Pointer) *Blob {
	s := &struct {
		b Blob
		p Pointer
	}{p: p}
	s.b.n = p.PlainLen
	s.b.ptr.Store(&s.p)
	return &s.b
}

// Len is the length of the blob's plaintext.
func (b *Blob) Len() uint32 { return b.n }

// Local is where the bytes are on this machine, nil if nowhere.
func (b *Blob) Local() any {
	if l := b.local.Load(); l != nil {
		return *l
	}
	return nil
}

// SetLocal changes what Local returns; nil forgets it.
func (b *Blob) SetLocal(local any) {
	if local == nil {
		b.local.Store(nil)
		return
	}
	b.local.Store(&local)
}

// Pointer is the blob's place in the store, false while it is pending.
func (b *Blob) Pointer() (Pointer, bool) {
	if p := b.ptr.Load(); p != nil {
		return *p, true
	}
	return Pointer{}, false
}

// Store records the blob's place. Only a place whose pack is in the store, under
// a name that will stay, may be stored; and only once no stored page refers to
// the blob by another place.
func (b *Blob) Store(p Pointer) { b.ptr.Store(&p) }

// Move makes the bytes of b the bytes of to from delta on: what refers to b then
// resolves to a part of to. It is called once for a blob that no stored page refers
// to, never in a circle.
func (b *Blob) Move(to *Blob, delta uint32) { b.moved.Store(&move{to, delta}) }

// Extent is Len bytes of a file, found in Blob from At on. Its offset in the file
// is its key. What lies between extents is a hole.
type Extent struct {
	Len  uint64
	At   uint32
	Blob *Blob
}

// Resolve follows moves to the blob that holds the extent's bytes now.
func (x Extent) Resolve() (blob *Blob, at uint32) {
	blob, at = x.Blob, x.At
	for m := blob.moved.Load(); m != nil; m = blob.moved.Load() {
		blob, at = m.to, at+m.delta
	}
	return blob, at
}
