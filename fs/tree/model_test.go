package tree

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// machine compares a Dir with a Go map, through snapshots, commits, eviction and
// reopening.
type machine struct {
	store *memory
	edit  *Edit
	st    State
	want  map[string]Entry
	old   []snapshot
	last  []byte // encoded state of the last commit
}

type snapshot struct {
	st   State
	want map[string]Entry
}

func (m *machine) retry(t *rapid.T, op func() error) {
	if err := Load(m.store.load, op); err != nil {
		t.Fatal(err)
	}
}

var names = rapid.Custom(func(t *rapid.T) string {
	n := rapid.IntRange(0, 300).Draw(t, "n")
	pad := rapid.SampledFrom([]int{0, 0, 20, 240}).Draw(t, "pad")
	return fmt.Sprintf("%03d", n) + strings.Repeat("x", pad)
})

func (m *machine) entry(t *rapid.T) Entry {
	ino := rapid.Uint64Range(2, 1<<20).Draw(t, "ino")
	switch rapid.IntRange(0, 4).Draw(t, "what") {
	case 0:
		return Entry{Linked: true, Ino: ino, Type: TypeFile}
	case 1:
		in := file(ino)
		in.Inline = make([]byte, rapid.IntRange(1, MaxInline).Draw(t, "inline"))
		in.Size = uint64(len(in.Inline))
		return Entry{Inode: in, Ino: ino, Type: TypeFile}
	case 2:
		in := file(ino)
		value := make([]byte, rapid.IntRange(0, 8000).Draw(t, "xattr"))
		in.Xattrs = []Xattr{{"user.a", value}}
		return Entry{Inode: in, Ino: ino, Type: TypeFile}
	case 3:
		in := file(ino)
		in.Type, in.Target = TypeSymlink, strings.Repeat("t", rapid.IntRange(1, MaxTarget).Draw(t, "target"))
		in.Size = uint64(len(in.Target))
		return Entry{Inode: in, Ino: ino, Type: TypeSymlink}
	}
	in := file(ino)
	for i := range rapid.IntRange(1, 6).Draw(t, "extents") {
		x := Extent{Len: 10, Blob: NewBlob(10, []byte(fmt.Sprintf("%010d", i)))}
		if err := in.Extents.Set(m.edit, Key(uint64(i)*100), x); err != nil {
			t.Fatal(err)
		}
		in.Size = uint64(i)*100 + 10
	}
	return Entry{Inode: in, Ino: ino, Type: TypeFile}
}

func (m *machine) Set(t *rapid.T) {
	key, v := names.Draw(t, "name"), m.entry(t)
	m.retry(t, func() error { return m.st.Root.Dir.Set(m.edit, key, v) })
	m.want[key] = v
}

func (m *machine) SetMany(t *rapid.T) {
	from := rapid.IntRange(0, 200).Draw(t, "from")
	v := m.entry(t)
	for i := from; i < from+100; i++ {
		key := fmt.Sprintf("%03d", i)
		m.retry(t, func() error { return m.st.Root.Dir.Set(m.edit, key, v) })
		m.want[key] = v
	}
}

func (m *machine) delete(t *rapid.T, key string) {
	_, there := m.want[key]
	m.retry(t, func() error {
		ok, err := m.st.Root.Dir.Delete(m.edit, key)
		if err == nil && ok != there {
			return fmt.Errorf("deleting gave %v", ok)
		}
		return err
	})
	delete(m.want, key)
}

func (m *machine) Delete(t *rapid.T) { m.delete(t, names.Draw(t, "name")) }

func (m *machine) DeleteMany(t *rapid.T) {
	keys := slices.Sorted(maps.Keys(m.want))
	if len(keys) == 0 {
		return
	}
	from := rapid.IntRange(0, len(keys)-1).Draw(t, "from")
	for _, key := range keys[from:min(len(keys), from+120)] {
		m.delete(t, key)
	}
}

func (m *machine) Get(t *rapid.T) {
	key := names.Draw(t, "name")
	m.retry(t, func() error {
		v, ok, err := m.st.Root.Dir.Get(key)
		w, there := m.want[key]
		if err == nil && (ok != there || ok && !sameEntry(&v, &w)) {
			return fmt.Errorf("got %+v, want %+v", v, w)
		}
		return err
	})
}

func (m *machine) Floor(t *rapid.T) {
	key := names.Draw(t, "name")
	best := ""
	for k := range m.want {
		if k <= key && k > best {
			best = k
		}
	}
	m.retry(t, func() error {
		k, _, ok, err := m.st.Root.Dir.Floor(key)
		if err == nil && (ok != (best != "") || k != best) {
			return fmt.Errorf("floor %q, want %q", k, best)
		}
		return err
	})
}

func (m *machine) Snapshot(*rapid.T) {
	m.old = append(m.old, snapshot{m.freeze(), maps.Clone(m.want)})
	if len(m.old) > 3 {
		m.old = m.old[1:]
	}
}

func (m *machine) freeze() State {
	frozen := m.st
	root := *m.st.Root
	m.st.Root = &root
	m.edit = NewEdit()
	return frozen
}

func (m *machine) Commit(t *rapid.T) { m.last = m.store.commit(t, m.freeze()) }

func (m *machine) LoseCommit(t *rapid.T) {
	st := m.freeze()
	s := NewSealing(testVault, m.store)
	if err := errors.Join(placeAll(s, st), s.SealState(st)); err != nil {
		t.Fatal(err)
	}
	s.Finish(m.store.close())
	if rapid.Bool().Draw(t, "chunks were uploaded") {
		s.KeepChunks()
	}
}

func (m *machine) Evict(t *rapid.T) {
	if got := Evict(m.st, 0); got < 0 {
		t.Fatal(got)
	}
}

func (m *machine) Reopen(t *rapid.T) {
	m.Commit(t)
	st, err := ParseState(m.last)
	if err != nil {
		t.Fatal(err)
	}
	again, err := AppendState(nil, st)
	if err != nil || string(again) != string(m.last) {
		t.Fatal("a state changed on the way:", err)
	}
	m.st = st
}

func (m *machine) Diff(t *rapid.T) {
	if len(m.old) == 0 {
		return
	}
	o := m.old[rapid.IntRange(0, len(m.old)-1).Draw(t, "snapshot")]
	got := map[string]bool{}
	err := Diff(o.st, m.st, m.store.load, func(c Change) error {
		if c.Parent != 1 || got[c.Name] {
			return fmt.Errorf("change %+v", c)
		}
		got[c.Name] = true
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, a := range o.want {
		if b, ok := m.want[name]; (!ok || !sameEntry(&a, &b)) != got[name] {
			t.Fatalf("%q: reported %v", name, got[name])
		}
	}
	for name := range m.want {
		if _, ok := o.want[name]; !ok && !got[name] {
			t.Fatalf("%q is new and was not reported", name)
		}
	}
}

func (m *machine) Check(t *rapid.T) {
	if err := checkPages(m.st.Root.Dir); err != nil {
		t.Fatal(err)
	}
	m.compare(t, m.st, m.want)
	for _, o := range m.old {
		m.compare(t, o.st, o.want)
	}
}

func (m *machine) compare(t *rapid.T, st State, want map[string]Entry) {
	keys := slices.Sorted(maps.Keys(want))
	from, i := "", 0
	m.retry(t, func() error {
		var bad error
		err := st.Root.Dir.Scan(from, func(key string, v Entry) bool {
			w := want[key]
			if i >= len(keys) || keys[i] != key || !sameEntry(&v, &w) && !equalContent(m, v, w) {
				bad = fmt.Errorf("item %d is %q", i, key)
				return false
			}
			from, i = key+"\x00", i+1
			return true
		})
		return errors.Join(bad, err)
	})
	if i != len(keys) {
		t.Fatalf("%d of %d entries", i, len(keys))
	}
}

// equalContent allows for extents that came back from the store while the model
// still has the pending ones, of a commit that was lost.
func equalContent(_ *machine, v, w Entry) bool {
	if v.Inode == nil || w.Inode == nil {
		return false
	}
	a, b := *v.Inode, *w.Inode
	a.Extents, b.Extents = Extents{}, Extents{}
	return v.Inode.Extents.Empty() == w.Inode.Extents.Empty() && sameInode(&a, &b)
}

func TestMapAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{store: newMemory(100 << 10), edit: NewEdit(), st: emptyState(), want: map[string]Entry{}}
		t.Repeat(map[string]func(*rapid.T){
			"": m.Check, "set": m.Set, "set many": m.SetMany, "delete": m.Delete, "delete many": m.DeleteMany,
			"get": m.Get, "floor": m.Floor, "snapshot": m.Snapshot, "commit": m.Commit, "lose": m.LoseCommit,
			"evict": m.Evict, "reopen": m.Reopen, "diff": m.Diff,
		})
	})
}
