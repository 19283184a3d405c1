package check

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"kist/crypto/seal"
	"kist/fs/log"
	"kist/fs/pack"
	"kist/fs/tree"
)

// mallory is a member who writes what no engine would.
type mallory struct {
	*machine
	l       *log.Log
	edit    *tree.Edit
	sealing *tree.Sealing
}

const number = 77 // mallory's device

func ino(n uint64) uint64 { return number<<32 | n }

func newMallory(w *world) *mallory {
	m := &mallory{machine: w.device("mallory"), edit: tree.NewEdit()}
	var err error
	m.l, err = log.Open(ctx, log.Config{Store: w.store, Vault: w.vault, Session: m.session, Trust: m.trust, Now: w.now})
	w.must(err)
	p, err := m.l.Prepare(log.Body{Kind: log.Numbering, Row: &log.DeviceRow{Number: number}})
	w.must(err)
	w.must(m.l.Append(ctx, p))
	return m
}

// commit seals and commits a state; high is the device's mark.
func (m *mallory) commit(high uint32, build func() tree.State) {
	m.t.Helper()
	key, err := footerKey(ctx, m.l, 0)
	m.must(err)
	sink := pack.NewWriter(pack.Footer{Vault: m.vault, Key: key}, func(p pack.Pack) error {
		return m.store.Put(ctx, pack.ObjectKey(m.vault, p.Name), p.Bytes, p.Name)
	})
	m.sealing = tree.NewSealing(m.vault, sink)
	m.must(m.sealing.SealState(build()))
	last, err := sink.Close()
	m.must(err)
	m.sealing.Finish(last)
	root, err := m.sealing.State()
	m.must(err)
	p, err := m.l.Prepare(log.Body{Kind: log.Ordinary, Root: root, Row: &log.DeviceRow{Number: number, HighIno: high, Op: 1}})
	m.must(err)
	m.must(m.l.Append(ctx, p))
}

func (m *mallory) blob(n int) *tree.Blob {
	b := tree.NewBlob(uint32(n), nil)
	sealed, err := seal.SealBlob(m.vault, tree.KindChunk, []byte(noise(uint64(n), n)))
	m.must(err)
	m.must(m.sealing.PlaceChunk(sealed, b))
	return b
}

func file(n uint64) *tree.Inode { return &tree.Inode{Ino: n, Type: tree.TypeFile, Nlink: 1} }

func (m *mallory) dir(n uint64, entries map[string]tree.Entry) *tree.Inode {
	in := &tree.Inode{Ino: n, Type: tree.TypeDir, Nlink: 1}
	for name, e := range entries {
		m.must(in.Dir.Set(m.edit, name, e))
	}
	return in
}

func (m *mallory) table(records ...*tree.Inode) (t tree.Table) {
	for _, r := range records {
		m.must(t.Set(m.edit, tree.Key(r.Ino), r))
	}
	return t
}

func linked(n uint64, typ tree.Type) tree.Entry { return tree.Entry{Linked: true, Ino: n, Type: typ} }

func here(in *tree.Inode) tree.Entry { return tree.Entry{Inode: in} }

type entries = map[string]tree.Entry

func withLinks(n uint64, names uint32) *tree.Inode {
	f := file(n)
	f.Nlink = names
	return f
}

func TestEvilTrees(t *testing.T) {
	for _, c := range []struct {
		name        string
		high        uint32
		build       func(m *mallory) tree.State
		kind        Kind
		where, what string
	}{
		{"the same number twice", 9, func(m *mallory) tree.State {
			return tree.State{Root: m.dir(1, entries{"a": here(file(ino(5))), "b": here(file(ino(5)))})}
		}, KindInode, atInode(ino(5)), "two places"},
		{"the same number in a directory and in the table", 9, func(m *mallory) tree.State {
			return tree.State{Root: m.dir(1, entries{"a": here(file(ino(5))), "b": linked(ino(5), tree.TypeFile)}), Table: m.table(file(ino(5)))}
		}, KindInode, atInode(ino(5)), "two places"},
		{"the root's number", 9, func(m *mallory) tree.State {
			return tree.State{Root: m.dir(1, entries{"a": here(file(1))})}
		}, KindInode, atInode(1), "two places"},
		{"another root", 9, func(m *mallory) tree.State { return tree.State{Root: m.dir(ino(3), nil)} }, KindInode, atInode(ino(3)), "root"},
		{"too many links claimed", 9, func(m *mallory) tree.State {
			return tree.State{Root: m.dir(1, entries{"a": linked(ino(5), tree.TypeFile)}), Table: m.table(withLinks(ino(5), 2))}
		}, KindInode, atInode(ino(5)), "1 names, and the record says 2"},
		{"too few links claimed", 9, func(m *mallory) tree.State {
			return tree.State{Root: m.dir(1, entries{"a": linked(ino(5), tree.TypeFile), "b": linked(ino(5), tree.TypeFile)}), Table: m.table(withLinks(ino(5), 1))}
		}, KindInode, atInode(ino(5)), "2 names, and the record says 1"},
		{"a record without a name", 9, func(m *mallory) tree.State {
			return tree.State{Root: m.dir(1, nil), Table: m.table(withLinks(ino(5), 1))}
		}, KindInode, atInode(ino(5)), "without a name"},
		{"a name without a record", 9, func(m *mallory) tree.State {
			return tree.State{Root: m.dir(1, entries{"a": linked(ino(5), tree.TypeFile)}), Table: m.table()}
		}, KindInode, atInode(ino(5)), "does not have"},
		{"a name of another type", 9, func(m *mallory) tree.State {
			return tree.State{Root: m.dir(1, entries{"a": linked(ino(5), tree.TypeFifo)}), Table: m.table(file(ino(5)))}
		}, KindInode, atInode(ino(5)), "another type"},
		{"a number above the mark", 9, func(m *mallory) tree.State {
			return tree.State{Root: m.dir(1, entries{"a": here(file(ino(10)))})}
		}, KindDevice, "device 77", "above its mark"},
		{"a number of no device", 9, func(m *mallory) tree.State {
			return tree.State{Root: m.dir(1, entries{"a": here(file(78<<32 | 1))})}
		}, KindDevice, "device 78", "does not"},
		{"a number that no device gives", 9, func(m *mallory) tree.State {
			return tree.State{Root: m.dir(1, entries{"a": here(file(2))})}
		}, KindInode, atInode(2), "no device"},
		{"content beyond the size", 9, func(m *mallory) tree.State {
			f, g := file(ino(5)), file(ino(6))
			b := m.blob(100)
			for i := range uint64(6) {
				m.must(f.Extents.Set(m.edit, tree.Key(i*1000), tree.Extent{Len: 100, Blob: b}))
			}
			f.Size, g.Size = 9000, 5099
			g.Extents = f.Extents // sealed with f, whose size it fits
			return tree.State{Root: m.dir(1, entries{"a": here(f), "b": here(g)})}
		}, KindInode, atInode(ino(6)), "beyond its size"},
		{"a directory in two places", 9, func(m *mallory) tree.State {
			d := m.dir(ino(5), entries{"x": here(file(ino(7)))})
			e := *d
			e.Ino = ino(6)
			return tree.State{Root: m.dir(1, entries{"a": here(d), "b": here(&e)})}
		}, KindTree, "packs/", "two places"},
		{"sixty levels of shared pointers", 2000, func(m *mallory) tree.State {
			d := m.dir(ino(1), entries{"x": here(file(ino(2)))})
			for i := range uint64(60) {
				e, f := *d, *d
				e.Ino, f.Ino = ino(10+4*i), ino(11+4*i)
				d = m.dir(ino(12+4*i), entries{"a": here(&e), "b": here(&f)})
			}
			return tree.State{Root: m.dir(1, entries{"a": here(d)})}
		}, KindTree, "packs/", "two places"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMallory(newWorld(t))
			m.commit(c.high, func() tree.State { return c.build(m) })
			for _, readData := range []bool{false, true} {
				view := m.store.View("check")
				r, err := Run(ctx, m.config(view, readData))
				m.must(err)
				if !says(r.Problems, c.kind, c.where, c.what) {
					t.Errorf("%+v", r.Problems)
				}
				if n := len(view.Log()); n > 200 {
					t.Errorf("%d requests", n)
				}
			}
		})
	}
}

// A deep tree costs no stack, and many names that share a map cost little.
func TestDeepAndShared(t *testing.T) {
	m := newMallory(newWorld(t))
	m.commit(100000, func() tree.State {
		d := m.dir(ino(1), nil)
		for i := range uint64(3000) {
			d = m.dir(ino(2+i), entries{"d": here(d)})
		}
		f := file(ino(50000))
		b := m.blob(100)
		for i := range uint64(2000) {
			m.must(f.Extents.Set(m.edit, tree.Key(i*1000), tree.Extent{Len: 100, Blob: b}))
		}
		f.Size = 9000000
		root := entries{"deep": here(d)}
		for i := range uint64(2000) {
			g := *f
			g.Ino += i
			root[fmt.Sprint(i)] = here(&g)
		}
		return tree.State{Root: m.dir(1, root)}
	})
	for _, readData := range []bool{false, true} {
		view := m.store.View("check")
		cfg := m.config(view, readData)
		cfg.Names = true
		r, err := Run(ctx, cfg)
		m.must(err)
		if r.Damaged() || r.Directories != 3002 || r.Files != 2000 {
			t.Errorf("%+v", r.Problems)
		}
		if n := len(view.Log()); n > 200 {
			t.Errorf("%d requests", n)
		}
	}
}

// Directories and maps larger than what is kept in memory are walked in full.
func TestLarge(t *testing.T) {
	m := newMallory(newWorld(t))
	const many = 60000
	m.commit(many+9, func() tree.State {
		f := file(ino(many + 1))
		b := m.blob(100)
		for i := range uint64(40000) {
			m.must(f.Extents.Set(m.edit, tree.Key(i*1000), tree.Extent{Len: 100, Blob: b}))
		}
		f.Size = 40000000
		root := m.dir(1, entries{"sparse": here(f)})
		for i := range uint64(many) {
			m.must(root.Dir.Set(m.edit, fmt.Sprintf("%012d", i), here(file(ino(i+1)))))
		}
		return tree.State{Root: root}
	})
	for _, readData := range []bool{false, true} {
		view := m.store.View("check")
		r, err := Run(ctx, m.config(view, readData))
		m.must(err)
		if r.Damaged() || r.Files != many+1 {
			t.Errorf("%d files, %+v", r.Files, r.Problems)
		}
		if n := len(view.Log()); n > 200 {
			t.Errorf("%d requests", n)
		}
	}
}

// Behind a page that is gone, the rest of a map is found, whichever page it is.
func TestScanStepsOverPages(t *testing.T) {
	w := newWorld(t)
	m := newMallory(w)
	var names []string
	root := entries{}
	for i := range 4000 {
		name := fmt.Sprintf("%.*s%d", i%200, noise(uint64(i), 400), i)
		if tree.CheckName(name) != nil {
			continue
		}
		root[name] = here(file(ino(uint64(i + 1))))
		names = append(names, name)
	}
	slices.Sort(names)
	m.commit(9000, func() tree.State { return tree.State{Root: m.dir(1, root)} })
	reader := pack.NewReader(m.store, m.vault, 1<<20, 1<<20)
	fetch := func(miss *tree.Miss) error {
		plain, err := reader.Fetch(context.Background(), miss.Ptr)
		if err != nil {
			return err
		}
		return miss.Fill(plain)
	}
	pages := 1
	for bad := 0; bad < pages; bad++ {
		st, err := tree.ParseState(m.l.Head().Root)
		m.must(err)
		var order []seal.Fingerprint
		load := func(miss *tree.Miss) error {
			if !slices.Contains(order, miss.Ptr.Fingerprint) {
				order = append(order, miss.Ptr.Fingerprint)
			}
			if order[min(bad, len(order)-1)] == miss.Ptr.Fingerprint && bad < len(order) {
				return errPage
			}
			return fetch(miss)
		}
		var got []string
		whole, err := scan(st.Root.Dir, load, dropDir(st.Root.Dir), func(name string, _ tree.Entry) error {
			got = append(got, name)
			return nil
		})
		m.must(err)
		if whole {
			t.Fatalf("page %d was missing and nobody noticed", bad)
		}
		if bad == 1 {
			pages = len(order)
		} else if bad == 0 {
			pages = 2
		}
		missing := len(names) - len(got)
		if bad > 0 && (missing <= 0 || missing > 2000 && pages > 10 && bad > 3) {
			t.Errorf("page %d: %d of %d names are gone", bad, missing, len(names))
		}
		// What is there are all names but one run of them.
		front := 0
		for front < len(got) && got[front] == names[front] {
			front++
		}
		if !slices.Equal(got[front:], names[front+missing:]) {
			t.Errorf("page %d: more than one run of names is gone", bad)
		}
	}
	if pages < 10 {
		t.Fatalf("only %d pages", pages)
	}
}
