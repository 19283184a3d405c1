package drive

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// MinJournal is the smallest budget of a journal: a few chunks and what a commit needs.
const MinJournal = 32 << 20

// The floor: what the journal leaves free on its disk, a hundredth of it within these
// bounds. The cache leaves twice as much, so that it is the first to give way.
const (
	minFloor = 64 << 20
	maxFloor = 256 << 20
)

// floor is how many bytes of the volume that holds dir are left to others.
func floor(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("asking for the size of the disk: %w", err)
	}
	return min(max(int64(st.Blocks)*int64(st.Bsize)/100, minFloor), maxFloor), nil
}
