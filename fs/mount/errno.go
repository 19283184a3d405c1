package mount

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"kist/fs"
)

// errnos is the one table from kinds of errors to what a program sees; the
// first row that fits counts. What no row names and what carries no errno of
// its own is EIO.
var errnos = []struct {
	kind error
	code syscall.Errno
}{
	{fs.ErrReadOnly, syscall.EROFS},
	{context.Canceled, syscall.EINTR},
	{context.DeadlineExceeded, syscall.EIO},
	{os.ErrDeadlineExceeded, syscall.EIO},
}

// errno maps an error of FS. An errno that FS returns is an answer and passes.
// An errno that an operating system call of ours returned is not: that the
// journal's file is missing must not become "no such file". Of those only a
// full disk and one that went read-only are passed on. Never ENOSYS: the kernel would take it as "do not ask
// again" and, for instance, answer fsync itself from then on.
func errno(err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	for _, row := range errnos {
		if errors.Is(err, row.kind) {
			return fuse.Status(row.code)
		}
	}
	var code syscall.Errno
	if !errors.As(err, &code) || code == 0 || code == syscall.ENOSYS {
		return fuse.EIO
	}
	if foreign(err) && code != syscall.ENOSPC && code != syscall.EDQUOT && code != syscall.EROFS {
		return fuse.EIO
	}
	return fuse.Status(code)
}

// foreign tells whether err comes from a call that this process made for its
// own purposes.
func foreign(err error) bool {
	var (
		path *os.PathError
		link *os.LinkError
		call *os.SyscallError
		op   *net.OpError
	)
	return errors.As(err, &path) || errors.As(err, &link) || errors.As(err, &call) || errors.As(err, &op)
}

// expected tells whether a status is an ordinary answer, not worth a log line.
func expected(s fuse.Status) bool { return s != fuse.EIO }
