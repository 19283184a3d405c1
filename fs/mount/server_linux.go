package mount

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	oDirect = unix.O_DIRECT
	noAttr  = unix.ENODATA
)

func killsSgid(in *fuse.SetXAttrIn) bool { return in.SetXAttrFlags&fuse.SETXATTR_ACL_KILL_SGID != 0 }

// capabilities that go-fuse does not ask for by itself. ATOMIC_O_TRUNC makes
// Open truncate; HANDLE_KILLPRIV_V2 spares each write a question and makes us
// clear set-user-ID bits; DONT_MASK leaves the umask to us, since a default
// access list replaces it; SETXATTR_EXT says when a list costs the
// set-group-ID bit.
const capabilities = fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_READDIRPLUS_AUTO | fuse.CAP_ASYNC_DIO |
	fuse.CAP_POSIX_ACL | fuse.CAP_DONT_MASK | fuse.CAP_SETXATTR_EXT

// attach mounts, and answers the kernel's first request.
func attach(a *adapter, dir string, opt Options) (*fuse.Server, error) {
	o := mountOptions(a, opt)
	if os.Geteuid() != 0 {
		return fuse.NewServer(a, dir, o) // by fusermount3: always nosuid, nodev and close-on-exec
	}
	fd, err := mountAsRoot(dir, opt, o.MaxWrite)
	if err != nil {
		return nil, err
	}
	server, err := fuse.NewServer(a, fmt.Sprintf("/dev/fd/%d", fd), o)
	if err != nil {
		return nil, errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH))
	}
	return server, nil
}

// mountAsRoot mounts by itself rather than through go-fuse, whose file
// descriptor a child process would inherit and keep the mount alive with.
func mountAsRoot(dir string, opt Options, maxRead int) (fd int, err error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return -1, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return -1, syscall.ENOTDIR
	}
	fd, err = unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("/dev/fuse: %w", err)
	}
	data := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,default_permissions,max_read=%d", fd, maxRead)
	if opt.AllowOther {
		data += ",allow_other"
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
	if opt.ReadOnly {
		flags |= unix.MS_RDONLY
	}
	if opt.NoExec {
		flags |= unix.MS_NOEXEC
	}
	if err := unix.Mount(cmp.Or(opt.Source, fsName), dir, fsType, flags, data); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// waitMount has nothing to wait for: the kernel's first request was answered
// before the server existed.
func waitMount(*fuse.Server) error { return nil }

func detach(dir string) error {
	if os.Geteuid() == 0 {
		return unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
	}
	return fusermount("-u", "--", dir)
}

// detachDead takes away a mount that nobody serves.
func detachDead(dir string) error {
	if os.Geteuid() == 0 {
		return unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	return fusermount("-u", "-z", "--", dir)
}

func fusermount(args ...string) error {
	cmd := exec.Command("fusermount3", args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil:
		return nil
	case strings.Contains(string(out), "busy"):
		return syscall.EBUSY
	default:
		return fmt.Errorf("fusermount3: %s: %w", strings.TrimSpace(string(out)), err)
	}
}

// tune widens what the kernel reads ahead and lets wait to be written. Only
// root may, and without it the mount is only slower.
func tune(dir string, log *slog.Logger) {
	if v, err := os.ReadFile("/proc/sys/fs/fuse/default_request_timeout"); err == nil && strings.TrimSpace(string(v)) != "0" {
		log.Warn("fs.fuse.default_request_timeout is set: the kernel will end the mount when the store is slower than that")
	}
	if os.Geteuid() != 0 {
		return
	}
	m, ok, err := find(dir)
	if err != nil || !ok {
		return
	}
	for name, value := range map[string]string{"read_ahead_kb": "8192", "max_ratio": "40", "strict_limit": "0"} {
		if err := os.WriteFile(filepath.Join("/sys/class/bdi", m.dev, name), []byte(value), 0); err != nil {
			log.Debug("could not tune the mount", "setting", name, "err", err)
		}
	}
}
