package mount

import (
	"log/slog"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	oDirect      = 0
	noAttr       = unix.ENOATTR
	capabilities = fuse.CAP_ATOMIC_O_TRUNC
)

func killsSgid(*fuse.SetXAttrIn) bool { return false }

func attach(a *adapter, dir string, opt Options) (*fuse.Server, error) {
	o := mountOptions(a, opt)
	o.Options = append(o.Options, "nosuid", "nodev")
	return fuse.NewServer(a, dir, o)
}

func waitMount(s *fuse.Server) error { return s.WaitMount() }

func detach(dir string) error     { return unix.Unmount(dir, 0) }
func detachDead(dir string) error { return unix.Unmount(dir, unix.MNT_FORCE) }

// tune has nothing to turn here.
func tune(string, *slog.Logger) {}
