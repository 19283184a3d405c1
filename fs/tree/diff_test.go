package tree

import (
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// flatten lists a state as (directory, name) → entry, and the table.
func flatten(t tester, m *memory, st State) map[string]Entry {
	t.Helper()
	all := map[string]Entry{"/": {Inode: st.Root, Ino: st.Root.Ino, Type: TypeDir}}
	var down func(ino uint64, d Dir)
	down = func(ino uint64, d Dir) {
		from := ""
		var subs []*Inode
		err := Load(m.load, func() error {
			return d.Scan(from, func(name string, v Entry) bool {
				all[fmt.Sprint(ino, "/", name)], from = v, name+"\x00"
				if v.Type == TypeDir {
					subs = append(subs, v.Inode)
				}
				return true
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, in := range subs {
			down(in.Ino, in.Dir)
		}
	}
	down(st.Root.Ino, st.Root.Dir)
	from := ""
	if err := Load(m.load, func() error {
		return st.Table.Scan(from, func(key string, in *Inode) bool {
			all["table "+key], from = *tableEntry(&in), key+"\x00"
			return true
		})
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// edits changes two levels of directories and the table in a few places.
func edits(t *rapid.T, m *memory, st *State, e *Edit) {
	root := *st.Root
	try := func(op func() error) {
		if err := Load(m.load, op); err != nil {
			t.Fatal(err)
		}
	}
	for range rapid.IntRange(0, 8).Draw(t, "edits") {
		n := rapid.Uint64Range(0, 400).Draw(t, "n")
		in := file(n + 100)
		in.VerOp = rapid.Uint64().Draw(t, "op")
		name := fmt.Sprintf("dir %d", n%7)
		switch rapid.IntRange(0, 5).Draw(t, "what") {
		case 0:
			try(func() error { return st.Table.Set(e, Key(in.Ino), in) })
		case 1:
			try(func() error { _, err := st.Table.Delete(e, Key(in.Ino)); return err })
		case 2:
			try(func() error { return root.Dir.Set(e, fmt.Sprint("file ", n), Entry{Inode: in}) })
		case 3:
			try(func() error { _, err := root.Dir.Delete(e, fmt.Sprint("file ", n)); return err })
		case 4: // another directory of that name
			sub := dir(1000 + n)
			try(func() error { return root.Dir.Set(e, name, Entry{Inode: sub}) })
		case 5: // in a directory
			try(func() error {
				v, ok, err := root.Dir.Get(name)
				if err != nil || !ok {
					return err
				}
				sub := *v.Inode
				if err := sub.Dir.Set(e, fmt.Sprint("file ", n), Entry{Inode: in}); err != nil {
					return err
				}
				return root.Dir.Set(e, name, Entry{Inode: &sub})
			})
		}
	}
	st.Root = &root
}

func TestDiffAgainstNaive(t *testing.T) {
	base, store := emptyState(), newMemory(1<<20)
	e := NewEdit()
	for i := range uint64(400) {
		mustSet(t, &base.Root.Dir, e, fmt.Sprint("file ", i), Entry{Inode: file(i + 100)})
		mustSet(t, &base.Table, e, Key(i*3+100), file(i*3+100))
	}
	for i := range uint64(7) {
		sub := dir(2000 + i)
		for j := range 300 {
			mustSet(t, &sub.Dir, e, fmt.Sprint("file ", j), Entry{Inode: file(5000 + i*300 + uint64(j))})
		}
		mustSet(t, &base.Root.Dir, e, fmt.Sprint("dir ", i), Entry{Inode: sub})
	}
	raw := store.commit(t, base)
	rapid.Check(t, func(t *rapid.T) {
		a, err := ParseState(raw)
		if err != nil {
			t.Fatal(err)
		}
		edits(t, store, &a, NewEdit())
		b := a
		edits(t, store, &b, NewEdit())
		if rapid.Bool().Draw(t, "by way of the store") {
			if b, err = ParseState(store.commit(t, b)); err != nil {
				t.Fatal(err)
			}
		}
		compareDiff(t, store, a, b)
		compareDiff(t, store, b, a)
	})
}

func compareDiff(t *rapid.T, store *memory, a, b State) {
	got := map[string]bool{}
	if err := Diff(a, b, store.load, func(c Change) error {
		v := c.New
		if v == nil {
			v = c.Old
		}
		key := fmt.Sprint(c.Parent, "/", c.Name)
		switch {
		case c.Table:
			key = "table " + Key(v.Ino)
		case c.Parent == 0:
			key = "/"
		}
		if got[key] {
			t.Fatalf("%q is reported twice", key)
		}
		got[key] = true
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	x, y := flatten(t, store, a), flatten(t, store, b)
	dirs := map[string]bool{} // directories of both
	for k, v := range x {
		if w, ok := y[k]; ok && v.Type == TypeDir && v.Ino == w.Ino {
			dirs[fmt.Sprint(v.Ino)] = true
		}
	}
	check := func(k string, v, w *Entry) {
		var parent string
		fmt.Sscanf(k, "%[0-9]", &parent)
		for i := range k {
			if k[i] == '/' {
				parent = k[:i]
				break
			}
		}
		want := v == nil || w == nil || !sameEntry(v, w)
		if parent != "" && k[0] != 't' && !dirs[parent] {
			want = false
		}
		if got[k] != want {
			t.Fatalf("%q: reported %v, want %v", k, got[k], want)
		}
	}
	for k, v := range x {
		if w, ok := y[k]; ok {
			check(k, &v, &w)
		} else {
			check(k, &v, nil)
		}
	}
	for k, w := range y {
		if _, ok := x[k]; !ok {
			check(k, nil, &w)
		}
	}
}

func TestDiffCostsWhatChanged(t *testing.T) {
	m, st, e, ino := newMemory(16<<20), emptyState(), NewEdit(), uint64(1)
	grow(t, e, &st.Root.Dir, &ino, 10, 2, 2000)
	old := m.commit(t, st)
	root := *st.Root
	mustSet(t, &root.Dir, NewEdit(), "file 01000", Entry{Inode: file(ino + 1)})
	st.Root = &root
	next := m.commit(t, st)

	a, errA := ParseState(old)
	b, errB := ParseState(next)
	m.reads = 0
	changes := 0
	err := Diff(a, b, m.load, func(c Change) error {
		changes++
		if c.Name != "file 01000" || c.Old == nil || c.New == nil {
			t.Errorf("%+v", c)
		}
		return nil
	})
	if err := errors.Join(err, errA, errB); err != nil {
		t.Fatal(err)
	}
	if changes != 1 || m.reads != 4 { // the root page and one leaf of both
		t.Errorf("%d changes, %d pages read", changes, m.reads)
	}
	var miss *Miss
	fresh, err := ParseState(next)
	if err != nil {
		t.Fatal(err)
	}
	if err := Diff(fresh, a, nil, func(Change) error { return nil }); !errors.As(err, &miss) {
		t.Error("without load:", err)
	}
}

// A hostile writer's directory in two places does not make a walk long.
func TestDiffOfADirectoryInTwoPlaces(t *testing.T) {
	twice := func(op uint64) State {
		e, st := NewEdit(), emptyState()
		in := dir(2)
		f := file(3)
		f.VerOp = op
		mustSet(t, &in.Dir, e, "f", Entry{Inode: f})
		mustSet(t, &st.Root.Dir, e, "a", Entry{Inode: in})
		mustSet(t, &st.Root.Dir, e, "b", Entry{Inode: in})
		return st
	}
	err := Diff(twice(1), twice(2), nil, func(Change) error { return nil })
	if !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
}

// A follower reads what was changed, not what is as it was: that it has in memory.
func TestDiffKeepsPagesInMemory(t *testing.T) {
	st, store, e := emptyState(), newMemory(1<<20), NewEdit()
	for i := range uint64(3000) {
		mustSet(t, &st.Root.Dir, e, fmt.Sprintf("file %04d", i), Entry{Inode: file(i + 100)})
	}
	first := store.commit(t, st)
	changed := file(200)
	changed.VerOp++
	root := *st.Root
	mustSet(t, &root.Dir, NewEdit(), "file 0100", Entry{Inode: changed})
	second := store.commit(t, State{Root: &root, Table: st.Table})
	a, err := ParseState(first)
	if err != nil {
		t.Fatal(err)
	}
	b, err := ParseState(second)
	if err != nil {
		t.Fatal(err)
	}
	all := flatten(t, store, a)
	pages := store.reads
	if err := Diff(a, b, store.load, func(Change) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if n := len(flatten(t, store, b)); n != len(all) {
		t.Fatalf("%d entries, want %d", n, len(all))
	}
	if more := store.reads - pages; pages < 10 || more > 3 {
		t.Errorf("%d pages were read, and %d more for one change", pages, more)
	}
}
