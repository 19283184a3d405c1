package mount

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"kist/backend"
	"kist/crypto/seal"
	"kist/fs"
)

type status = fuse.Status

// syncBuffer is a log's end that a test reads.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *syncBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

func TestErrno(t *testing.T) {
	for _, c := range []struct {
		err  error
		want syscall.Errno
	}{
		{nil, 0},
		{syscall.ENOENT, syscall.ENOENT},
		{syscall.ENOTEMPTY, syscall.ENOTEMPTY},
		{fmt.Errorf("making a file: %w", syscall.EEXIST), syscall.EEXIST},
		{syscall.Errno(0), syscall.EIO},
		{syscall.ENOSYS, syscall.EIO},
		{fmt.Errorf("no such call: %w", syscall.ENOSYS), syscall.EIO},
		{context.Canceled, syscall.EINTR},
		{fmt.Errorf("waiting: %w", context.Canceled), syscall.EINTR},
		{context.DeadlineExceeded, syscall.EIO},
		{os.ErrDeadlineExceeded, syscall.EIO},
		{fs.ErrReadOnly, syscall.EROFS},
		{errors.Join(fs.ErrReadOnly, errors.New("the disk is broken")), syscall.EROFS},
		{backend.ErrNotExist, syscall.EIO},
		{backend.ErrExist, syscall.EIO},
		{backend.ErrTooLarge, syscall.EIO},
		{backend.ErrShort, syscall.EIO},
		{backend.ErrAway, syscall.EIO},
		{backend.ErrDenied, syscall.EIO},
		{backend.ErrUnsupported, syscall.EIO},
		{backend.ErrInvalid, syscall.EIO},
		{fmt.Errorf("%w: %w", backend.ErrAway, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}), syscall.EIO},
		{seal.ErrUnseal, syscall.EIO},
		{iofs.ErrNotExist, syscall.EIO},
		{iofs.ErrPermission, syscall.EIO},
		{io.ErrUnexpectedEOF, syscall.EIO},
		{&os.PathError{Op: "open", Path: "segment", Err: syscall.ENOENT}, syscall.EIO},
		{&os.PathError{Op: "write", Path: "segment", Err: syscall.ENOSPC}, syscall.ENOSPC},
		{&os.PathError{Op: "write", Path: "segment", Err: syscall.EROFS}, syscall.EROFS},
		{&os.LinkError{Op: "rename", Err: syscall.EXDEV}, syscall.EIO},
		{errors.New("a surprise"), syscall.EIO},
	} {
		if got := errno(c.err); got != fuse.Status(c.want) {
			t.Errorf("%v: %v, not %v", c.err, got, c.want)
		}
	}
	for code := range syscall.Errno(200) {
		if errno(code) == fuse.ENOSYS || errno(&os.SyscallError{Err: code}) == fuse.ENOSYS {
			t.Errorf("%v becomes ENOSYS", code)
		}
	}
}
