package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// vet keeps damaged files away from Badger, which ends the process over them,
// in goroutines of its own where nothing can be caught. When the database is
// closed in order, a keyed hash over all its files is left beside it. Without
// that, after a crash or when it does not fit, the database is removed.
type vet struct {
	dir  string // of the database
	mac  func([]byte) name
	seen map[string]seen
}

// seen saves hashing a file twice in one run: tables never change.
type seen struct {
	size int64
	time time.Time
	sum  [32]byte
}

func (v *vet) path() string { return v.dir + ".sum" }

// admit removes the database unless it is as it was left. The mark is used
// once: from now on the files change.
func (v *vet) admit() {
	if mark, err := readFile(v.path()); err == nil {
		if sum, ok := v.sum(); ok && string(mark) == string(sum[:]) && os.Remove(v.path()) == nil {
			return
		}
	}
	_ = os.RemoveAll(v.path())
	_ = os.RemoveAll(v.dir)
}

// leave marks a database that was closed in order.
func (v *vet) leave() {
	if sum, ok := v.sum(); ok {
		_ = writeFile(v.path(), sum[:])
	}
}

// sum is over a folder that holds nothing but files, each of one name.
func (v *vet) sum() (name, bool) {
	var list []byte
	err := filepath.WalkDir(v.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == v.dir && e.IsDir() {
			return err
		}
		sum, err := v.file(path)
		base := filepath.Base(path)
		list = binary.BigEndian.AppendUint32(list, uint32(len(base)))
		list = append(append(list, base...), sum[:]...)
		return err
	})
	return v.mac(list), err == nil
}

func (v *vet) file(path string) (sum [32]byte, err error) {
	f, err := openFile(path)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return sum, err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Nlink != 1 {
		return sum, fs.ErrInvalid // Badger would write to it under its other name, too
	}
	old, ok := v.seen[path]
	if ok && filepath.Ext(path) == ".sst" && old.size == info.Size() && old.time.Equal(info.ModTime()) {
		return old.sum, nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return sum, err
	}
	sum = [32]byte(h.Sum(nil))
	v.seen[path] = seen{info.Size(), info.ModTime(), sum}
	return sum, nil
}
