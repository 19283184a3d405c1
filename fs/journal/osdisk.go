package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// osDisk is a directory of the operating system.
type osDisk struct {
	dir  string
	lock *os.File
}

const nameLock = "lock"

// OpenDisk opens a directory, made if need be, and locks it against other
// processes.
func OpenDisk(dir string) (Disk, error) {
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, nameLock), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrLocked
		}
		return nil, fmt.Errorf("locking the journal: %w", err)
	}
	return &osDisk{dir, lock}, nil
}

// makeDir makes the directory durable, too: what is synced in it must not hang
// from a name that a power cut takes away.
func makeDir(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, os.ErrNotExist) {
		if err = makeDir(filepath.Dir(dir)); err == nil {
			err = os.Mkdir(dir, 0o700)
		}
	}
	switch {
	case errors.Is(err, os.ErrExist):
		return nil
	case err != nil:
		return err
	}
	return syncDir(filepath.Dir(dir))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (d *osDisk) open(name string, flag int) (File, error) {
	f, err := os.OpenFile(filepath.Join(d.dir, name), os.O_RDWR|unix.O_NOFOLLOW|flag, 0o600)
	if err != nil {
		return nil, err
	}
	return &osFile{f}, nil
}

func (d *osDisk) Create(name string) (File, error) { return d.open(name, os.O_CREATE|os.O_EXCL) }
func (d *osDisk) Open(name string) (File, error)   { return d.open(name, 0) }
func (d *osDisk) Remove(name string) error         { return os.Remove(filepath.Join(d.dir, name)) }
func (d *osDisk) SyncDir() error                   { return syncDir(d.dir) }
func (d *osDisk) Close() error                     { return d.lock.Close() }

func (d *osDisk) Free() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(d.dir, &st); err != nil {
		return 0, fmt.Errorf("asking for the free space of the journal's disk: %w", err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

func (d *osDisk) Rename(from, to string) error {
	return os.Rename(filepath.Join(d.dir, from), filepath.Join(d.dir, to))
}

func (d *osDisk) List() ([]string, error) {
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

type osFile struct{ *os.File }

func (f *osFile) Sync() error { return dataSync(f.File) }

func (f *osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (f *osFile) Allocate(end int64) error {
	err := preallocate(f.File, end)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return f.roomFor(end)
	}
	return err
}

// roomFor is the second best where a file system cannot allocate ahead.
func (f *osFile) roomFor(end int64) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return err
	}
	size, err := f.Size()
	if err != nil {
		return err
	}
	if end-size > int64(st.Bavail)*int64(st.Bsize) {
		return unix.ENOSPC
	}
	return nil
}

// writeBehind is the size of a write from which on the kernel is asked to
// start at once, so that the next sync has less to wait for.
const writeBehind = 512 << 10

func (f *osFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.File.WriteAt(p, off)
	if err == nil && n >= writeBehind {
		startWriteback(f.File, off, int64(n))
	}
	return n, err
}
