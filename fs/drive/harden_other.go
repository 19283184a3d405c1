//go:build !linux

package drive

import (
	"os"

	"golang.org/x/sys/unix"
)

// Harden keeps the keys of this process out of core dumps.
func Harden() { unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}) }

// becomeStderr makes a file this process's standard error.
func becomeStderr(f *os.File) error { return unix.Dup2(int(f.Fd()), 2) }
