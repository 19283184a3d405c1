package drive

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"kist/backend"
	"kist/fs/mount"
)

// answerTime is how long a mount may take to name its daemon: it does so from
// memory.
const answerTime = 10 * time.Second

// controlOf finds the socket of the daemon that serves a folder.
func controlOf(ctx context.Context, dir string) (string, error) {
	type found struct {
		path string
		err  error
	}
	c := make(chan found, 1) // a mount that hangs must not hang the verb
	go func() {
		path, err := getControl(dir)
		c <- found{path, err}
	}()
	select {
	case f := <-c:
		return f.path, f.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	case <-time.After(answerTime):
		return "", fmt.Errorf("%w: the drive mounted there does not answer", backend.ErrAway)
	}
}

func getControl(dir string) (string, error) {
	mounted, err := mount.IsMounted(dir)
	if err != nil || !mounted {
		return "", ErrNotMounted
	}
	buf := make([]byte, 4096)
	n, err := unix.Getxattr(dir, mount.ControlXattr, buf)
	switch {
	case errors.Is(err, unix.ENOTCONN), errors.Is(err, unix.ECONNABORTED):
		return "", fmt.Errorf("%w; what it had not stored is kept: run kist umount, then kist mount", ErrDead)
	case errors.Is(err, unix.EACCES):
		return "", fmt.Errorf("%w that this user may reach", ErrNotMounted)
	case err != nil:
		return "", fmt.Errorf("asking the drive who serves it: %w", err)
	}
	path := string(buf[:n])
	if !filepath.IsAbs(path) {
		return "", ErrNotMounted
	}
	return path, nil
}

// ask asks the daemon of a mounted drive.
func ask(ctx context.Context, dir string, req request, result any, progress func(string)) error {
	socket, err := controlOf(ctx, dir)
	if err != nil {
		return err
	}
	c, err := call(ctx, socket, req, result, progress)
	if c != nil {
		c.Close()
	}
	return err
}

// Sync returns when everything written before the call is in the store, or with
// ErrAway when that takes longer than timeout (0: as long as it takes).
func Sync(ctx context.Context, dir string, timeout time.Duration, progress func(string)) error {
	return ask(ctx, dir, request{Op: "sync", Timeout: timeout}, nil, progress)
}
