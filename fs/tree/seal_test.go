package tree

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"kist/crypto/seal"
)

// grow makes directories below d: fan of them at each of depth levels, and files.
func grow(t testing.TB, e *Edit, d *Dir, ino *uint64, fan, depth, files int) {
	for i := range files {
		*ino++
		in := file(*ino)
		data := []byte(fmt.Sprintf("content of %d", *ino))
		in.Size = uint64(len(data))
		mustSet(t, &in.Extents, e, Key(0), Extent{Len: in.Size, Blob: NewBlob(uint32(len(data)), data)})
		mustSet(t, d, e, fmt.Sprintf("file %05d", i), Entry{Inode: in})
	}
	for i := range fan {
		*ino++
		sub := dir(*ino)
		if depth > 1 {
			grow(t, e, &sub.Dir, ino, fan, depth-1, files)
		}
		mustSet(t, d, e, fmt.Sprintf("dir %05d", i), Entry{Inode: sub})
	}
}

// walk lists everything below d and gives the pages read, in order.
func walk(t testing.TB, m *memory, d Dir) (entries int, read []Pointer) {
	t.Helper()
	var found []Entry
	from := ""
	err := Load(func(miss *Miss) error {
		read = append(read, miss.Ptr)
		return m.load(miss)
	}, func() error {
		return d.Scan(from, func(name string, v Entry) bool {
			found, from = append(found, v), name+"\x00"
			return true
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range found {
		if v.Type == TypeDir {
			n, r := walk(t, m, v.Inode.Dir)
			entries, read = entries+n, append(read, r...)
		}
	}
	return entries + len(found), read
}

func TestSealAndReopen(t *testing.T) {
	for _, limit := range []int{16 << 20, 200 << 10, 40 << 10} {
		m, st, e, ino := newMemory(limit), emptyState(), NewEdit(), uint64(1)
		grow(t, e, &st.Root.Dir, &ino, 5, 3, 300)
		raw := m.commit(t, st)
		want, _ := walk(t, m, st.Root.Dir)

		again, err := ParseState(raw)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := walk(t, m, again.Root.Dir)
		if want != got || want != int(ino)-1 {
			t.Errorf("%d entries of %d came back", got, want)
		}
		blobs := len(m.packs)
		if more := m.commit(t, again); string(more) != string(raw) || len(m.packs) != blobs {
			t.Error("sealing what is stored made something new")
		}
	}
}

func TestPagesOfASubtreeAreNeighbours(t *testing.T) {
	m, st, e, ino := newMemory(16<<20), emptyState(), NewEdit(), uint64(1)
	grow(t, e, &st.Root.Dir, &ino, 4, 3, 400)
	s := NewSealing(testVault, m)
	if err := errors.Join(placeAll(s, st), s.SealState(st)); err != nil {
		t.Fatal(err)
	}
	s.Finish(m.close())
	ranges := s.Nodes()
	if len(ranges) != 1 {
		t.Fatalf("%d ranges", len(ranges))
	}
	s.Install()
	Evict(st, 0)
	Evict(st, 0)
	_, all := walk(t, m, st.Root.Dir)
	check := func(what string, ps []Pointer) uint32 {
		from, to, sum := uint32(1<<31), uint32(0), uint32(0)
		for _, p := range ps {
			from, to, sum = min(from, p.Offset), max(to, p.Offset+p.SealedLen), sum+p.SealedLen
		}
		if to-from != sum {
			t.Errorf("%s: %d bytes of pages spread over %d", what, sum, to-from)
		}
		return sum
	}
	if n := check("everything", all); n != ranges[0].Len {
		t.Errorf("the commit's range has %d bytes, its pages %d", ranges[0].Len, n)
	}
	Evict(st, 0)
	Evict(st, 0)
	v, ok, err := Entry{}, false, error(nil)
	err = Load(m.load, func() error { v, ok, err = st.Root.Dir.Get("dir 00001"); return err })
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	_, sub := walk(t, m, v.Inode.Dir)
	check("one subtree", sub)
	if len(sub) < 10 {
		t.Errorf("only %d pages", len(sub))
	}
}

func TestNothingChangesBeforeInstall(t *testing.T) {
	m, st, e, ino := newMemory(64<<10), emptyState(), NewEdit(), uint64(1)
	grow(t, e, &st.Root.Dir, &ino, 2, 2, 50)
	s := NewSealing(testVault, m)
	if err := errors.Join(placeAll(s, st), s.SealState(st)); err != nil {
		t.Fatal(err)
	}
	s.Finish(m.close())
	if _, err := AppendState(nil, st); !errors.Is(err, ErrInvalid) {
		t.Error("a state that was not installed can be encoded:", err)
	}
	chunks := func() (stored, pending int) {
		for b := range s.blobs {
			if _, ok := b.Pointer(); ok {
				stored++
			} else {
				pending++
			}
		}
		return
	}
	if n, _ := chunks(); n != 0 {
		t.Errorf("%d chunks are stored", n)
	}
	s.KeepChunks()
	if _, n := chunks(); n != 0 {
		t.Errorf("%d chunks are pending", n)
	}
	if _, ok := st.Root.Dir.Pointer(); ok {
		t.Error("a page is stored")
	}
	if _, err := ParseState(m.commit(t, st)); err != nil {
		t.Error("sealed anew:", err)
	}
}

func TestSealingRefuses(t *testing.T) {
	e := NewEdit()
	with := func(change func(in *Inode)) State {
		st, in := emptyState(), file(2)
		change(in)
		mustSet(t, &st.Root.Dir, e, "f", Entry{Inode: in})
		return st
	}
	pending := with(func(in *Inode) {
		in.Size = 10
		mustSet(t, &in.Extents, e, Key(0), Extent{Len: 10, Blob: NewBlob(10, nil)})
	})
	paged := with(func(in *Inode) {
		in.Size = 50
		for i := range uint64(6) {
			mustSet(t, &in.Extents, e, Key(i*10), Extent{Len: 10, Blob: StoredBlob(pointerTo(KindChunk, herePack))})
		}
	})
	overlap := with(func(in *Inode) {
		in.Size = 50
		for i := range uint64(3) {
			mustSet(t, &in.Extents, e, Key(i*10), Extent{Len: 11, Blob: StoredBlob(pointerTo(KindChunk, herePack))})
		}
	})
	changed := with(func(in *Inode) { in.Size = 100 })
	v, _, err := changed.Root.Dir.Get("f")
	if err != nil {
		t.Fatal(err)
	}
	mustSet(t, &v.Inode.Extents, e, Key(0), Extent{Len: 10, Blob: StoredBlob(pointerTo(KindChunk, herePack))})
	for name, st := range map[string]State{
		"content that is not stored": pending, "extents beyond the size": paged,
		"overlapping extents": overlap, "a record changed after it was set": changed,
	} {
		if err := NewSealing(testVault, newMemory(1<<20)).SealState(st); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := NewSealing(testVault, newMemory(1<<20)).PlaceChunk(seal.Blob{PlainLen: 3}, NewBlob(4, nil)); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}

func TestMovedPieces(t *testing.T) {
	m, st, e := newMemory(1<<20), emptyState(), NewEdit()
	a, b := NewBlob(10, "first"), NewBlob(20, "second")
	in := file(2)
	in.Size = 30
	mustSet(t, &in.Extents, e, Key(0), Extent{Len: 10, Blob: a})
	mustSet(t, &in.Extents, e, Key(10), Extent{Len: 15, At: 5, Blob: b})
	mustSet(t, &st.Root.Dir, e, "f", Entry{Inode: in})
	mid, whole := NewBlob(40, nil), NewBlob(100, make([]byte, 100))
	a.Move(mid, 0)
	b.Move(mid, 10)
	mid.Move(whole, 50)
	again, err := ParseState(m.commit(t, st))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	if err := Load(m.load, func() error {
		v, _, err := again.Root.Dir.Get("f")
		if err != nil {
			return err
		}
		return v.Inode.Extents.Scan("", func(key string, x Extent) bool {
			p, _ := x.Blob.Pointer()
			got = append(got, fmt.Sprint(KeyUint(key), x.Len, x.At, p.PlainLen))
			return true
		})
	}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"0 10 50 100", "10 15 65 100"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// Every bit of a sealed page counts.
func TestBitFlips(t *testing.T) {
	m, st, e, ino := newMemory(16<<20), emptyState(), NewEdit(), uint64(1)
	grow(t, e, &st.Root.Dir, &ino, 0, 1, 3)
	m.commit(t, st)
	p, ok := st.Root.Dir.Pointer()
	if !ok {
		t.Fatal("no pointer")
	}
	page := m.packs[p.Pack][p.Offset : p.Offset+p.SealedLen]
	for i := range page {
		page[i] ^= 1 << (i % 8)
		if _, err := m.get(p); !errors.Is(err, seal.ErrUnseal) {
			t.Fatalf("byte %d: %v", i, err)
		}
		page[i] ^= 1 << (i % 8)
	}
	if _, err := m.get(p); err != nil {
		t.Fatal(err)
	}
}

func TestEvict(t *testing.T) {
	m, st, e, ino := newMemory(16<<20), emptyState(), NewEdit(), uint64(1)
	grow(t, e, &st.Root.Dir, &ino, 3, 2, 400)
	all := Evict(st, 0)
	if all == 0 || Evict(st, 1<<40) != all {
		t.Error("pages that are nowhere else were dropped")
	}
	m.commit(t, st)
	if half := Evict(st, all/2); half > all/2 || half < all/2-2*MaxPage {
		t.Errorf("%d of %d bytes are left, asked for %d", half, all, all/2)
	}
	if n := Evict(st, 0); n != 0 {
		t.Errorf("%d bytes are left", n)
	}
	if n, _ := walk(t, m, st.Root.Dir); n != int(ino)-1 {
		t.Errorf("%d of %d entries came back", n, ino-1)
	}
	if n := Evict(st, 1<<40); n != all {
		t.Errorf("%d bytes came back, not %d", n, all)
	}
}
