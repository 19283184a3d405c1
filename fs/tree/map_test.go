package tree

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
)

// pages calls fn for every page in memory.
func pages[V any, C Codec[V]](r *ref[V, C], fn func(p *page[V, C])) {
	if r == nil || r.page.Load() == nil {
		return
	}
	p := r.page.Load()
	fn(p)
	for _, kid := range p.kids {
		pages(kid, fn)
	}
}

func link(ino uint64) Entry { return Entry{Linked: true, Ino: ino, Type: TypeFile} }

func TestPagesFillUpInOrder(t *testing.T) {
	for name, order := range map[string]func(i int) int{
		"ascending":  func(i int) int { return i },
		"descending": func(i int) int { return 19999 - i },
		"shuffled":   func(i int) int { return i * 7919 % 20000 },
	} {
		var d Dir
		e := NewEdit()
		for i := range 20000 {
			mustSet(t, &d, e, fmt.Sprintf("%06d", order(i)), link(uint64(i+1)))
		}
		if err := checkPages(d); err != nil {
			t.Fatal(name, err)
		}
		n, bytes := 0, 0
		pages(d.root, func(p *page[Entry, DirCodec]) { n, bytes = n+1, bytes+p.size })
		least := MaxPage * 45 / 100
		if name == "ascending" {
			least = MaxPage * 85 / 100
		}
		if bytes/n < least {
			t.Errorf("%s: pages of %d bytes", name, bytes/n)
		}
	}
}

func TestPagesShrink(t *testing.T) {
	var d Dir
	e := NewEdit()
	for i := range 50000 {
		mustSet(t, &d, e, fmt.Sprintf("%06d", i), link(uint64(i+1)))
	}
	for i := range 50000 {
		if i%50 == 0 {
			continue
		}
		if ok, err := d.Delete(e, fmt.Sprintf("%06d", i)); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	if err := checkPages(d); err != nil {
		t.Fatal(err)
	}
	n := 0
	pages(d.root, func(p *page[Entry, DirCodec]) { n++ })
	if n > 4 {
		t.Errorf("1000 short names take %d pages", n)
	}
	for i := 0; i < 50000; i += 50 {
		if ok, err := d.Delete(e, fmt.Sprintf("%06d", i)); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	if !d.Empty() || !d.Same(Dir{}) {
		t.Error("nothing is left, and yet the map is not empty")
	}
}

func TestLargeEntriesSplit(t *testing.T) {
	var d Dir
	e := NewEdit()
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range 400 {
		in := file(uint64(i + 2))
		in.Type, in.Target = TypeSymlink, strings.Repeat("t", 1+rng.IntN(MaxTarget))
		in.Size = uint64(len(in.Target))
		in.Xattrs = []Xattr{{"a", make([]byte, rng.IntN(MaxXattrs-4))}}
		mustSet(t, &d, e, fmt.Sprintf("%0200d", rng.IntN(300)), Entry{Inode: in})
		if err := checkPages(d); err != nil {
			t.Fatal(err)
		}
	}
}

// A page that is not in memory stops an operation before it changes anything.
func TestMissChangesNothing(t *testing.T) {
	m, st, e := newMemory(16<<20), emptyState(), NewEdit()
	for i := range 5000 {
		mustSet(t, &st.Root.Dir, e, fmt.Sprintf("%06d", i), link(uint64(i+1)))
	}
	raw := m.commit(t, st)
	st, err := ParseState(raw)
	if err != nil {
		t.Fatal(err)
	}
	d := &st.Root.Dir
	e = NewEdit()
	for step := 0; ; step++ {
		before := *d
		err := d.Set(e, "002500x", link(7))
		var miss *Miss
		if !errors.As(err, &miss) {
			if err != nil || step != 2 {
				t.Errorf("after %d pages: %v", step, err)
			}
			break
		}
		if before != *d {
			t.Error("a Set that missed a page changed the map")
		}
		if _, err := d.Delete(e, "002500x"); !errors.As(err, new(*Miss)) {
			t.Error(err)
		}
		if _, _, err := d.Get("002500x"); !errors.As(err, new(*Miss)) {
			t.Error(err)
		}
		if err := m.load(miss); err != nil {
			t.Fatal(err)
		}
	}
	var miss *Miss
	if err := d.Scan("", func(string, Entry) bool { return true }); !errors.As(err, &miss) || len(miss.Next) == 0 {
		t.Fatalf("a scan announces nothing: %v", err)
	}
	for _, n := range miss.Next {
		if n.Ptr.Pack != miss.Ptr.Pack || m.load(n) != nil {
			t.Error("an announced page cannot be loaded")
		}
	}
}

func TestFillRefuses(t *testing.T) {
	m, st, e := newMemory(16<<20), emptyState(), NewEdit()
	for i := range 5000 {
		mustSet(t, &st.Root.Dir, e, fmt.Sprintf("%06d", i), link(uint64(i+1)))
	}
	st, err := ParseState(m.commit(t, st))
	if err != nil {
		t.Fatal(err)
	}
	var root, leaf *Miss
	_, _, err = st.Root.Dir.Get("000001")
	if !errors.As(err, &root) || m.load(root) != nil {
		t.Fatal(err)
	}
	if _, _, err = st.Root.Dir.Get("000001"); !errors.As(err, &leaf) {
		t.Fatal(err)
	}
	plain, err := m.get(root.Ptr)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"the page above": plain, "nothing": nil, "noise": bytes.Repeat([]byte{1}, 99)} {
		if err := leaf.Fill(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err = st.Root.Dir.Get("000001"); !errors.As(err, new(*Miss)) {
		t.Error("something was kept of what was refused:", err)
	}
	for range 2 {
		if err := m.load(leaf); err != nil {
			t.Error(err)
		}
	}
	if leaf.Error() == "" {
		t.Error("a Miss without words")
	}
}

func TestEditIsRequired(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a change without an Edit")
		}
	}()
	var d Dir
	mustSet(t, &d, NewEdit(), "a", link(1))
	_ = d.Set(nil, "b", link(2))
}

// One goroutine edits under a lock, others read, fill and seal at the same time.
func TestConcurrently(t *testing.T) {
	m, st, e, ino := newMemory(64<<10), emptyState(), NewEdit(), uint64(1)
	grow(t, e, &st.Root.Dir, &ino, 3, 2, 500)
	raw := m.commit(t, st)
	st, err := ParseState(raw)
	if err != nil {
		t.Fatal(err)
	}
	e = NewEdit()
	var mu sync.RWMutex // what an engine has around its state
	done := make(chan struct{})
	var readers, sealer sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			rng := rand.New(rand.NewPCG(1, 2))
			for {
				select {
				case <-done:
					return
				default:
				}
				name := fmt.Sprintf("file %05d", rng.IntN(500))
				if err := Load(m.load, func() error {
					mu.RLock()
					defer mu.RUnlock()
					_, ok, err := st.Root.Dir.Get(name)
					if err == nil && !ok {
						err = errors.New(name + " is not there")
					}
					return err
				}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	frozen := make(chan State, 1)
	sealer.Go(func() {
		for f := range frozen {
			s := NewSealing(testVault, m)
			if err := errors.Join(placeAll(s, f), s.SealState(f)); err != nil {
				t.Error(err)
				return
			}
			s.Finish(m.close())
			if _, err := s.State(); err != nil {
				t.Error(err)
			}
			s.Install()
			mu.Lock()
			Evict(st, 100<<10)
			mu.Unlock()
		}
	})
	for i := range 3000 {
		in := file(uint64(10000 + i))
		name := fmt.Sprintf("file %05d", i%500)
		if err := Load(m.load, func() error {
			mu.Lock()
			defer mu.Unlock()
			return st.Root.Dir.Set(e, name, Entry{Inode: in})
		}); err != nil {
			t.Fatal(err)
		}
		if i%100 == 99 {
			mu.Lock()
			f := st
			root := *st.Root
			st.Root, e = &root, NewEdit()
			mu.Unlock()
			frozen <- f
		}
	}
	close(frozen)
	sealer.Wait()
	close(done)
	readers.Wait()
}

// Extents and tables go through the same code as directories; this is the rest.
func TestExtentsAndTable(t *testing.T) {
	m, st, e := newMemory(16<<20), emptyState(), NewEdit()
	want := map[uint64]uint64{}
	in := file(2)
	in.Nlink = 2
	blob := NewBlob(MaxChunk, bytes.Repeat([]byte("x"), MaxChunk))
	for i := range uint64(3000) {
		off := i * 7919 % 3000 * 4096
		mustSet(t, &in.Extents, e, Key(off), Extent{Len: 1 + i, At: uint32(i), Blob: blob})
		want[off] = 1 + i
		in.Size = max(in.Size, off+1+i)
	}
	mustSet(t, &st.Table, e, Key(2), in)
	for i := range uint64(1000) {
		mustSet(t, &st.Table, e, Key(10+i), file(10+i))
	}
	st, err := ParseState(m.commit(t, st))
	if err != nil {
		t.Fatal(err)
	}
	got := map[uint64]uint64{}
	var rec *Inode
	if err := Load(m.load, func() (err error) { rec, _, err = st.Table.Get(Key(2)); return err }); err != nil {
		t.Fatal(err)
	}
	if err := Load(m.load, func() error {
		return rec.Extents.Scan("", func(key string, x Extent) bool { got[KeyUint(key)] = x.Len; return true })
	}); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(got, want) {
		t.Errorf("%d extents came back of %d", len(got), len(want))
	}
	var at []uint64
	for _, off := range []uint64{0, 1, 4095, 4096, 1 << 40} {
		if err := Load(m.load, func() error {
			k, _, ok, err := rec.Extents.Floor(Key(off))
			if err == nil && ok {
				at = append(at, KeyUint(k))
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(at, []uint64{0, 0, 0, 4096, 2999 * 4096}) {
		t.Error(at)
	}
}

func benchDir(b *testing.B) (Dir, *Edit, []string) {
	var d Dir
	e := NewEdit()
	names := make([]string, 100000)
	for i := range names {
		names[i] = fmt.Sprintf("some name %06d", i)
	}
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for i, name := range names {
		if err := d.Set(e, name, Entry{Inode: file(uint64(i + 2))}); err != nil {
			b.Fatal(err)
		}
	}
	return d, e, names
}

func BenchmarkGet(b *testing.B) {
	d, _, names := benchDir(b)
	for i := 0; b.Loop(); i++ {
		if _, ok, err := d.Get(names[i%len(names)]); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}

func BenchmarkSetReplace(b *testing.B) {
	d, e, names := benchDir(b)
	v := Entry{Inode: file(7)}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if err := d.Set(e, names[i%len(names)], v); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkInsertDelete(b *testing.B) {
	d, e, names := benchDir(b)
	v := Entry{Inode: file(7)}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		name := names[i%len(names)]
		if _, err := d.Delete(e, name); err != nil {
			b.Fatal(err)
		}
		if err := d.Set(e, name, v); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodePage(b *testing.B) {
	var d Dir
	e := NewEdit()
	for i := range uint64(140) {
		in := file(i + 2)
		in.Size = 1000
		mustSet(b, &in.Extents, e, Key(0), Extent{Len: 1000, Blob: StoredBlob(pointerTo(KindChunk, herePack))})
		mustSet(b, &d, e, fmt.Sprintf("name %03d", i), Entry{Inode: in})
	}
	raw := encodePage(b, d)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decode[Entry, DirCodec](raw); err != nil {
			b.Fatal(err)
		}
	}
}
