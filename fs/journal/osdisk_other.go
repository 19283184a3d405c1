//go:build !linux

package journal

import (
	"os"

	"golang.org/x/sys/unix"
)

// dataSync: File.Sync is F_FULLFSYNC on darwin.
func dataSync(f *os.File) error { return f.Sync() }

func preallocate(*os.File, int64) error { return unix.EOPNOTSUPP }

func startWriteback(*os.File, int64, int64) {}
