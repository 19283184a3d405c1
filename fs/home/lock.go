package home

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Lock is the right to serve the store from this folder.
type Lock struct{ f *os.File }

// Lock takes that right: ErrInUse if another process has it.
func (h *Home) Lock() (*Lock, error) { return lockIn(h.dir) }

func lockIn(dir string) (*Lock, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(f, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: a kist on this machine serves this store already; nothing was changed", ErrInUse)
		}
		return nil, err
	}
	return &Lock{f}, nil
}

// Release gives the right back.
func (l *Lock) Release() error { return l.f.Close() }

// Free waits until nobody holds the lock of a state folder: ErrInUse after d.
func Free(dir string, d time.Duration) error {
	deadline := time.Now().Add(d)
	for {
		l, err := lockIn(dir)
		if err == nil {
			return l.Release()
		}
		if !errors.Is(err, ErrInUse) || time.Now().After(deadline) {
			return err
		}
		time.Sleep(5 * time.Millisecond) // flock has no wait with a deadline
	}
}

// dying is how long a process that was killed may take to give up what it holds.
const dying = 5 * time.Second

// Held says whether a process serves the store from this folder, and waits for one
// that does not answer: it was killed, and the system has not yet taken its locks from
// it. answers is asked whether it does.
func (h *Home) Held(answers func() bool) (bool, error) {
	for deadline := time.Now().Add(dying); ; time.Sleep(5 * time.Millisecond) {
		held, err := h.Locked()
		if err != nil || !held || answers() || time.Now().After(deadline) {
			return held, err
		}
	}
}

// Locked says whether a process holds the lock, without taking it from one
// that is about to.
func (h *Home) Locked() (bool, error) {
	f, err := os.OpenFile(h.Path(lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = flock(f, unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

// locked runs f while no other process replaces the keyfile or the state.
func (h *Home) locked(f func() error) error {
	d, err := os.Open(h.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := flock(d, unix.LOCK_EX); err != nil {
		return err
	}
	return f()
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if err != unix.EINTR {
			return err
		}
	}
}
