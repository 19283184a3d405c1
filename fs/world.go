package fs

import (
	"errors"
	"syscall"

	"kist/fs/tree"
)

// errNoInode: the number is not where it was last seen. rebase turns to its index
// and to a walk before it believes that an inode is gone.
var errNoInode = errors.New("fs: no such inode")

// world is one version of the vault's tree that can be changed. The pages below are
// persistent: a value copied out of it (freeze) stays as it is. A world has no lock of
// its own; the live one belongs to Vault.mu.
//
// Every method that needs a page which is not in memory returns *tree.Miss before it
// has changed anything: methods first read all that they will touch, then write.
type world struct {
	root  *tree.Inode
	table tree.Table
	edit  *tree.Edit
	dev   uint16 // the device number that goes into versions

	// where says under which name an inode was last seen: a hint, verified at each use.
	// The zero place means the inode table.
	where map[Ino]place
	// orphans are inodes without a name that are still open here, or were made without one.
	orphans map[Ino]*tree.Inode
	// dirty are files that may have content which is not in the store.
	dirty map[Ino]struct{}
}

func newWorld(st tree.State, dev uint16) *world {
	return &world{root: st.Root, table: st.Table, edit: tree.NewEdit(), dev: dev,
		where: map[Ino]place{}, orphans: map[Ino]*tree.Inode{}, dirty: map[Ino]struct{}{}}
}

// freeze returns the state as it is now; later changes copy what they touch.
func (w *world) freeze() tree.State {
	w.edit = tree.NewEdit()
	return tree.State{Root: w.root, Table: w.table}
}

// get returns the record of an inode, which must not be changed: see put.
func (w *world) get(ino Ino) (*tree.Inode, error) {
	if ino == RootIno {
		return w.root, nil
	}
	if rec, ok := w.orphans[ino]; ok {
		return rec, nil
	}
	at, ok := w.where[ino]
	if !ok {
		return nil, errNoInode
	}
	if at.Parent == 0 {
		return w.fromTable(ino)
	}
	dir, err := w.get(at.Parent)
	if err != nil && !errors.Is(err, errNoInode) {
		return nil, err
	}
	if err == nil {
		ent, ok, err := dir.Dir.Get(at.Name)
		if err != nil {
			return nil, err
		}
		if ok && ent.Ino == ino && !ent.Linked {
			return ent.Inode, nil
		}
	}
	return w.fromTable(ino) // one of its names is gone, or it got a second one
}

func (w *world) fromTable(ino Ino) (*tree.Inode, error) {
	rec, ok, err := w.table.Get(tree.Key(ino))
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errNoInode
	}
	return rec, nil
}

// child looks a name up in a directory and remembers where its inode stands.
func (w *world) child(dir Ino, name string) (tree.Entry, bool, error) {
	rec, err := w.get(dir)
	if err != nil {
		return tree.Entry{}, false, err
	}
	if rec.Type != tree.TypeDir {
		return tree.Entry{}, false, syscall.ENOTDIR
	}
	return rec.Dir.Get(name)
}

// inodeOf returns the record an entry leads to.
func (w *world) inodeOf(e tree.Entry) (*tree.Inode, error) {
	if e.Linked {
		return w.fromTable(e.Ino)
	}
	return e.Inode, nil
}

func placeOf(e tree.Entry, parent Ino, name string) place {
	if e.Linked {
		return place{}
	}
	return place{parent, name}
}

// put replaces the record of an inode that get has found, up the tree to the root.
func (w *world) put(rec *tree.Inode) error {
	if rec.Ino == RootIno {
		w.root = rec
		return nil
	}
	if _, ok := w.orphans[rec.Ino]; ok {
		w.orphans[rec.Ino] = rec
		return nil
	}
	at := w.where[rec.Ino]
	if at.Parent != 0 {
		ent, ok, err := w.child(at.Parent, at.Name)
		if err != nil && !errors.Is(err, errNoInode) {
			return err
		}
		if err == nil && ok && ent.Ino == rec.Ino && !ent.Linked {
			return w.setEntry(at, tree.Entry{Inode: rec})
		}
	}
	return w.table.Set(w.edit, tree.Key(rec.Ino), rec)
}

// setEntry puts an entry into a directory without touching the directory's times.
func (w *world) setEntry(at place, e tree.Entry) error {
	return w.editDir(at.Parent, func(d *tree.Inode) error { return d.Dir.Set(w.edit, at.Name, e) })
}

func (w *world) editDir(dir Ino, change func(*tree.Inode) error) error {
	old, err := w.get(dir)
	if err != nil {
		return err
	}
	d := *old
	if err := change(&d); err != nil {
		return err
	}
	return w.put(&d)
}

// link puts an entry under a name, with the times of the directory.
func (w *world) link(at place, e tree.Entry, now tree.Time) error {
	return w.editDir(at.Parent, func(d *tree.Inode) error {
		d.Mtime, d.Ctime = now, now
		return d.Dir.Set(w.edit, at.Name, e)
	})
}

func (w *world) unlink(at place, now tree.Time) error {
	return w.editDir(at.Parent, func(d *tree.Inode) error {
		d.Mtime, d.Ctime = now, now
		_, err := d.Dir.Delete(w.edit, at.Name)
		return err
	})
}

// apply carries one operation out. It is the only code that changes a tree: for calls
// of the kernel, for replay and for rebase alike. Errors other than *tree.Miss mean that
// the operation does not fit this tree, and nothing has changed.
func (w *world) apply(o *op) error {
	switch o.Kind {
	case opCreate:
		return w.applyCreate(o)
	case opLink:
		return w.applyLink(o)
	case opUnlink:
		return w.applyUnlink(o)
	case opRename:
		return w.applyRename(o)
	case opExchange:
		return w.applyExchange(o)
	case opPut:
		return w.applyPut(o)
	}
	return w.applyInode(o)
}

func (w *world) applyCreate(o *op) error {
	rec, err := decodeRec(o.Ino, o.Rec)
	if err != nil {
		return err
	}
	rec.VerDev, rec.VerOp = w.dev, o.mark()
	if o.To.Parent == 0 {
		rec.Nlink = 0
		w.orphans[o.Ino] = rec
		return nil
	}
	if err := w.free(o.To); err != nil {
		return err
	}
	if err := w.link(o.To, tree.Entry{Inode: rec}, o.Time); err != nil {
		return err
	}
	w.where[o.Ino] = o.To
	return nil
}

// free makes sure that a name can be made: its directory is there and it is not taken.
func (w *world) free(at place) error {
	_, ok, err := w.child(at.Parent, at.Name)
	if err == nil && ok {
		err = syscall.EEXIST
	}
	return err
}

func (w *world) applyLink(o *op) error {
	rec, err := w.get(o.Ino)
	if err != nil {
		return err
	}
	if err := w.free(o.To); err != nil {
		return err
	}
	n := *rec
	n.Ctime, n.VerDev, n.VerOp = o.Time, w.dev, o.mark()
	if _, orphan := w.orphans[o.Ino]; orphan {
		n.Nlink = 1
		if err := w.link(o.To, tree.Entry{Inode: &n}, o.Time); err != nil {
			return err
		}
		delete(w.orphans, o.Ino)
		w.where[o.Ino] = o.To
		w.dirty[o.Ino] = struct{}{} // what was written while it had no name
		return nil
	}
	if _, ok, err := w.table.Get(tree.Key(o.Ino)); err != nil {
		return err
	} else if !ok { // its second name: the record moves to the inode table and stays there
		n.Nlink = 1
		if err := w.setEntry(w.where[o.Ino], linkedEntry(&n)); err != nil {
			return err
		}
	}
	n.Nlink++
	if err := w.table.Set(w.edit, tree.Key(o.Ino), &n); err != nil {
		return err
	}
	w.where[o.Ino] = place{}
	return w.link(o.To, linkedEntry(&n), o.Time)
}

func linkedEntry(rec *tree.Inode) tree.Entry {
	return tree.Entry{Linked: true, Ino: rec.Ino, Type: rec.Type}
}

func (w *world) applyUnlink(o *op) error {
	ent, err := w.expect(o.At, o.Ino)
	if err != nil {
		return err
	}
	rec, err := w.inodeOf(ent)
	if err != nil {
		return err
	}
	if rec.Type == tree.TypeDir {
		if empty, err := isEmpty(rec); err != nil {
			return err
		} else if !empty {
			return syscall.ENOTEMPTY
		}
	}
	if err := w.unlink(o.At, o.Time); err != nil {
		return err
	}
	return w.dropLink(ent, rec, o)
}

// dropLink takes one name from an inode whose entry was just removed or replaced.
func (w *world) dropLink(ent tree.Entry, rec *tree.Inode, o *op) error {
	n := *rec
	n.Ctime, n.VerDev, n.VerOp = o.Time, w.dev, o.mark()
	if ent.Linked && n.Nlink > 1 {
		n.Nlink--
		return w.table.Set(w.edit, tree.Key(n.Ino), &n)
	}
	if ent.Linked {
		if _, err := w.table.Delete(w.edit, tree.Key(n.Ino)); err != nil {
			return err
		}
	}
	n.Nlink = 0
	delete(w.where, n.Ino)
	w.orphans[n.Ino] = &n
	return nil
}

// expect returns the entry at a name if it leads to the given inode.
func (w *world) expect(at place, ino Ino) (tree.Entry, error) {
	ent, ok, err := w.child(at.Parent, at.Name)
	if err != nil {
		return ent, err
	}
	if !ok || ent.Ino != ino {
		return ent, syscall.ENOENT
	}
	return ent, nil
}

func isEmpty(rec *tree.Inode) (bool, error) {
	empty := true
	err := rec.Dir.Scan("", func(string, tree.Entry) bool { empty = false; return false })
	return empty, err
}

func (w *world) applyRename(o *op) error {
	ent, err := w.expect(o.At, o.Ino)
	if err != nil {
		return err
	}
	old, taken, err := w.child(o.To.Parent, o.To.Name)
	if err != nil {
		return err
	}
	var oldRec *tree.Inode
	if taken {
		if o.ToIno == 0 || old.Ino != o.ToIno || o.ToIno == o.Ino {
			return syscall.EEXIST
		}
		if oldRec, err = w.replaceable(old, ent); err != nil {
			return err
		}
	}
	if inside, err := w.inside(o.To.Parent, o.Ino); err != nil || inside {
		return errors.Join(err, syscall.EINVAL)
	}
	rec, err := w.inodeOf(ent)
	if err != nil {
		return err
	}
	if err := w.unlink(o.At, o.Time); err != nil {
		return err
	}
	if err := w.link(o.To, ent, o.Time); err != nil {
		return err
	}
	if !ent.Linked {
		w.where[o.Ino] = o.To
	}
	if taken {
		if err := w.dropLink(old, oldRec, o); err != nil {
			return err
		}
	}
	return w.touch(rec, o)
}

// replaceable checks that ent may be renamed over old, and returns old's record.
func (w *world) replaceable(old, ent tree.Entry) (*tree.Inode, error) {
	rec, err := w.inodeOf(old)
	if err != nil {
		return nil, err
	}
	oldDir, newDir := rec.Type == tree.TypeDir, ent.Type == tree.TypeDir
	switch {
	case oldDir && !newDir:
		return nil, syscall.EISDIR
	case !oldDir && newDir:
		return nil, syscall.ENOTDIR
	case oldDir:
		if empty, err := isEmpty(rec); err != nil {
			return nil, err
		} else if !empty {
			return nil, syscall.ENOTEMPTY
		}
	}
	return rec, nil
}

// touch sets the change time and the version of an inode whose name changed. The
// record is read again, because the inode's own subtree may have been edited with it.
func (w *world) touch(rec *tree.Inode, o *op) error {
	cur, err := w.get(rec.Ino)
	if err != nil {
		if !errors.Is(err, errNoInode) {
			return err
		}
		cur = rec
	}
	n := *cur
	n.Ctime, n.VerDev, n.VerOp = o.Time, w.dev, o.mark()
	return w.put(&n)
}

// inside says whether dir is ino or stands below it.
func (w *world) inside(dir, ino Ino) (bool, error) {
	for d := dir; ; {
		if d == ino {
			return true, nil
		}
		if d == RootIno {
			return false, nil
		}
		at, ok := w.where[d]
		if !ok {
			return false, errNoInode
		}
		d = at.Parent
	}
}

func (w *world) applyExchange(o *op) error {
	a, err := w.expect(o.At, o.Ino)
	if err != nil {
		return err
	}
	b, err := w.expect(o.To, o.ToIno)
	if err != nil {
		return err
	}
	for _, m := range []struct {
		dir Ino
		ino Ino
	}{{o.To.Parent, o.Ino}, {o.At.Parent, o.ToIno}} {
		if in, err := w.inside(m.dir, m.ino); err != nil || in {
			return errors.Join(err, syscall.EINVAL)
		}
	}
	ra, err := w.inodeOf(a)
	if err != nil {
		return err
	}
	rb, err := w.inodeOf(b)
	if err != nil {
		return err
	}
	if err := w.link(o.At, b, o.Time); err != nil {
		return err
	}
	if err := w.link(o.To, a, o.Time); err != nil {
		return err
	}
	if !a.Linked {
		w.where[o.Ino] = o.To
	}
	if !b.Linked {
		w.where[o.ToIno] = o.At
	}
	if err := w.touch(ra, o); err != nil {
		return err
	}
	return w.touch(rb, o)
}

// applyInode carries out the operations that change one inode and no name.
func (w *world) applyInode(o *op) error {
	old, err := w.get(o.Ino)
	if err != nil {
		return err
	}
	n := *old
	n.Ctime, n.VerDev, n.VerOp = o.Time, w.dev, o.mark()
	if o.Flags&flagKillPriv != 0 {
		n.Mode = killPriv(n.Mode)
	}
	if privileged(&n) && takesPrivileges(o) {
		n.Xattrs = withoutXattr(n.Xattrs, xattrCapability)
	}
	switch o.Kind {
	case opAttr:
		err = w.setAttr(&n, o)
	case opSetXattr:
		n.Xattrs = withXattr(n.Xattrs, o.Name, o.Value)
	case opDelXattr:
		n.Xattrs = withoutXattr(n.Xattrs, o.Name)
	case opWrite:
		n.Mtime = o.Time
		err = w.writeContent(&n, o)
		w.dirty[o.Ino] = struct{}{}
	case opPunch:
		n.Mtime = o.Time
		if err = w.spill(&n); err == nil {
			err = w.punch(&n, o.Off, o.Len)
		}
	}
	if err != nil {
		return err
	}
	return w.put(&n)
}

func (w *world) setAttr(n *tree.Inode, o *op) error {
	if o.Mask&SetSize != 0 {
		if err := w.truncate(n, o.Size); err != nil {
			return err
		}
		n.Mtime = o.Time
	}
	if o.Mask&SetMode != 0 {
		n.Mode = uint16(o.Mode & 07777)
	}
	if o.Mask&SetUid != 0 {
		n.Uid = o.Uid
	}
	if o.Mask&SetGid != 0 {
		n.Gid = o.Gid
	}
	if o.Mask&SetAtime != 0 {
		n.Atime = o.Atim
	}
	if o.Mask&SetMtime != 0 {
		n.Mtime = o.Mtim
	}
	return nil
}

// xattrCapability is what a write takes from an executable besides suid and sgid.
const xattrCapability = "security.capability"

// privileged says whether an inode carries file capabilities.
func privileged(n *tree.Inode) bool {
	for _, x := range n.Xattrs {
		if x.Name == xattrCapability {
			return true
		}
	}
	return false
}

// takesPrivileges says whether an operation takes file capabilities away: whatever
// changes content or owner does, and the kernel leaves that to us.
func takesPrivileges(o *op) bool {
	return o.Kind == opWrite || o.Kind == opPunch || o.Flags&flagKillPriv != 0 ||
		o.Kind == opAttr && o.Mask&(SetSize|SetUid|SetGid) != 0
}

// killPriv clears suid, and sgid where it means execution as the group.
func killPriv(mode uint16) uint16 {
	mode &^= 04000
	if mode&010 != 0 {
		mode &^= 02000
	}
	return mode
}

// withXattr returns the sorted list with one attribute set; the old list is not changed.
func withXattr(list []tree.Xattr, name string, value []byte) []tree.Xattr {
	out := make([]tree.Xattr, 0, len(list)+1)
	done := false
	for _, x := range list {
		if !done && x.Name >= name {
			out = append(out, tree.Xattr{Name: name, Value: value})
			done = true
		}
		if x.Name != name {
			out = append(out, x)
		}
	}
	if !done {
		out = append(out, tree.Xattr{Name: name, Value: value})
	}
	return out
}

func withoutXattr(list []tree.Xattr, name string) []tree.Xattr {
	var out []tree.Xattr
	for _, x := range list {
		if x.Name != name {
			out = append(out, x)
		}
	}
	return out
}
