package check

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"kist/backend"
	"kist/backend/mem"
	"kist/fs"
	"kist/fs/log"
)

// lived makes a vault with some of everything, on two machines.
func lived(t testing.TB) (w *world, a, b *machine) {
	w = newWorld(t)
	a = w.machine("a")
	dir := a.mkdir(1, "dir")
	a.write(dir, "inline", "hello")
	big := a.write(dir, "big", noise(1, 3<<20+77))
	a.write(1, "medium", noise(2, 5000))
	wide := a.mkdir(1, "wide")
	for i := range 700 {
		a.write(wide, fmt.Sprintf("file %04d", i), noise(uint64(i), 600))
	}
	a.sync()
	f := a.write(1, "linked", noise(3, 1000))
	_, err := a.v.Link(ctx, f, dir, "second")
	w.must(err)
	_, err = a.v.Symlink(ctx, fs.Cred{}, dir, "link", "nowhere")
	w.must(err)
	_, err = a.v.Create(ctx, fs.Cred{}, dir, "fifo", syscall.S_IFIFO|0o600, 0)
	w.must(err)
	sparse := a.write(dir, "sparse", "x")
	a.put(sparse, noise(4, 4096), 1<<30)
	a.put(big, noise(5, 300), 1<<20+5)
	a.sync()
	b = w.machine("b")
	for _, name := range []string{"dir", "wide"} { // as a kernel does
		_, err := b.v.Lookup(ctx, 1, name)
		w.must(err)
	}
	_, err = b.v.Lookup(ctx, wide, "file 0001")
	w.must(err)
	b.write(wide, "from b", noise(6, 9000))
	w.must(b.v.Unlink(ctx, wide, "file 0001"))
	w.must(b.v.Rename(ctx, 1, "dir", wide, "moved", 0))
	b.sync()
	w.must(a.v.Follow(ctx))
	a.put(big, noise(7, 70000), 2<<20)
	a.sync()
	return w, a, b
}

func TestClean(t *testing.T) {
	w, a, b := lived(t)
	for _, readData := range []bool{false, true} {
		view := w.store.View("check")
		was := maps.Clone(a.files.m)
		r := a.clean(view, readData)
		for verb := range view.Counts() {
			if verb != mem.Get && verb != mem.GetRange && verb != mem.List {
				t.Errorf("a check sent %s", verb)
			}
		}
		for name, raw := range a.files.m {
			if string(was[name]) != string(raw) {
				t.Error("the trust file was written")
			}
		}
		if r.Files != 5+700 || r.Directories != 3 || r.Symlinks != 1 || r.Specials != 1 {
			t.Errorf("%d files, %d directories, %d symlinks, %d specials", r.Files, r.Directories, r.Symlinks, r.Specials)
		}
		if r.Commits != a.v.Status().Head.Seq+1 || r.VoidSlots != 0 || r.Identities != 3 {
			t.Errorf("%d commits, %d void, %d identity objects", r.Commits, r.VoidSlots, r.Identities)
		}
		if readData && (r.Trees != r.Commits || int(r.Packs) != len(w.keys("/packs/")) || r.Unreferenced != 0) {
			t.Errorf("%d trees of %d commits, %d packs, %d unreferenced", r.Trees, r.Commits, r.Packs, r.Unreferenced)
		}
		if raw, err := json.Marshal(r); err != nil || strings.Contains(string(raw), "moved") {
			t.Errorf("%s %v", raw, err)
		}
		if len(r.Scope) == 0 {
			t.Error("does not say what was checked")
		}
	}
	b.clean(w.store, true)
	cfg := b.config(w.store, true)
	cfg.Trust = nil
	if r, err := Run(ctx, cfg); err != nil || r.Damaged() {
		t.Errorf("without a memory: %v %+v", err, r.Problems)
	}
}

// damage is one thing that happens to a store and what a check must say of it.
func TestDamage(t *testing.T) {
	w, a, _ := lived(t)
	var large, small string // the packs with the most and the least in them
	for _, k := range w.keys("/packs/") {
		if large == "" || len(w.store.Peek(k)) > len(w.store.Peek(large)) {
			large = k
		}
		if small == "" || len(w.store.Peek(k)) < len(w.store.Peek(small)) {
			small = k
		}
	}
	short := func(key string) string { return "packs/" + key[len(key)-64:len(key)-52] }
	slot := func(seq int) string {
		return fmt.Sprintf("%s%016x", (&checker{cfg: a.config(nil, true)}).folder("log"), seq)
	}
	foreign := newWorld(t)
	for _, c := range []struct {
		name   string
		do     func(s *mem.Store)
		kind   Kind
		where  string
		what   string
		always bool // also without ReadData
	}{
		{"missing pack", func(s *mem.Store) { s.Plant(large, nil) }, KindPack, short(large), "missing", true},
		{"truncated pack", func(s *mem.Store) { s.Plant(large, s.Peek(large)[:1<<20]) }, KindPack, short(large), "", true},
		{"pack without its last byte", func(s *mem.Store) { s.Plant(large, s.Peek(large)[:len(s.Peek(large))-1]) }, KindPack, short(large), "name", false},
		{"swapped packs", func(s *mem.Store) {
			x, y := s.Peek(large), s.Peek(small)
			s.Plant(large, y)
			s.Plant(small, x)
		}, KindPack, short(large), "", true},
		{"missing slot", func(s *mem.Store) { s.Plant(slot(2), nil) }, KindLog, atSlot(2), "", true},
		{"two missing slots", func(s *mem.Store) { s.Plant(slot(2), nil); s.Plant(slot(4), nil) }, KindLog, atSlot(4), "", true},
		{"two missing slots, the lower", func(s *mem.Store) { s.Plant(slot(2), nil); s.Plant(slot(4), nil) }, KindLog, atSlot(2), "missing", true},
		{"damaged slot", func(s *mem.Store) { s.Plant(slot(1), mem.Flip(8*300)(s.Peek(slot(1)))) }, KindLog, atSlot(1), "", true},
		{"newer slot below", func(s *mem.Store) { s.Plant(slot(1), mem.Flip(8*8+1)(s.Peek(slot(1)))) }, KindLog, atSlot(1), "", true},
		{"swapped slots", func(s *mem.Store) {
			x, y := s.Peek(slot(1)), s.Peek(slot(2))
			s.Plant(slot(1), y)
			s.Plant(slot(2), x)
		}, KindLog, atSlot(1), "", true},
		{"missing identity object", func(s *mem.Store) { s.Plant(w.keys("ids/")[0], nil) }, KindIdentity, "0000", "missing", true},
		{"swapped identity objects", func(s *mem.Store) {
			x, y := s.Peek(w.keys("ids/")[1]), s.Peek(w.keys("ids/")[2])
			s.Plant(w.keys("ids/")[1], y)
			s.Plant(w.keys("ids/")[2], x)
		}, KindIdentity, "0001", "does not verify", true},
		{"junk behind the identity chain", func(s *mem.Store) { s.Plant(w.keys("ids/")[0][:85-16]+"0000000000000003", []byte("x")) }, KindIdentity, "0003", "does not verify", true},
		{"stranger's bad identity", func(s *mem.Store) {
			s.Plant(foreign.keys("ids/")[0], mem.Flip(900)(foreign.store.Peek(foreign.keys("ids/")[0])))
		}, KindIdentity, "0000", "does not verify", false},
		{"damaged header", func(s *mem.Store) { s.Plant(headerKey, mem.Flip(3)(s.Peek(headerKey))) }, KindHeader, headerKey, "damaged", true},
		{"another store's header", func(s *mem.Store) { s.Plant(headerKey, mem.Flip(26*8)(s.Peek(headerKey))) }, KindHeader, headerKey, "", true},
		{"unreferenced pack under a wrong name", func(s *mem.Store) {
			s.Plant(large[:len(large)-1]+"e", []byte("x"))
			s.Plant(large[:len(large)-1]+"f", []byte("x"))
		}, KindPack, short(large), "name", false},
	} {
		for _, readData := range []bool{false, true} {
			if !readData && !c.always {
				continue
			}
			s := w.store.Clone("damaged")
			c.do(s)
			r, err := Run(ctx, a.config(s, readData))
			if err != nil && c.kind != KindIdentity {
				t.Errorf("%s: %v", c.name, err)
			}
			if !r.Damaged() || !says(r.Problems, c.kind, c.where, c.what) {
				t.Errorf("%s (data %v): %+v", c.name, readData, r.Problems)
			}
			if strings.Contains(c.name, "pack") || strings.Contains(c.name, "slot") && r.Files == 0 {
				if r.Commits == 0 || r.Directories == 0 {
					t.Errorf("%s: stopped at the first problem", c.name)
				}
			}
		}
	}
}

// What is gone with a pack is told by file.
func TestDamageNamesFiles(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	f := a.write(1, "f", noise(1, 70000))
	g := a.write(1, "g", noise(2, 200))
	a.sync()
	first := w.keys("/packs/")[0]
	a.write(1, "h", noise(3, 80000))
	a.sync()
	_ = g
	s := w.store.Clone("damaged")
	s.Plant(first, nil)
	for _, readData := range []bool{false, true} {
		cfg := a.config(s, readData)
		r, err := Run(ctx, cfg)
		w.must(err)
		if !says(r.Problems, KindContent, atInode(f), "1 pieces cannot be read") {
			t.Errorf("%+v", r.Problems)
		}
		cfg.Names = true
		r, err = Run(ctx, cfg)
		w.must(err)
		named := 0
		for _, p := range r.Problems {
			if p.Path != "" {
				named++
			}
			if p.Path != "" && p.Path != "/f" {
				t.Errorf("%+v", p)
			}
		}
		if named != 1 {
			t.Errorf("%+v", r.Problems)
		}
	}
}

// A file that only history has is checked as well, with ReadData.
func TestDamageOfHistory(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	f := a.write(1, "f", noise(1, 70000))
	a.sync()
	pack := w.keys("/packs/")[0]
	w.must(a.v.Unlink(ctx, 1, "f"))
	a.sync()
	s := w.store.Clone("damaged")
	s.Plant(pack, nil)
	a.clean(s, false)
	r, err := Run(ctx, a.config(s, true))
	w.must(err)
	if !says(r.Problems, KindPack, "packs/", "missing") {
		t.Errorf("%+v", r.Problems)
	}
	s.Plant(pack, mem.Flip(8*1000)(w.store.Peek(pack)))
	if r, err = Run(ctx, a.config(s, true)); err != nil || !says(r.Problems, KindContent, atInode(f), "in an earlier commit") {
		t.Errorf("%v %+v", err, r.Problems)
	}
}

// What nobody refers to is told of and is no damage.
func TestStrangers(t *testing.T) {
	w, a, b := lived(t)
	s := w.store.Clone("strangers")
	head := a.v.Status().Head.Seq
	folder := (&checker{cfg: a.config(nil, true)}).folder
	s.Plant(fmt.Sprintf("%s%016x", folder("log"), head+1), []byte("junk"))
	s.Plant(fmt.Sprintf("%s%016x", folder("log"), head+9), []byte("junk"))
	s.Plant(folder("packs")+fmt.Sprintf("%x", sha256.Sum256([]byte("junk"))), []byte("junk"))
	s.Plant(folder("packs")+"readme", []byte("junk"))
	s.Plant(strings.TrimSuffix(folder("hint"), "/"), []byte("\xff\xff\xff\xff\xff\xff\xff\xff"))
	s.Plant("ids/x", []byte("junk"))
	s.Plant("ids/\x1b[2J", []byte("junk"))
	foreign := newWorld(t)
	s.Plant(foreign.keys("ids/")[0], foreign.store.Peek(foreign.keys("ids/")[0]))
	r := a.clean(s, true)
	for _, want := range [][2]string{
		{atSlot(head + 1), "holds no commit"}, {atSlot(head + 9), "above"}, {"packs/", "not a pack of this vault"},
		{"readme", "no place"}, {"hint", "nowhere"}, {"ids/x", "no place"}, {`\x1b[2J`, "no place"}, {"packs", "1 packs"},
	} {
		if !says(r.Notes, KindStranger, want[0], want[1]) && !says(r.Notes, KindLog, want[0], want[1]) {
			t.Errorf("nothing of %v: %+v", want, r.Notes)
		}
	}
	if r.Unreferenced != 1 || r.UnreferencedBytes != 4 || r.Strangers != 4 || r.VoidSlots != 1 || r.Identities != 4 {
		t.Errorf("%+v", r)
	}

	// Junk that the next commit names.
	w.store.Plant(fmt.Sprintf("%s%016x", folder("log"), head+1), []byte("junk"))
	b.write(1, "past the junk", "x")
	b.sync()
	r = a.clean(w.store, true)
	if r.VoidSlots != 1 || !says(r.Notes, KindLog, atSlot(head+1), "the next one says so") {
		t.Errorf("%+v", r.Notes)
	}
	before := r.Unreferenced // what b had packed for the slot that was taken

	// An upload that no commit followed.
	s = w.store.Clone("interrupted")
	c := w.machine("c")
	c.write(1, "never", noise(9, 9000))
	c.sync()
	pack := difference(w.keys("/packs/"), s.Keys())
	s.Plant(pack, w.store.Peek(pack))
	if r := a.clean(s, true); r.Unreferenced != before+1 {
		t.Errorf("%+v", r)
	}
}

// A machine without memory comes by when an old slot is damaged: it does not take
// the commits above, which members signed, for junk.
func TestSplit(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	for i := range 4 {
		a.write(1, fmt.Sprint(i), "x")
		a.sync()
	}
	slots := w.keys("/log/")
	s := w.store.Clone("split")
	s.Plant(slots[2], mem.Flip(8*700)(s.Peek(slots[2])))
	cfg := a.config(s, false)
	cfg.Trust = nil
	r, err := Run(ctx, cfg)
	if !errors.Is(err, log.ErrWithheld) || !says(r.Problems, KindLog, "log", "in slot 2 ") {
		t.Errorf("%v %+v", err, r.Problems)
	}
}

func difference(all, old []string) string {
	had := map[string]bool{}
	for _, k := range old {
		had[k] = true
	}
	for _, k := range all {
		if !had[k] {
			return k
		}
	}
	return ""
}

func TestRefused(t *testing.T) {
	w, a, b := lived(t)
	old := w.store.Clone("old")
	a.write(1, "new", noise(1, 1000))
	a.sync()
	r, err := Run(ctx, a.config(old, true))
	if !errors.Is(err, log.ErrRollback) || !says(r.Problems, KindRefused, "log", "") || r.Files == 0 {
		t.Errorf("rolled back: %v %+v", err, r.Problems)
	}
	b.clean(old, true) // b has seen nothing newer
	fork := w.store.Clone("fork")
	head := a.v.Status().Head.Seq
	slot := fmt.Sprintf("%s%016x", (&checker{cfg: a.config(nil, true)}).folder("log"), head)
	fork.Plant(slot, mem.Flip(4000)(fork.Peek(slot)))
	if r, err = Run(ctx, a.config(fork, true)); !errors.Is(err, log.ErrFork) || r.Files == 0 {
		t.Errorf("forked: %v %+v", err, r.Problems)
	}
	w.must(b.v.Follow(ctx))
	genesis := w.store.Clone("no genesis")
	genesis.Plant(strings.Replace(slot, fmt.Sprintf("%016x", head), fmt.Sprintf("%016x", 0), 1), nil)
	r, err = Run(ctx, b.config(genesis, true))
	if err == nil || away(err) || !r.Damaged() {
		t.Errorf("no genesis: %v", err)
	}
	ids := w.store.Clone("ids")
	for _, k := range w.keys("ids/")[2:] {
		ids.Plant(k, nil)
	}
	if r, err = Run(ctx, b.config(ids, true)); err == nil || !says(r.Problems, KindIdentity, "0002", "missing") {
		t.Errorf("identity rolled back: %v %+v", err, r.Problems)
	}
}

// An away store is an error and never damage, wherever it goes away.
func TestAway(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	f := a.write(1, "f", noise(1, 70000))
	_, err := a.v.Link(ctx, f, 1, "g")
	w.must(err)
	a.sync()
	for _, readData := range []bool{false, true} {
		for n := 1; ; n++ {
			s := w.store.View("away")
			var met atomic.Bool // several requests run at once
			s.SetHook(func(r mem.Request) mem.Answer {
				if r.N < n {
					return mem.Answer{}
				}
				met.Store(true)
				return mem.Answer{Before: fmt.Errorf("%w: gone", backend.ErrAway)}
			})
			r, err := Run(ctx, a.config(s, readData))
			if !met.Load() {
				w.must(err)
				break
			}
			if !errors.Is(err, backend.ErrAway) || r.Damaged() {
				t.Fatalf("request %d: %v %+v", n, err, r.Problems)
			}
		}
	}
	s := w.store.Clone("no header")
	s.Plant(headerKey, nil)
	if _, err := Run(ctx, a.config(s, false)); !errors.Is(err, backend.ErrAway) {
		t.Error(err)
	}
}
