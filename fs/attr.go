package fs

import (
	"context"
	"errors"
	"syscall"

	"kist/fs/tree"
)

var typeBits = map[tree.Type]uint32{
	tree.TypeFile: syscall.S_IFREG, tree.TypeDir: syscall.S_IFDIR, tree.TypeSymlink: syscall.S_IFLNK,
	tree.TypeFifo: syscall.S_IFIFO, tree.TypeSocket: syscall.S_IFSOCK, tree.TypeChar: syscall.S_IFCHR, tree.TypeBlock: syscall.S_IFBLK,
}

// attrOf shows a record as stat does.
func attrOf(n *tree.Inode) (Attr, error) {
	a := Attr{Ino: n.Ino, Size: n.Size, Mode: typeBits[n.Type] | uint32(n.Mode), Nlink: n.Nlink, Uid: n.Uid, Gid: n.Gid,
		Rdev: n.Rdev, Atime: n.Atime, Mtime: n.Mtime, Ctime: n.Ctime}
	if n.Type == tree.TypeFile {
		bytes, err := allocated(n)
		var miss *tree.Miss
		if errors.As(err, &miss) {
			bytes, err = n.Size, nil // the extents of a big file are not worth a request for a stat
		}
		if err != nil {
			return a, err
		}
		a.Blocks = (bytes + 511) / 512
	}
	return a, nil
}

// Getattr returns the attributes of an inode that the kernel knows.
func (v *Vault) Getattr(ctx context.Context, ino Ino) (Attr, error) {
	var a Attr
	err := v.locked(ctx, func() error {
		n, err := v.w.get(ino)
		if err == nil {
			a, err = attrOf(n)
		}
		return err
	})
	return a, err
}

// Setattr sets attributes and returns them all as they are then.
func (v *Vault) Setattr(ctx context.Context, ino Ino, s SetAttr) (Attr, error) {
	var a Attr
	err := v.change(ctx, func() error {
		n, err := v.w.get(ino)
		if err != nil {
			return err
		}
		if s.Mask&SetSize != 0 {
			switch {
			case n.Type == tree.TypeDir:
				return syscall.EISDIR
			case n.Type != tree.TypeFile:
				return syscall.EINVAL
			case s.Size > tree.MaxFileSize:
				return syscall.EFBIG
			}
		}
		o := &op{Kind: opAttr, Mask: s.Mask &^ SetCtime, Mode: s.Mode & 07777, Uid: s.Uid, Gid: s.Gid, Size: s.Size, Atim: s.Atime, Mtim: s.Mtime}
		if s.KillPriv && n.Type != tree.TypeDir {
			o.Flags |= flagKillPriv
		}
		if err := v.do(v.subject(o, n)); err != nil {
			return err
		}
		if n, err = v.w.get(ino); err == nil {
			a, err = attrOf(n)
		}
		return err
	})
	return a, err
}

// Flags of Setxattr, as in setxattr(2).
const (
	xattrCreate  = 1
	xattrReplace = 2
)

// Getxattr returns one extended attribute, or ENODATA.
func (v *Vault) Getxattr(ctx context.Context, ino Ino, name string) (value []byte, err error) {
	err = v.locked(ctx, func() error {
		n, err := v.w.get(ino)
		if err != nil {
			return err
		}
		for _, x := range n.Xattrs {
			if x.Name == name {
				value = x.Value
				return nil
			}
		}
		return errNoAttr
	})
	return value, err
}

// Listxattr returns the names of all extended attributes.
func (v *Vault) Listxattr(ctx context.Context, ino Ino) (names []string, err error) {
	err = v.locked(ctx, func() error {
		names = nil
		n, err := v.w.get(ino)
		if err != nil {
			return err
		}
		for _, x := range n.Xattrs {
			names = append(names, x.Name)
		}
		return nil
	})
	return names, err
}

// Setxattr sets one extended attribute. All of an inode take at most
// tree.MaxXattrs bytes: ENOSPC beyond, as ext4 answers.
func (v *Vault) Setxattr(ctx context.Context, ino Ino, name string, value []byte, flags uint32) error {
	if len(name) == 0 || len(name) > tree.MaxName {
		return syscall.ERANGE
	}
	value = append([]byte(nil), value...)
	return v.change(ctx, func() error {
		n, err := v.w.get(ino)
		if err != nil {
			return err
		}
		there := false
		for _, x := range n.Xattrs {
			there = there || x.Name == name
		}
		if flags&xattrCreate != 0 && there {
			return syscall.EEXIST
		}
		if flags&xattrReplace != 0 && !there {
			return errNoAttr
		}
		try := *n
		try.Xattrs = withXattr(n.Xattrs, name, value)
		if try.Nlink == 0 {
			try.Nlink = 1
		}
		if try.Check() != nil {
			return syscall.ENOSPC
		}
		return v.do(v.subject(&op{Kind: opSetXattr, Name: name, Value: value}, n))
	})
}

// Removexattr removes one extended attribute, or answers ENODATA.
func (v *Vault) Removexattr(ctx context.Context, ino Ino, name string) error {
	return v.change(ctx, func() error {
		n, err := v.w.get(ino)
		if err != nil {
			return err
		}
		for _, x := range n.Xattrs {
			if x.Name == name {
				return v.do(v.subject(&op{Kind: opDelXattr, Name: name}, n))
			}
		}
		return errNoAttr
	})
}
