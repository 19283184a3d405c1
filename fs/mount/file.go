package mount

import (
	"context"
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"kist/fs"
)

// openFile is what is known of a file that is open, or whose pages in the
// kernel are old.
type openFile struct {
	opens int
	stale bool // others changed it: the next open drops the pages
}

// opened counts an open and says whether the kernel's pages are still good.
func (a *adapter) opened(ino fs.Ino) (keep bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f := a.files[ino]
	if f == nil {
		f = &openFile{}
		a.files[ino] = f
	}
	f.opens++
	keep, f.stale = !f.stale, false
	return keep
}

func (a *adapter) closed(ino fs.Ino) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f := a.files[ino]
	if f == nil {
		return
	}
	if f.opens--; f.opens <= 0 && !f.stale {
		delete(a.files, ino)
	}
}

// hold notes that others changed ino, if it is open.
func (a *adapter) hold(ino fs.Ino) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	f := a.files[ino]
	if f == nil || f.opens == 0 {
		return false
	}
	f.stale = true
	return true
}

// open counts an open in FS and here, and fills in what the kernel may do.
func (a *adapter) open(ctx context.Context, ino fs.Ino, flags uint32, out *fuse.OpenOut) error {
	if err := a.fs.Open(ctx, ino); err != nil {
		return err
	}
	if a.opened(ino) {
		out.OpenFlags |= fuse.FOPEN_KEEP_CACHE
	}
	if flags&syscall.O_ACCMODE == syscall.O_RDONLY {
		out.OpenFlags |= fuse.FOPEN_NOFLUSH // close has nothing to wait for
	}
	return nil
}

func (a *adapter) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	ctx := newRequest(cancel)
	defer ctx.finish()
	if err := a.open(ctx, in.NodeId, in.Flags, out); err != nil {
		return a.fail("open", err)
	}
	if in.Flags&syscall.O_TRUNC == 0 {
		return fuse.OK
	}
	set := fs.SetAttr{Mask: fs.SetSize, KillPriv: in.Mode&fuse.OPEN_KILL_SUIDGID != 0}
	if _, err := a.fs.Setattr(ctx, in.NodeId, set); err != nil {
		a.release(in.NodeId)
		return a.fail("open", err)
	}
	return fuse.OK
}

func (a *adapter) release(ino fs.Ino) {
	a.closed(ino)
	a.fs.Release(ino)
}

func (a *adapter) Release(_ <-chan struct{}, in *fuse.ReleaseIn) { a.release(in.NodeId) }

// Create makes and opens a file. That the name is taken although the kernel
// saw none is told as ESTALE: the kernel then looks again and opens what is
// there with the permission checks that a create does not make.
func (a *adapter) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	if tooLong(name) {
		return nameTooLong
	}
	ctx := newRequest(cancel)
	defer ctx.finish()
	attr, err := a.make(ctx, &in.InHeader, name, syscall.S_IFREG|in.Mode&0o7777, in.Umask, 0)
	if errors.Is(err, syscall.EEXIST) && in.Flags&syscall.O_EXCL == 0 {
		return fuse.Status(syscall.ESTALE)
	}
	return a.createdFile(ctx, "create", in.Flags, attr, err, out)
}

func (a *adapter) Tmpfile(cancel <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	ctx := newRequest(cancel)
	defer ctx.finish()
	attr, err := a.makeTmp(ctx, in)
	return a.createdFile(ctx, "tmpfile", in.Flags, attr, err, out)
}

func (a *adapter) makeTmp(ctx context.Context, in *fuse.CreateIn) (fs.Attr, error) {
	mode, lists, err := a.inherit(ctx, in.NodeId, syscall.S_IFREG|in.Mode&0o7777, in.Umask)
	if err != nil {
		return fs.Attr{}, err
	}
	attr, err := a.fs.Tmpfile(ctx, cred(&in.InHeader), in.NodeId, mode)
	if err != nil {
		return fs.Attr{}, err
	}
	if err := a.bestow(ctx, attr.Ino, lists); err != nil {
		a.fs.Forget(attr.Ino, 1)
		return fs.Attr{}, err
	}
	return attr, nil
}

func (a *adapter) createdFile(ctx context.Context, op string, flags uint32, attr fs.Attr, err error, out *fuse.CreateOut) fuse.Status {
	if err != nil {
		return a.fail(op, err)
	}
	if err := a.open(ctx, attr.Ino, flags, &out.OpenOut); err != nil {
		a.fs.Forget(attr.Ino, 1)
		return a.fail(op, err)
	}
	a.entry(&attr, &out.EntryOut)
	return fuse.OK
}

// Read fills the whole buffer unless the file ends: the kernel takes a short
// answer for the end of the file, and would show zeros for the rest.
func (a *adapter) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	ctx := newRequest(cancel)
	defer ctx.finish()
	buf = buf[:min(len(buf), int(in.Size))]
	n := 0
	for n < len(buf) {
		m, err := a.fs.Read(ctx, in.NodeId, buf[n:], in.Offset+uint64(n))
		if err != nil {
			return nil, a.fail("read", err)
		}
		if m == 0 {
			break
		}
		n += m
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

func (a *adapter) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	ctx := newRequest(cancel)
	defer ctx.finish()
	opt := fs.WriteOpts{Append: appends(in), KillPriv: in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0}
	n, err := a.fs.Write(ctx, in.NodeId, data, in.Offset, opt)
	if err != nil && n == 0 {
		return 0, a.fail("write", err)
	}
	return uint32(n), fuse.OK
}

// appends tells whether data goes to the end of the file, wherever it is by
// now. Pages that were changed through a mapping have their place, and the
// parts of one direct write may arrive in any order.
func appends(in *fuse.WriteIn) bool {
	return in.Flags&syscall.O_APPEND != 0 && in.Flags&oDirect == 0 && in.WriteFlags&fuse.WRITE_CACHE == 0
}

// Writev says that go-fuse is to call Write; the kernel never sees this answer.
func (a *adapter) Writev(<-chan struct{}, *fuse.WriteIn, [][]byte) (uint32, fuse.Status) {
	return 0, fuse.ENOSYS
}

func (a *adapter) Flush(cancel <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	ctx := newRequest(cancel)
	defer ctx.finish()
	return a.fail("flush", a.fs.Flush(ctx, in.NodeId))
}

func (a *adapter) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	ctx := newRequest(cancel)
	defer ctx.finish()
	return a.fail("fsync", a.fs.Fsync(ctx, in.NodeId))
}

func (a *adapter) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return a.Fsync(cancel, in)
}

func (a *adapter) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	ctx := newRequest(cancel)
	defer ctx.finish()
	return a.fail("fallocate", a.fs.Fallocate(ctx, in.NodeId, in.Mode, in.Offset, in.Length))
}

func (a *adapter) Lseek(cancel <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	ctx := newRequest(cancel)
	defer ctx.finish()
	off, err := a.fs.Seek(ctx, in.NodeId, in.Offset, in.Whence)
	out.Offset = off
	return a.fail("lseek", err)
}
