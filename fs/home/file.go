package home

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// WriteFile puts a file of mode 0600 in place of what is there, durably and as
// a whole.
func WriteFile(path string, data []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-*") // made 0600
	if err != nil {
		return err
	}
	defer f.Close()
	if err := fill(f, data); err != nil {
		os.Remove(f.Name())
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		os.Remove(f.Name())
		return err
	}
	return syncDir(dir)
}

// CreateFile durably writes a new file of mode 0600; what is there already
// stays, whatever it is, and the error is ErrExist. It asks nothing special of
// the file system, since an export may go to a stick.
func CreateFile(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("a file of that name is %w; it was left as it is", ErrExist)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := fill(f, data); err != nil {
		os.Remove(path)
		return err
	}
	return syncDir(filepath.Dir(path))
}

func fill(f *os.File, data []byte) error {
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Files are the small files of a state folder, for the packages that keep
// something of their own there.
type Files struct{ h *Home }

// Files gives access to them.
func (h *Home) Files() Files { return Files{h} }

// ReadFile reads one; fs.ErrNotExist if it is not there.
func (f Files) ReadFile(name string) ([]byte, error) { return os.ReadFile(f.h.Path(name)) }

// WriteFileDurable replaces one, see [WriteFile].
func (f Files) WriteFileDurable(name string, data []byte) error {
	return WriteFile(f.h.Path(name), data)
}
