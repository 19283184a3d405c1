//go:build !linux

package drive

import "golang.org/x/sys/unix"

// Harden keeps the keys of this process out of core dumps.
func Harden() { unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}) }
