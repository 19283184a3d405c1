package fs

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// kernel is what the kernel keeps of a mount: for ever, but for what it is told to forget.
type kernel struct {
	m     *machine
	names map[place]Ino // 0: there is no such name
	attrs map[Ino]Attr
	data  map[Ino]string
	lists map[Ino]string
}

func (k *kernel) Entry(parent Ino, name string) {
	delete(k.names, place{parent, name})
	delete(k.lists, parent)
}
func (k *kernel) Inode(ino Ino) { delete(k.attrs, ino) }
func (k *kernel) Content(ino Ino) {
	delete(k.attrs, ino)
	delete(k.data, ino)
	delete(k.lists, ino)
}

// kernel lets the kernel look at everything, and at names that are not there.
func (m *machine) kernel() *kernel {
	m.d.t.Helper()
	k := &kernel{m, map[place]Ino{}, map[Ino]Attr{}, map[Ino]string{}, map[Ino]string{}}
	m.v.SetNotifier(k)
	all := map[string]bool{"f": true, "g": true, "d": true, "e": true, "n": true, "x": true}
	var dirs []Ino
	k.learn(RootIno, all, &dirs)
	for _, dir := range dirs {
		for name := range all {
			if _, ok := k.names[place{dir, name}]; !ok {
				k.names[place{dir, name}] = 0
			}
		}
	}
	return k
}

func (k *kernel) learn(dir Ino, all map[string]bool, dirs *[]Ino) {
	*dirs = append(*dirs, dir)
	k.attrs[dir], k.lists[dir] = k.stat(dir), k.list(dir)
	for _, e := range k.entries(dir) {
		all[e.Name] = true
		ino := k.look(dir, e.Name)
		k.names[place{dir, e.Name}] = ino
		k.attrs[ino] = k.stat(ino)
		switch e.Attr.Mode & syscall.S_IFMT {
		case syscall.S_IFDIR:
			k.learn(ino, all, dirs)
		case syscall.S_IFREG:
			k.data[ino] = k.read(ino, e.Attr.Size)
		}
	}
}

// right compares what is left of that with the truth, as far as a path leads there.
func (k *kernel) right() {
	k.m.d.t.Helper()
	k.rightIn(RootIno, "")
}

func (k *kernel) rightIn(dir Ino, path string) {
	t := k.m.d.t
	t.Helper()
	k.rightInode(dir, path)
	if old, ok := k.lists[dir]; ok && old != k.list(dir) {
		t.Errorf("%s: the kernel lists in %q %q, not %q", k.m.name, path, old, k.list(dir))
	}
	for at, ino := range k.names {
		if at.Parent == dir && k.look(dir, at.Name) != ino {
			t.Errorf("%s: the kernel finds at %q inode %d, not %d", k.m.name, path+at.Name, ino, k.look(dir, at.Name))
		}
	}
	for _, e := range k.entries(dir) {
		k.look(dir, e.Name)
		if e.Attr.Mode&syscall.S_IFMT == syscall.S_IFDIR {
			k.rightIn(e.Attr.Ino, path+e.Name+"/")
		} else {
			k.rightInode(e.Attr.Ino, path+e.Name)
		}
	}
}

func (k *kernel) rightInode(ino Ino, path string) {
	t, now := k.m.d.t, k.stat(ino)
	t.Helper()
	if old, ok := k.attrs[ino]; ok && old != now {
		t.Errorf("%s: the kernel shows of %q %+v, not %+v", k.m.name, path, old, now)
	}
	if old, ok := k.data[ino]; ok && old != k.read(ino, now.Size) {
		t.Errorf("%s: the kernel reads from %q %q, not %q", k.m.name, path, old, k.read(ino, now.Size))
	}
}

func (k *kernel) stat(ino Ino) Attr {
	a, err := k.m.v.Getattr(context.Background(), ino)
	k.m.d.check(err)
	return a
}

func (k *kernel) look(dir Ino, name string) Ino {
	a, err := k.m.v.Lookup(context.Background(), dir, name)
	if err == syscall.ENOENT {
		return 0
	}
	k.m.d.check(err)
	return a.Ino
}

func (k *kernel) read(ino Ino, size uint64) string {
	b := make([]byte, size)
	n, err := k.m.v.Read(context.Background(), ino, b, 0)
	k.m.d.check(err)
	return string(b[:n])
}

func (k *kernel) entries(dir Ino) []DirEnt {
	ents, err := k.m.v.ReadDir(context.Background(), dir, "", 1<<20)
	k.m.d.check(err)
	return ents
}

func (k *kernel) list(dir Ino) string {
	var out []string
	for _, e := range k.entries(dir) {
		out = append(out, fmt.Sprint(e.Name, " ", e.Attr.Ino))
	}
	return strings.Join(out, ", ")
}

// What a moved directory holds is in no difference of the trees, unless one looks.
func TestKernelForgetsBelowWhatMoved(t *testing.T) {
	for _, c := range []struct{ base, theirs string }{
		{"mkdir d; new d/f x", "mv d e; rm e/f; new e/f a"},
		{"mkdir d; new d/f x", "mv d e; put e/f 0 a"},
		{"mkdir d; mkdir d/e; new d/e/f x", "mv d n; save n/e/f a"},
		{"mkdir d; mkdir d/e; new d/e/f x", "mkdir n; mv d n/d; save n/d/e/f a; chmod n/d/e 0700"},
		{"mkdir d; mkdir d/e; new d/e/f x", "mv d/e e; rmdir d; new e/g a"},
		{"mkdir d; new d/f xx", "mv d/f f; put f 0 a; rmdir d"},
		{"mkdir d; mkdir e; new d/f x; new e/f y", "mv d n; mv e d; rm d/f; new n/g z"},
	} {
		t.Run(c.theirs, func(t *testing.T) {
			d := newDrive(t)
			a, b := d.machine("a"), d.machine("b")
			a.do(c.base + "; sync")
			b.do("follow")
			k := b.kernel()
			kept := maps.Clone(k.names)
			a.do(c.theirs + "; sync")
			b.do("follow")
			k.right()
			same(t, a, b)
			if left := slices.Collect(maps.Keys(k.names)); len(left) == len(kept) {
				t.Error("the kernel was told nothing")
			}
		})
	}
}
