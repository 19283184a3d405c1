package home

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// formerName is the folder of what belonged to devices that this folder was
// before, one folder each, in order.
const formerName = "former"

// Former is what belonged to a device that this folder was before.
type Former struct{ dir string }

// The ends that a former device's journal can come to. A file of that name in
// its folder says which.
const (
	Adopted = "adopted" // all that was not in the store is carried over
	Left    = "left"    // it can't be carried over; it is only kept
)

// SetAside moves what only the present device can read below former/: the
// journal and the named files, with a copy of the keyfile that opens them.
// Nothing is lost, and the next device starts with nothing.
func (h *Home) SetAside(names ...string) error {
	dir, err := h.newFormer()
	if err != nil {
		return err
	}
	raw, err := h.Keyfile()
	if err != nil {
		return err
	}
	if err := WriteFile(filepath.Join(dir, keyfileName), raw); err != nil {
		return err
	}
	for _, name := range append(names, "journal") {
		err := os.Rename(h.Path(name), filepath.Join(dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := errors.Join(syncDir(dir), syncDir(filepath.Dir(dir)), syncDir(h.dir)); err != nil {
		return err
	}
	return h.makeDirs()
}

func (h *Home) newFormer() (string, error) {
	for n := 1; ; n++ {
		dir := filepath.Join(h.Path(formerName), fmt.Sprintf("%04d", n))
		err := os.MkdirAll(filepath.Dir(dir), 0o700)
		if err == nil {
			err = os.Mkdir(dir, 0o700)
		}
		if !errors.Is(err, fs.ErrExist) {
			return dir, err
		}
	}
}

// Formers returns what SetAside has set aside and is still there, oldest first.
func (h *Home) Formers() ([]Former, error) {
	entries, err := os.ReadDir(h.Path(formerName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var all []Former
	for _, e := range entries {
		all = append(all, Former{filepath.Join(h.Path(formerName), e.Name())})
	}
	return all, err
}

// Keyfile is the one that opens the journal.
func (f Former) Keyfile() ([]byte, error) { return os.ReadFile(filepath.Join(f.dir, keyfileName)) }

// JournalDir is where the journal is now.
func (f Former) JournalDir() string { return filepath.Join(f.dir, "journal") }

// End is Adopted, Left, or "" while the journal waits.
func (f Former) End() string {
	for _, end := range []string{Adopted, Left} {
		if _, err := os.Stat(filepath.Join(f.dir, end)); err == nil {
			return end
		}
	}
	return ""
}

// SetEnd durably says to which end the journal has come.
func (f Former) SetEnd(end string) error { return WriteFile(filepath.Join(f.dir, end), nil) }
