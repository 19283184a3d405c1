package drive

import (
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A socket's address holds 108 bytes, a state folder's path may be longer: so
// the address goes through an open folder.

func listenUnix(path string) (net.Listener, error) {
	var l net.Listener
	err := through(path, func(short string) (err error) {
		// The name must not be unlinked through an address that is gone by then.
		ul, err := net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
		if err == nil {
			ul.SetUnlinkOnClose(false)
			l = ul
		}
		return err
	})
	return l, err
}

func dialUnix(path string) (net.Conn, error) {
	var c net.Conn
	err := through(path, func(short string) (err error) {
		c, err = net.Dial("unix", short)
		return err
	})
	return c, err
}

func through(path string, f func(short string) error) error {
	fd, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "state folder", Err: err}
	}
	defer unix.Close(fd)
	return f(fmt.Sprintf("/proc/self/fd/%d/%s", fd, filepath.Base(path)))
}

// peer is the process that answers at the other end.
func peer(c net.Conn) (pid int, ok bool) {
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, false
	}
	var cred *unix.Ucred
	control := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if control != nil || err != nil || cred.Pid <= 0 {
		return 0, false
	}
	return int(cred.Pid), true
}
