//go:build !linux

package drive

import "golang.org/x/sys/unix"

// detach takes a mount in use out of the tree.
func detach(dir string) error { return unix.Unmount(dir, unix.MNT_FORCE) }
