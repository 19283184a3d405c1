package mount

import (
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"kist/fs"
)

// Offsets of a directory stream. What stands in a reply is the offset at which
// the next one goes on: offDot follows ".", offDotDot follows "..", and
// offNames+i follows the table's i-th name.
const (
	offDot    = 1
	offDotDot = 2
	offNames  = 3
)

// keptNames bounds what is remembered of directories that nobody has open.
const keptNames = 1 << 18

// dirTable gives the names of one directory offsets that stay what they are.
// A listing goes on after the name of its offset, so it is right whatever
// changed meanwhile. The kernel keeps a listing with its offsets and may
// continue it through another handle: one table serves all handles of a
// directory, and only while it lives may the kernel use what it kept.
type dirTable struct {
	mu     sync.Mutex
	names  []string
	sorted []uint32 // indexes of names in the order of the names
	served bool     // a handle of this table was listed, so nothing older is kept

	pass int // names listed since the last listing began
	live int // names that the last whole listing had

	refs int // open handles; guarded by adapter.mu
}

// offset returns the offset that follows name, and makes one if need be.
func (t *dirTable) offset(name string) uint64 {
	i, ok := slices.BinarySearchFunc(t.sorted, name, func(j uint32, s string) int { return strings.Compare(t.names[j], s) })
	if !ok {
		t.sorted = slices.Insert(t.sorted, i, uint32(len(t.names)))
		t.names = append(t.names, name)
	}
	return offNames + uint64(t.sorted[i])
}

// after returns the name after which a listing goes on; false: no such offset.
func (t *dirTable) after(off uint64) (string, bool) {
	if off < offNames {
		return "", true
	}
	if off-offNames >= uint64(len(t.names)) {
		return "", false
	}
	return t.names[off-offNames], true
}

// dirTables are the tables of a mount, guarded by adapter.mu.
type dirTables struct {
	tables map[fs.Ino]*dirTable
	idle   int // weight of those that no handle uses
}

// weight is what a table costs while nobody uses it; it changes only while
// somebody does.
func (t *dirTable) weight() int { return len(t.names) + 8 }

// open counts a handle and says whether the kernel may use a listing that it
// kept: not one whose offsets no table explains any more.
func (d *dirTables) open(ino fs.Ino) (keep bool) {
	t := d.tables[ino]
	if t != nil && t.refs == 0 {
		d.idle -= t.weight()
		if t.worn() {
			t = nil
		}
	}
	if t == nil {
		t = &dirTable{}
		d.tables[ino] = t
	}
	t.refs++
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.served
}

// worn tells whether most of the names are of the past.
func (t *dirTable) worn() bool { return len(t.names) > 2*t.live+1024 }

// close gives a handle back. Tables that no handle uses are kept for the
// kernel's sake while there is room.
func (d *dirTables) close(ino fs.Ino) {
	t := d.tables[ino]
	if t == nil {
		return
	}
	if t.refs--; t.refs > 0 {
		return
	}
	d.idle += t.weight()
	for other, t := range d.tables {
		if d.idle <= keptNames {
			return
		}
		if t.refs == 0 {
			d.drop(other, t)
		}
	}
}

func (d *dirTables) forget(ino fs.Ino) {
	if t := d.tables[ino]; t != nil && t.refs == 0 {
		d.drop(ino, t)
	}
}

func (d *dirTables) drop(ino fs.Ino, t *dirTable) {
	d.idle -= t.weight()
	delete(d.tables, ino)
}

func (a *adapter) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	out.OpenFlags = fuse.FOPEN_CACHE_DIR
	if a.dirs.open(in.NodeId) {
		out.OpenFlags |= fuse.FOPEN_KEEP_CACHE
	}
	return fuse.OK
}

func (a *adapter) ReleaseDir(in *fuse.ReleaseIn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.dirs.close(in.NodeId)
}

// Bytes that an entry of a reply takes, with a name of middling length.
const (
	entrySize     = 24 + 24
	entryPlusSize = 128 + entrySize
)

func (a *adapter) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return a.list(cancel, in, entrySize, func(e fuse.DirEntry, _ *fs.Attr) bool { return out.AddDirEntry(e) })
}

func (a *adapter) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return a.list(cancel, in, entryPlusSize, func(e fuse.DirEntry, attr *fs.Attr) bool {
		entry := out.AddDirLookupEntry(e)
		if entry == nil {
			return false
		}
		if attr != nil {
			a.fs.Ref(attr.Ino, in.NodeId, e.Name)
			a.entry(attr, entry)
		}
		return true
	})
}

// list adds entries from in.Offset on until add says that the reply is full.
// "." and ".." come without attributes: the kernel takes no reference to them.
func (a *adapter) list(cancel <-chan struct{}, in *fuse.ReadIn, size int, add func(fuse.DirEntry, *fs.Attr) bool) fuse.Status {
	ctx := newRequest(cancel)
	defer ctx.finish()
	a.mu.Lock()
	t := a.dirs.tables[in.NodeId]
	a.mu.Unlock()
	if t == nil {
		return fuse.EBADF
	}
	t.mu.Lock()
	t.served = true
	from, ok := t.after(in.Offset)
	t.mu.Unlock()
	if !ok {
		return fuse.EINVAL
	}
	limit := max(1, int(in.Size)/size)
	ents, err := a.fs.ReadDir(ctx, in.NodeId, from, limit)
	if err != nil {
		return a.fail("readdir", err)
	}
	if in.Offset < offDot && !add(fuse.DirEntry{Name: ".", Ino: in.NodeId, Mode: syscall.S_IFDIR, Off: offDot}, nil) {
		return fuse.OK
	}
	if in.Offset < offDotDot && !add(fuse.DirEntry{Name: "..", Ino: a.fs.Parent(in.NodeId), Mode: syscall.S_IFDIR, Off: offDotDot}, nil) {
		return fuse.OK
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.add(in.Offset, ents, len(ents) < limit, add)
	return fuse.OK
}

// add emits what fits and counts the names of a whole pass. It is called under
// t.mu.
func (t *dirTable) add(off uint64, ents []fs.DirEnt, last bool, emit func(fuse.DirEntry, *fs.Attr) bool) {
	if off == 0 {
		t.pass = 0
	}
	for i := range ents {
		e := &ents[i]
		if !emit(fuse.DirEntry{Name: e.Name, Ino: e.Attr.Ino, Mode: e.Attr.Mode, Off: t.offset(e.Name)}, &e.Attr) {
			return
		}
		t.pass++
	}
	if last {
		t.live = t.pass
	}
}
