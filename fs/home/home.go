// Package home is the state folder: what one machine keeps about one store.
//
// # Promise
//
// A state folder holds, for one store and one identity,
//
//	keyfile    the sealed identity; nobody opens the drive without it
//	trust      what was seen of each log (written by fs/log)
//	journal/   what is not yet in the store (written by fs/journal)
//	cache/     all of it may be deleted at any moment
//	store      the STORE it belongs to, one line; written last
//	state      the folder's own identity and the machine it was made on
//	exported   present once the keyfile has been exported
//	lock       held exclusively by the daemon that serves the store
//	control    the daemon's socket
//	former/    what belonged to devices that the folder was before
//	log        the daemon's messages; no names, paths or keys; log.old what it held before
//
// below $KIST_HOME/<store id>, or, without $KIST_HOME, below the state folder
// of the XDG rules, with the cache below the cache folder of those rules.
// Folders are made 0700 and files 0600. A folder without store was not finished;
// if it has a keyfile, that one may be the only key to a store, so it is kept,
// and serves as soon as the store itself names the folder's id.
//
// Every file that this package writes is replaced as a whole: its bytes are
// synced, renamed into place, and the folder is synced. After a crash a reader
// finds the old file or the new one.
//
// # Trust
//
// The folder is trusted to be the user's own, not to be unique: a cloned
// machine or a restored backup carries a faithful copy. [Home.Check] notices
// the copies that show themselves before any key is opened; the device table
// of the log notices the others. A copy is never used as it is.
//
// # Locks
//
// Two, both by flock, so that the end of a process frees them: the file lock
// is held as long as a drive is served ([Home.Lock]); the folder itself is
// locked for the moment in which the keyfile or the state is replaced. Reading
// needs neither, so that check, status and id work beside a mount.
package home

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

var (
	// ErrUnknown: nothing is known here of the store asked for.
	ErrUnknown = errors.New("this machine knows no such store")
	// ErrInUse: another process serves this store from this state folder.
	ErrInUse = errors.New("the state folder is in use")
	// ErrCloned: the state folder was copied, with its machine or without.
	ErrCloned = errors.New("the state folder is a copy")
	// ErrExist: a file that is never overwritten is there already.
	ErrExist = errors.New("already there")
)

// IDLen is the length of a store id in hexadecimal digits.
const IDLen = 64

// The names in a state folder.
const (
	keyfileName  = "keyfile"
	storeName    = "store"
	exportedName = "exported"
	lockName     = "lock"
)

// Root says where the state folders are.
type Root struct {
	State string // holds <store id>/
	Cache string // holds <store id>/; "" where the cache stands in the state folder
}

// Find reads the environment: $KIST_HOME, else $XDG_STATE_HOME and
// $XDG_CACHE_HOME, else $HOME. Nothing is made.
func Find(getenv func(string) string) (Root, error) {
	if dir := getenv("KIST_HOME"); dir != "" {
		abs, err := filepath.Abs(dir)
		return Root{State: abs}, err
	}
	state, err := xdg(getenv, "XDG_STATE_HOME", ".local/state")
	if err != nil {
		return Root{}, err
	}
	cache, err := xdg(getenv, "XDG_CACHE_HOME", ".cache")
	if err != nil {
		return Root{}, err
	}
	return Root{State: filepath.Join(state, "kist"), Cache: filepath.Join(cache, "kist")}, nil
}

// xdg follows the rules of the XDG base directories: a relative value counts
// as unset.
func xdg(getenv func(string) string, name, fallback string) (string, error) {
	if dir := getenv(name); filepath.IsAbs(dir) {
		return dir, nil
	}
	if dir := getenv("HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, fallback), nil
	}
	return "", fmt.Errorf("neither $KIST_HOME nor $%s nor $HOME names a folder for kist's state", name)
}

// Known is a store that this machine knows.
type Known struct {
	ID    string // 64 hexadecimal digits
	Store string // the STORE it was made or imported with
}

// List returns the stores known here, by id. Folders whose making was cut
// short are left out.
func (r Root) List() ([]Known, error) {
	entries, err := os.ReadDir(r.State)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var known []Known
	for _, e := range entries {
		if !validID(e.Name()) {
			continue
		}
		spec, err := os.ReadFile(filepath.Join(r.State, e.Name(), storeName))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		known = append(known, Known{ID: e.Name(), Store: strings.TrimSuffix(string(spec), "\n")})
	}
	sort.Slice(known, func(i, j int) bool { return known[i].ID < known[j].ID })
	return known, nil
}

// Home is one state folder.
type Home struct {
	id    string
	dir   string
	cache string
}

// Open finds the state folder of a store: ErrUnknown if there is no keyfile.
func (r Root) Open(id string) (*Home, error) {
	h, err := r.home(id)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(h.Path(keyfileName)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, ErrUnknown
		}
		return nil, err
	}
	return h, h.makeDirs()
}

// Create makes the state folder of a store that is not yet known: ErrExist if
// it is. The folder counts as known only after [Home.SetStore].
func (r Root) Create(id string) (*Home, error) {
	h, err := r.home(id)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(h.Path(keyfileName)); err == nil {
		return nil, fmt.Errorf("an identity for this store is %w", ErrExist)
	}
	if err := h.makeDirs(); err != nil {
		return nil, err
	}
	return h, nil
}

func (r Root) home(id string) (*Home, error) {
	if !validID(id) {
		return nil, fmt.Errorf("a store id has %d hexadecimal digits: %w", IDLen, ErrUnknown)
	}
	h := &Home{id: id, dir: filepath.Join(r.State, id)}
	h.cache = filepath.Join(h.dir, "cache")
	if r.Cache != "" {
		h.cache = filepath.Join(r.Cache, id)
	}
	return h, nil
}

func validID(id string) bool {
	raw, err := hex.DecodeString(id)
	return err == nil && len(raw)*2 == IDLen && strings.ToLower(id) == id
}

func (h *Home) makeDirs() error {
	for _, dir := range []string{h.dir, h.JournalDir(), h.cache} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	return nil
}

// ID is the store's id, Dir the folder, Path the path of a name in it.
func (h *Home) ID() string               { return h.id }
func (h *Home) Dir() string              { return h.dir }
func (h *Home) Path(name string) string  { return filepath.Join(h.dir, name) }
func (h *Home) JournalDir() string       { return h.Path("journal") }
func (h *Home) CacheDir() string         { return h.cache }
func (h *Home) TrustPath() string        { return h.Path("trust") }
func (h *Home) ControlPath() string      { return h.Path("control") }
func (h *Home) LogPath() string          { return h.Path("log") }
func (h *Home) SetStore(s string) error  { return WriteFile(h.Path(storeName), []byte(s+"\n")) }
func (h *Home) MarkExported() error      { return WriteFile(h.Path(exportedName), nil) }
func (h *Home) Keyfile() ([]byte, error) { return os.ReadFile(h.Path(keyfileName)) }

// Store is the STORE that the folder belongs to.
func (h *Home) Store() (string, error) {
	spec, err := os.ReadFile(h.Path(storeName))
	return strings.TrimSuffix(string(spec), "\n"), err
}

// Exported says whether the keyfile has been exported from here.
func (h *Home) Exported() bool {
	_, err := os.Stat(h.Path(exportedName))
	return err == nil
}

// ReplaceKeyfile gives the keyfile to change and puts what it returns in its
// place. An error from change leaves everything as it was.
func (h *Home) ReplaceKeyfile(change func(old []byte) ([]byte, error)) error {
	return h.locked(func() error {
		old, err := h.Keyfile()
		if err != nil {
			return err
		}
		raw, err := change(old)
		if err != nil {
			return err
		}
		return WriteFile(h.Path(keyfileName), raw)
	})
}

// Discard removes a folder whose making failed; it must hold nothing that is
// needed: no commit may have been made with its keyfile.
func (h *Home) Discard() error {
	if _, err := os.Stat(h.Path(storeName)); err == nil {
		return fmt.Errorf("the state folder belongs to a store: %w", ErrExist)
	}
	if err := os.RemoveAll(h.cache); err != nil {
		return err
	}
	return os.RemoveAll(h.dir)
}
