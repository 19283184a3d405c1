package fs

import (
	"context"
	"syscall"

	"kist/fs/tree"
)

// Bits of Rename's flags, as in renameat2(2).
const (
	RenameNoReplace uint32 = 1
	RenameExchange  uint32 = 2
)

// hold adds one kernel reference to an inode that was found at a place. Under mu.
func (v *Vault) hold(ino Ino, at place) {
	if _, orphan := v.w.orphans[ino]; !orphan && ino != RootIno {
		v.w.where[ino] = at
	}
	v.ref(ino).lookups++
}

func (v *Vault) ref(ino Ino) *ref {
	r := v.refs[ino]
	if r == nil {
		r = new(ref)
		v.refs[ino] = r
	}
	return r
}

// Lookup finds a name in a directory and adds one reference to what it finds.
func (v *Vault) Lookup(ctx context.Context, parent Ino, name string) (Attr, error) {
	v.probe()
	var a Attr
	err := v.locked(ctx, func() error {
		if len(name) > tree.MaxName {
			return syscall.ENAMETOOLONG
		}
		ent, ok, err := v.w.child(parent, name)
		if err != nil {
			return err
		}
		if !ok {
			return syscall.ENOENT
		}
		rec, err := v.w.inodeOf(ent)
		if err != nil {
			return err
		}
		if a, err = attrOf(rec); err != nil {
			return err
		}
		v.hold(ent.Ino, placeOf(ent, parent, name))
		return nil
	})
	return a, err
}

// Ref adds one reference to an inode that ReadDir has shown.
func (v *Vault) Ref(ino, parent Ino, name string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	at := place{parent, name}
	ent, ok, err := v.w.child(parent, name)
	other := err == nil && (!ok || ent.Ino != ino)
	if err == nil && ok && ent.Linked {
		at = place{}
	}
	if old, known := v.w.where[ino]; known && (other || v.refs[ino] != nil) {
		at = old // the listing may be older than a rename
	}
	v.hold(ino, at)
}

// Forget takes n references back. An inode without name that nobody holds is gone.
func (v *Vault) Forget(ino Ino, n uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	r := v.refs[ino]
	if r == nil {
		return
	}
	r.lookups -= min(n, r.lookups)
	v.drop(ino, r)
}

func (v *Vault) drop(ino Ino, r *ref) {
	if r.lookups > 0 || r.opens > 0 {
		return
	}
	delete(v.refs, ino)
	delete(v.w.orphans, ino)
	if v.linked[ino] == 0 {
		delete(v.nameless, ino)
	}
}

// Parent returns the directory an inode was last seen in; the root's is the root.
func (v *Vault) Parent(ino Ino) Ino {
	v.mu.Lock()
	defer v.mu.Unlock()
	if at, ok := v.w.where[ino]; ok && at.Parent != 0 {
		return at.Parent
	}
	return RootIno
}

// directory returns a directory's record, as one in which names can be made.
func (v *Vault) directory(dir Ino, name string) (*tree.Inode, error) {
	if len(name) > tree.MaxName {
		return nil, syscall.ENAMETOOLONG
	}
	if tree.CheckName(name) != nil {
		return nil, syscall.EINVAL
	}
	d, err := v.w.get(dir)
	switch {
	case err != nil:
		return nil, err
	case d.Type != tree.TypeDir:
		return nil, syscall.ENOTDIR
	case d.Nlink == 0:
		return nil, syscall.ENOENT
	}
	return d, nil
}

// newRecord makes the record of an inode created in dir. Group and, for directories,
// the setgid bit come from a setgid parent, as on ext4.
func (v *Vault) newRecord(dir *tree.Inode, c Cred, mode, rdev uint32) (*tree.Inode, error) {
	now := v.now()
	n := &tree.Inode{Mode: uint16(mode & 07777), Uid: c.Uid, Gid: c.Gid, Nlink: 1, Atime: now, Mtime: now, Ctime: now}
	switch mode & syscall.S_IFMT {
	case syscall.S_IFREG, 0:
		n.Type = tree.TypeFile
	case syscall.S_IFDIR:
		n.Type = tree.TypeDir
	case syscall.S_IFIFO:
		n.Type = tree.TypeFifo
	case syscall.S_IFSOCK:
		n.Type = tree.TypeSocket
	case syscall.S_IFCHR:
		n.Type, n.Rdev = tree.TypeChar, rdev
	case syscall.S_IFBLK:
		n.Type, n.Rdev = tree.TypeBlock, rdev
	default:
		return nil, syscall.EINVAL
	}
	if dir.Mode&02000 != 0 {
		n.Gid = dir.Gid
		if n.Type == tree.TypeDir {
			n.Mode |= 02000
		}
	}
	return n, nil
}

// make creates an inode under a name; without a name if name is empty.
func (v *Vault) make(ctx context.Context, parent Ino, name string, rec func(dir *tree.Inode) (*tree.Inode, error)) (Attr, error) {
	var a Attr
	err := v.change(ctx, func() error {
		to := place{parent, name}
		check := name
		if name == "" {
			to, check = place{}, "x"
		}
		d, err := v.directory(parent, check)
		if err != nil {
			return err
		}
		if name != "" {
			if err := v.w.free(to); err != nil {
				return err
			}
		}
		n, err := rec(d)
		if err != nil {
			return err
		}
		if v.next == ^uint32(0) {
			return syscall.ENOSPC
		}
		n.Ino = v.alloc()
		o := &op{Kind: opCreate, Ino: n.Ino, Time: n.Ctime, To: to, Rec: encodeRec(n)}
		if err := v.do(o); err != nil {
			return err
		}
		if n, err = v.w.get(n.Ino); err != nil {
			return err
		}
		if name == "" {
			v.nameless[n.Ino] = o.N
		}
		v.hold(n.Ino, to)
		a, err = attrOf(n)
		return err
	})
	return a, err
}

// Create makes a file of any kind but a symlink; mode carries S_IFMT.
func (v *Vault) Create(ctx context.Context, c Cred, parent Ino, name string, mode, rdev uint32) (Attr, error) {
	if name == "" {
		return Attr{}, syscall.ENOENT
	}
	return v.make(ctx, parent, name, func(d *tree.Inode) (*tree.Inode, error) { return v.newRecord(d, c, mode, rdev) })
}

// Tmpfile makes a regular file without a name (O_TMPFILE); Link can give it one.
func (v *Vault) Tmpfile(ctx context.Context, c Cred, parent Ino, mode uint32) (Attr, error) {
	mode = mode&07777 | syscall.S_IFREG
	return v.make(ctx, parent, "", func(d *tree.Inode) (*tree.Inode, error) { return v.newRecord(d, c, mode, 0) })
}

// Symlink makes a symbolic link; target is kept as it is.
func (v *Vault) Symlink(ctx context.Context, c Cred, parent Ino, name, target string) (Attr, error) {
	if len(target) == 0 {
		return Attr{}, syscall.ENOENT
	}
	if len(target) > tree.MaxTarget {
		return Attr{}, syscall.ENAMETOOLONG
	}
	return v.make(ctx, parent, name, func(d *tree.Inode) (*tree.Inode, error) {
		n, err := v.newRecord(d, c, syscall.S_IFREG|0777, 0)
		if err == nil {
			n.Type, n.Target, n.Size = tree.TypeSymlink, target, uint64(len(target))
		}
		return n, err
	})
}

// Readlink returns a symlink's target.
func (v *Vault) Readlink(ctx context.Context, ino Ino) (target string, err error) {
	err = v.locked(ctx, func() error {
		n, err := v.w.get(ino)
		if err == nil && n.Type != tree.TypeSymlink {
			err = syscall.EINVAL
		}
		if err == nil {
			target = n.Target
		}
		return err
	})
	return target, err
}

// Link gives an inode a further name, and an O_TMPFILE file its first.
func (v *Vault) Link(ctx context.Context, ino, parent Ino, name string) (Attr, error) {
	var a Attr
	err := v.change(ctx, func() error {
		n, err := v.w.get(ino)
		if err != nil {
			return err
		}
		_, orphan := v.w.orphans[ino]
		_, nameless := v.nameless[ino]
		switch {
		case n.Type == tree.TypeDir:
			return syscall.EPERM
		case orphan && (!nameless || v.linked[ino] != 0):
			return syscall.ENOENT // its last name was taken; it does not come back
		}
		if _, err := v.directory(parent, name); err != nil {
			return err
		}
		if err := v.w.free(place{parent, name}); err != nil {
			return err
		}
		o := v.subject(&op{Kind: opLink, To: place{parent, name}}, n)
		if err := v.do(o); err != nil {
			return err
		}
		if orphan {
			v.linked[ino] = o.N
		}
		if n, err = v.w.get(ino); err != nil {
			return err
		}
		v.hold(ino, v.w.where[ino])
		a, err = attrOf(n)
		return err
	})
	return a, err
}

// Unlink removes a name of anything but a directory.
func (v *Vault) Unlink(ctx context.Context, parent Ino, name string) error {
	return v.remove(ctx, parent, name, false)
}

// Rmdir removes an empty directory.
func (v *Vault) Rmdir(ctx context.Context, parent Ino, name string) error {
	return v.remove(ctx, parent, name, true)
}

func (v *Vault) remove(ctx context.Context, parent Ino, name string, dir bool) error {
	return v.change(ctx, func() error {
		ent, ok, err := v.w.child(parent, name)
		switch {
		case err != nil:
			return err
		case !ok:
			return syscall.ENOENT
		case dir && ent.Type != tree.TypeDir:
			return syscall.ENOTDIR
		case !dir && ent.Type == tree.TypeDir:
			return syscall.EISDIR
		}
		n, err := v.w.inodeOf(ent)
		if err != nil {
			return err
		}
		if dir && !n.Dir.Empty() {
			return syscall.ENOTEMPTY
		}
		if err := v.do(v.subject(&op{Kind: opUnlink, At: place{parent, name}}, n)); err != nil {
			return err
		}
		if v.refs[n.Ino] == nil {
			delete(v.w.orphans, n.Ino)
		}
		return nil
	})
}

// Rename moves n1 in p1 to n2 in p2, replacing what is there as rename(2) does.
func (v *Vault) Rename(ctx context.Context, p1 Ino, n1 string, p2 Ino, n2 string, flags uint32) error {
	if flags&^(RenameNoReplace|RenameExchange) != 0 || flags == RenameNoReplace|RenameExchange {
		return syscall.EINVAL
	}
	return v.change(ctx, func() error {
		ent, ok, err := v.w.child(p1, n1)
		if err != nil {
			return err
		}
		if !ok {
			return syscall.ENOENT
		}
		if _, err := v.directory(p2, n2); err != nil {
			return err
		}
		old, taken, err := v.w.child(p2, n2)
		if err != nil {
			return err
		}
		o := &op{Kind: opRename, At: place{p1, n1}, To: place{p2, n2}}
		switch {
		case flags&RenameExchange != 0 && !taken:
			return syscall.ENOENT
		case flags&RenameExchange != 0:
			o.Kind = opExchange
		case taken && flags&RenameNoReplace != 0:
			return syscall.EEXIST
		}
		if taken && old.Ino == ent.Ino {
			return nil // two names of one file: rename(2) does nothing
		}
		return v.rename(o, ent, old, taken)
	})
}

func (v *Vault) rename(o *op, ent, old tree.Entry, taken bool) error {
	n, err := v.w.inodeOf(ent)
	if err != nil {
		return err
	}
	if taken {
		t, err := v.w.inodeOf(old)
		if err != nil {
			return err
		}
		o.ToIno, o.ToSeen = t.Ino, version{t.VerDev, t.VerOp}
		if o.Kind == opRename {
			if _, err := v.w.replaceable(old, ent); err != nil {
				return err
			}
		}
	}
	if err := v.do(v.subject(o, n)); err != nil {
		return err
	}
	if taken && v.refs[o.ToIno] == nil {
		delete(v.w.orphans, o.ToIno)
	}
	return nil
}

// ReadDir returns up to max names after from, in the directory's order.
func (v *Vault) ReadDir(ctx context.Context, dir Ino, from string, max int) ([]DirEnt, error) {
	v.probe()
	var out []DirEnt
	err := v.locked(ctx, func() error {
		out = out[:0]
		d, err := v.w.get(dir)
		if err != nil {
			return err
		}
		if d.Type != tree.TypeDir {
			return syscall.ENOTDIR
		}
		var inner error
		err = d.Dir.Scan(from, func(name string, e tree.Entry) bool {
			if name == from {
				return true
			}
			if len(out) == max {
				return false
			}
			n, err := v.w.inodeOf(e)
			if err != nil {
				inner = err
				return false
			}
			v.noteContent(n)
			a, err := attrOf(n)
			inner = err
			out = append(out, DirEnt{Name: name, Attr: a})
			return err == nil
		})
		if err == nil {
			err = inner
		}
		return err
	})
	return out, err
}
