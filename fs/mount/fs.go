package mount

import (
	"context"

	"kist/fs"
)

// FS is what is mounted: *fs.Vault, or a small double in tests. All methods
// may be called at the same time. The package comment says who counts
// references; fs says what each method does.
//
// Read returns fewer bytes than asked only at the end of the file or with an
// error. Create applies the set-group-ID rule of the parent; mode has had the
// umask applied. Neither p of Write nor ctx may be kept.
type FS interface {
	Lookup(ctx context.Context, parent fs.Ino, name string) (fs.Attr, error)
	Ref(ino, parent fs.Ino, name string)
	Forget(ino fs.Ino, n uint64)
	Getattr(ctx context.Context, ino fs.Ino) (fs.Attr, error)
	Setattr(ctx context.Context, ino fs.Ino, s fs.SetAttr) (fs.Attr, error)

	Create(ctx context.Context, c fs.Cred, parent fs.Ino, name string, mode, rdev uint32) (fs.Attr, error)
	Tmpfile(ctx context.Context, c fs.Cred, parent fs.Ino, mode uint32) (fs.Attr, error)
	Symlink(ctx context.Context, c fs.Cred, parent fs.Ino, name, target string) (fs.Attr, error)
	Readlink(ctx context.Context, ino fs.Ino) (string, error)
	Link(ctx context.Context, ino, parent fs.Ino, name string) (fs.Attr, error)
	Unlink(ctx context.Context, parent fs.Ino, name string) error
	Rmdir(ctx context.Context, parent fs.Ino, name string) error
	Rename(ctx context.Context, p1 fs.Ino, n1 string, p2 fs.Ino, n2 string, flags uint32) error

	Open(ctx context.Context, ino fs.Ino) error
	Release(ino fs.Ino)
	Read(ctx context.Context, ino fs.Ino, p []byte, off uint64) (int, error)
	Write(ctx context.Context, ino fs.Ino, p []byte, off uint64, opt fs.WriteOpts) (int, error)
	Flush(ctx context.Context, ino fs.Ino) error
	Fsync(ctx context.Context, ino fs.Ino) error
	Fallocate(ctx context.Context, ino fs.Ino, mode uint32, off, n uint64) error
	Seek(ctx context.Context, ino fs.Ino, off uint64, whence uint32) (uint64, error)

	ReadDir(ctx context.Context, dir fs.Ino, from string, max int) ([]fs.DirEnt, error)
	Parent(ino fs.Ino) fs.Ino

	Getxattr(ctx context.Context, ino fs.Ino, name string) ([]byte, error)
	Setxattr(ctx context.Context, ino fs.Ino, name string, value []byte, flags uint32) error
	Listxattr(ctx context.Context, ino fs.Ino) ([]string, error)
	Removexattr(ctx context.Context, ino fs.Ino, name string) error

	// State is what StateXattr tells of an inode.
	State(ctx context.Context, ino fs.Ino) (string, error)

	Statfs() fs.Statfs
	SetNotifier(n fs.Notifier)
}

var _ FS = (*fs.Vault)(nil)
