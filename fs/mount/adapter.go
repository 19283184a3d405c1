package mount

import (
	"context"
	"errors"

	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"kist/fs"
	"kist/fs/tree"
)

const (
	// lifetime is how long the kernel may use names, absent names and
	// attributes without asking again; see the package comment.
	lifetime = time.Hour
	// blockSize is st_blksize: what programs choose their buffers by.
	blockSize = 64 << 10
	nameMax   = 255
)

// adapter is the fuse.RawFileSystem of one mount.
type adapter struct {
	fs  FS
	opt Options

	mu    sync.Mutex
	files map[fs.Ino]*openFile // that are open, or whose pages in the kernel are old
	dirs  dirTables
	muted muffler
}

func newAdapter(fsys FS, opt Options) *adapter {
	return &adapter{fs: fsys, opt: opt, files: map[fs.Ino]*openFile{}, dirs: dirTables{tables: map[fs.Ino]*dirTable{}}}
}

func (a *adapter) String() string    { return "kist" }
func (a *adapter) SetDebug(bool)     {}
func (a *adapter) Init(*fuse.Server) {}
func (a *adapter) OnUnmount()        {}

// fail turns an error into the status of op. The program sees no more than an
// errno, so what became EIO is logged here, and nowhere else.
func (a *adapter) fail(op string, err error) fuse.Status {
	s := errno(err)
	if !expected(s) {
		if n, ok := a.muted.pass(a.opt.Now()); ok {
			a.opt.Log.Warn("request failed", "op", op, "err", err, "unreported", n)
		}
	}
	return s
}

// panicked is called by go-fuse for a handler that panicked.
func (a *adapter) panicked(v any) fuse.Status {
	a.opt.Log.Error("a request handler panicked", "panic", v, "stack", string(debug.Stack()))
	return fuse.EIO
}

// muffler lets one message a second through and counts the others.
type muffler struct {
	mu   sync.Mutex
	next time.Time
	kept int
}

func (m *muffler) pass(now time.Time) (unreported int, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now.Before(m.next) {
		m.kept++
		return 0, false
	}
	unreported, m.kept, m.next = m.kept, 0, now.Add(time.Second)
	return unreported, true
}

// attr shows attributes as this mount's user is to see them.
func (a *adapter) attr(in *fs.Attr, out *fuse.Attr) {
	out.Ino, out.Size, out.Blocks = in.Ino, in.Size, in.Blocks
	out.Mode, out.Nlink, out.Rdev, out.Blksize = in.Mode, in.Nlink, in.Rdev, blockSize
	out.Uid, out.Gid = in.Uid, in.Gid
	if a.opt.AsUser != nil {
		out.Uid, out.Gid = a.opt.AsUser.Uid, a.opt.AsUser.Gid
	}
	out.Atime, out.Atimensec = uint64(in.Atime.Sec), in.Atime.Nsec
	out.Mtime, out.Mtimensec = uint64(in.Mtime.Sec), in.Mtime.Nsec
	out.Ctime, out.Ctimensec = uint64(in.Ctime.Sec), in.Ctime.Nsec
}

func (a *adapter) entry(in *fs.Attr, out *fuse.EntryOut) {
	out.NodeId, out.Generation = in.Ino, 1
	out.SetEntryTimeout(lifetime)
	out.SetAttrTimeout(lifetime)
	a.attr(in, &out.Attr)
}

// named answers a request that makes or finds a name.
func (a *adapter) named(op string, out *fuse.EntryOut, attr fs.Attr, err error) fuse.Status {
	if err != nil {
		return a.fail(op, err)
	}
	a.entry(&attr, out)
	return fuse.OK
}

func cred(h *fuse.InHeader) fs.Cred { return fs.Cred{Uid: h.Uid, Gid: h.Gid} }

func tooLong(name string) bool { return len(name) > nameMax }

const nameTooLong = fuse.Status(syscall.ENAMETOOLONG)

func (a *adapter) Lookup(cancel <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if tooLong(name) {
		return nameTooLong
	}
	ctx := newRequest(cancel)
	defer ctx.finish()
	attr, err := a.fs.Lookup(ctx, h.NodeId, name)
	if errno(err) == fuse.ENOENT {
		out.SetEntryTimeout(lifetime) // node 0: the kernel remembers the absence
		return fuse.OK
	}
	return a.named("lookup", out, attr, err)
}

func (a *adapter) Forget(ino, n uint64) {
	a.mu.Lock()
	if f := a.files[ino]; f != nil && f.opens == 0 {
		delete(a.files, ino)
	}
	a.dirs.forget(ino)
	a.mu.Unlock()
	a.fs.Forget(ino, n)
}

func (a *adapter) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	ctx := newRequest(cancel)
	defer ctx.finish()
	attr, err := a.fs.Getattr(ctx, in.NodeId)
	return a.attrs("getattr", out, attr, err)
}

func (a *adapter) attrs(op string, out *fuse.AttrOut, attr fs.Attr, err error) fuse.Status {
	if err != nil {
		return a.fail(op, err)
	}
	a.attr(&attr, &out.Attr)
	out.SetTimeout(lifetime)
	return fuse.OK
}

func (a *adapter) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	ctx := newRequest(cancel)
	defer ctx.finish()
	set := a.setAttr(in)
	if a.opt.AsUser != nil {
		if set.Mask&fs.SetUid != 0 && set.Uid != a.opt.AsUser.Uid || set.Mask&fs.SetGid != 0 && set.Gid != a.opt.AsUser.Gid {
			return fuse.EPERM
		}
		set.Mask &^= fs.SetUid | fs.SetGid // given to whom it seems to belong
	}
	attr, err := a.set(ctx, in.NodeId, set)
	if err == nil && set.Mask&fs.SetMode != 0 {
		err = a.chmodACL(ctx, in.NodeId, set.Mode)
	}
	return a.attrs("setattr", out, attr, err)
}

func (a *adapter) set(ctx context.Context, ino fs.Ino, set fs.SetAttr) (fs.Attr, error) {
	if set.Mask == 0 && !set.KillPriv {
		return a.fs.Getattr(ctx, ino)
	}
	return a.fs.Setattr(ctx, ino, set)
}

// setAttr translates the request. With HANDLE_KILLPRIV_V2 the kernel asks for
// the loss of privileges when the size changes and leaves it to us when the
// owner does.
func (a *adapter) setAttr(in *fuse.SetAttrIn) fs.SetAttr {
	s := fs.SetAttr{Mode: in.Mode & 0o7777, Uid: in.Uid, Gid: in.Gid, Size: in.Size,
		Atime:    tree.Time{Sec: int64(in.Atime), Nsec: in.Atimensec},
		Mtime:    tree.Time{Sec: int64(in.Mtime), Nsec: in.Mtimensec},
		Ctime:    tree.Time{Sec: int64(in.Ctime), Nsec: in.Ctimensec},
		KillPriv: in.Valid&(fuse.FATTR_KILL_SUIDGID|fuse.FATTR_UID|fuse.FATTR_GID) != 0}
	for _, b := range []struct{ valid, mask uint32 }{
		{fuse.FATTR_MODE, fs.SetMode}, {fuse.FATTR_UID, fs.SetUid}, {fuse.FATTR_GID, fs.SetGid}, {fuse.FATTR_SIZE, fs.SetSize},
		{fuse.FATTR_ATIME, fs.SetAtime}, {fuse.FATTR_MTIME, fs.SetMtime}, {fuse.FATTR_CTIME, fs.SetCtime},
	} {
		if in.Valid&b.valid != 0 {
			s.Mask |= b.mask
		}
	}
	now := a.opt.Now()
	if in.Valid&fuse.FATTR_ATIME_NOW != 0 {
		s.Atime = tree.Time{Sec: now.Unix(), Nsec: uint32(now.Nanosecond())}
	}
	if in.Valid&fuse.FATTR_MTIME_NOW != 0 {
		s.Mtime = tree.Time{Sec: now.Unix(), Nsec: uint32(now.Nanosecond())}
	}
	return s
}

func (a *adapter) Mknod(cancel <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	return a.create("mknod", cancel, &in.InHeader, name, in.Mode, in.Umask, in.Rdev, out)
}

func (a *adapter) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return a.create("mkdir", cancel, &in.InHeader, name, syscall.S_IFDIR|in.Mode&0o7777, in.Umask, 0, out)
}

func (a *adapter) create(op string, cancel <-chan struct{}, h *fuse.InHeader, name string, mode, umask, rdev uint32, out *fuse.EntryOut) fuse.Status {
	if tooLong(name) {
		return nameTooLong
	}
	ctx := newRequest(cancel)
	defer ctx.finish()
	attr, err := a.make(ctx, h, name, mode, umask, rdev)
	return a.named(op, out, attr, err)
}

// make creates an inode that has what its directory bequeaths, or none.
func (a *adapter) make(ctx context.Context, h *fuse.InHeader, name string, mode, umask, rdev uint32) (fs.Attr, error) {
	mode, lists, err := a.inherit(ctx, h.NodeId, mode, umask)
	if err != nil {
		return fs.Attr{}, err
	}
	attr, err := a.fs.Create(ctx, cred(h), h.NodeId, name, mode, rdev)
	if err != nil {
		return fs.Attr{}, err
	}
	if err := a.bestow(ctx, attr.Ino, lists); err != nil {
		remove := a.fs.Unlink
		if mode&syscall.S_IFMT == syscall.S_IFDIR {
			remove = a.fs.Rmdir
		}
		err = errors.Join(err, remove(ctx, h.NodeId, name))
		a.fs.Forget(attr.Ino, 1)
		return fs.Attr{}, err
	}
	return attr, nil
}

func (a *adapter) Symlink(cancel <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	if tooLong(name) {
		return nameTooLong
	}
	ctx := newRequest(cancel)
	defer ctx.finish()
	attr, err := a.fs.Symlink(ctx, cred(h), h.NodeId, name, target)
	return a.named("symlink", out, attr, err)
}

func (a *adapter) Readlink(cancel <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	ctx := newRequest(cancel)
	defer ctx.finish()
	target, err := a.fs.Readlink(ctx, h.NodeId)
	if err != nil {
		return nil, a.fail("readlink", err)
	}
	return []byte(target), fuse.OK
}

func (a *adapter) Link(cancel <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	if tooLong(name) {
		return nameTooLong
	}
	ctx := newRequest(cancel)
	defer ctx.finish()
	attr, err := a.fs.Link(ctx, in.Oldnodeid, in.NodeId, name)
	return a.named("link", out, attr, err)
}

func (a *adapter) Unlink(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	ctx := newRequest(cancel)
	defer ctx.finish()
	return a.fail("unlink", a.fs.Unlink(ctx, h.NodeId, name))
}

func (a *adapter) Rmdir(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	ctx := newRequest(cancel)
	defer ctx.finish()
	return a.fail("rmdir", a.fs.Rmdir(ctx, h.NodeId, name))
}

// renameFlags are RENAME_NOREPLACE and RENAME_EXCHANGE.
const renameFlags = 1 | 2

func (a *adapter) Rename(cancel <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	if in.Flags&^renameFlags != 0 {
		return fuse.EINVAL
	}
	if tooLong(to) {
		return nameTooLong
	}
	ctx := newRequest(cancel)
	defer ctx.finish()
	return a.fail("rename", a.fs.Rename(ctx, in.NodeId, from, in.Newdir, to, in.Flags))
}

func (a *adapter) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	s := a.fs.Statfs()
	out.Bsize, out.Frsize, out.NameLen = s.Bsize, s.Bsize, s.Namelen
	out.Blocks, out.Bfree, out.Bavail = s.Blocks, s.Bfree, s.Bavail
	out.Files, out.Ffree = s.Files, s.Ffree
	return fuse.OK
}

// The kernel checks access itself (default_permissions) and needs neither
// statx nor a way to copy inside a file system: told once that there is none,
// it uses what is above for the life of the mount. Only here is ENOSYS meant.

func (a *adapter) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.ENOSYS }

func (a *adapter) Statx(<-chan struct{}, *fuse.StatxIn, *fuse.StatxOut) fuse.Status {
	return fuse.ENOSYS
}

func (a *adapter) CopyFileRange(<-chan struct{}, *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	return 0, fuse.ENOSYS
}

func (a *adapter) Ioctl(<-chan struct{}, *fuse.IoctlIn, []byte, *fuse.IoctlOut, []byte) fuse.Status {
	return fuse.Status(syscall.ENOTTY)
}

// Locks stay in the kernel, which never asks.

func (a *adapter) GetLk(<-chan struct{}, *fuse.LkIn, *fuse.LkOut) fuse.Status { return fuse.ENOTSUP }
func (a *adapter) SetLk(<-chan struct{}, *fuse.LkIn) fuse.Status              { return fuse.ENOTSUP }
func (a *adapter) SetLkw(<-chan struct{}, *fuse.LkIn) fuse.Status             { return fuse.ENOTSUP }

var _ fuse.RawFileSystem = (*adapter)(nil)
