// Package dir is the store in a plain directory: a disk, a network share, or a
// folder that something else carries away.
//
// An object is a file whose path is its key. A write goes to a new file below
// .kist-tmp in the store, is synced, and gets its name in one step: by rename
// (Put), or by link, which fails where the name is taken (Create) and decides
// between processes and machines as far as the file system's link does. Then
// the directories are synced up to the top, whoever made them. So a name never
// shows a part of an object, and what was acknowledged survives a crash.
// What a crash leaves in .kist-tmp is invisible and harmless; Open removes what
// has lain there for a day.
//
// The directory itself is made by Create only. If it is missing, every call is
// ErrAway: an unmounted disk is not an empty store. (A mount point that is left
// behind empty can't be told from an empty store here: put the store in a
// folder on the disk, not at its top.)
//
// What is made here may be read and written by those who may do so to the
// directory itself, whatever the umask; made by root, it belongs to whom the
// directory belongs to. So several users can share one. The bytes are sealed.
//
// Keys are distinguished as far as the file system distinguishes names; kist's
// own keys are lower-case. Whoever may write to the directory is as little
// trusted as any store. Symbolic links do not lead out of it.
package dir

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"kist/backend"
)

const (
	tmpFolder = ".kist-tmp" // no legal key begins with a dot
	staleTime = 24 * time.Hour
)

// Store is a backend.Store in a directory.
type Store struct {
	top string // absolute
}

var _ backend.Store = (*Store)(nil)

// Create makes the directory, if it is not there, and returns its store. Its
// parent must exist. What the directory holds already stays.
func Create(top string) (*Store, error) {
	s, err := at(top)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(s.top, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%w: the directory can't be made: %v", backend.ErrAway, bare(err))
	}
	if err := syncDir(filepath.Dir(s.top)); err != nil {
		return nil, fmt.Errorf("%w: syncing the directory's parent: %v", backend.ErrAway, bare(err))
	}
	return s, nil
}

// Open returns the store in the directory. It need not be there now: until it
// is, calls return ErrAway.
func Open(top string) (*Store, error) {
	s, err := at(top)
	if err == nil {
		s.sweep()
	}
	return s, err
}

func at(top string) (*Store, error) {
	if top == "" {
		return nil, fmt.Errorf("%w: no path", backend.ErrInvalid)
	}
	abs, err := filepath.Abs(top)
	if err != nil {
		return nil, fmt.Errorf("%w: the working directory is gone; give a path that begins with /", backend.ErrInvalid)
	}
	return &Store{abs}, nil
}

// sweep removes temporary files that no running process can still need. It is
// a courtesy, so its errors are nobody's business.
func (s *Store) sweep() {
	root, err := os.OpenRoot(s.top)
	if err != nil {
		return
	}
	defer root.Close()
	entries, err := fs.ReadDir(root.FS(), tmpFolder)
	if err != nil {
		return
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > staleTime {
			_ = root.Remove(path.Join(tmpFolder, e.Name()))
		}
	}
}

// String implements backend.Store.
func (s *Store) String() string { return "dir:" + s.top }

// open opens the top. Opened anew for each call, it follows a disk that comes
// and goes; as a Root it keeps every path inside.
func (s *Store) open(ctx context.Context) (*os.Root, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(s.top)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, fmt.Errorf("%w: the directory is missing; is the disk mounted?", backend.ErrAway)
	}
	return root, explain(err)
}

// Get implements backend.Store.
func (s *Store) Get(ctx context.Context, key string, limit int64) ([]byte, error) {
	if err := backend.CheckKey(key); err != nil {
		return nil, err
	}
	if limit < 0 || limit > backend.MaxObject {
		return nil, fmt.Errorf("%w: a limit of %d bytes", backend.ErrInvalid, limit)
	}
	var data []byte
	err := s.read(ctx, key, func(f *os.File, size int64) error {
		if size > limit {
			return backend.ErrTooLarge
		}
		data = make([]byte, size)
		return readAt(f, data, 0)
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

// GetRange implements backend.Store.
func (s *Store) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	if err := backend.CheckRange(key, off, n); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil || n == 0 {
		return []byte{}, err
	}
	var data []byte
	err := s.read(ctx, key, func(f *os.File, size int64) error {
		if off+n > size {
			return backend.ErrShort
		}
		data = make([]byte, n)
		return readAt(f, data, off)
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

func readAt(f *os.File, data []byte, off int64) error {
	if _, err := f.ReadAt(data, off); err == io.EOF {
		return backend.ErrShort // it shrank: not our doing, we only rename
	} else if err != nil {
		return explain(err)
	}
	return nil
}

func (s *Store) read(ctx context.Context, key string, do func(*os.File, int64) error) error {
	root, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer root.Close()
	// Without O_NONBLOCK a pipe under that name would hold us for ever.
	f, err := root.OpenFile(key, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if absent(err) {
		return backend.ErrNotExist
	}
	if err != nil {
		return explain(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return explain(err)
	}
	if !info.Mode().IsRegular() {
		return backend.ErrNotExist
	}
	return do(f, info.Size())
}

// absent covers a parent that is an object, which no key of kist's has.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// Put implements backend.Store.
func (s *Store) Put(ctx context.Context, key string, body []byte, sum [32]byte) error {
	if err := backend.CheckWrite(key, body); err != nil {
		return err
	}
	if sha256.Sum256(body) != sum {
		return fmt.Errorf("%w: the sum is not the body's", backend.ErrInvalid)
	}
	return s.write(ctx, key, body, (*os.Root).Rename)
}

// Create implements backend.Store.
func (s *Store) Create(ctx context.Context, key string, body []byte) error {
	if err := backend.CheckWrite(key, body); err != nil {
		return err
	}
	return s.write(ctx, key, body, link)
}

// write makes a synced file and gives it its name by give.
func (s *Store) write(ctx context.Context, key string, body []byte, give func(r *os.Root, from, to string) error) error {
	root, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer root.Close()
	as, err := rightsOf(root)
	if err != nil {
		return explain(err)
	}
	if err := as.makeFolder(root, tmpFolder); err != nil {
		return explain(err)
	}
	tmp := path.Join(tmpFolder, rand.Text())
	defer root.Remove(tmp) // renamed: it is gone already; linked: its second name goes
	if err := as.writeFile(root, tmp, body); err != nil {
		return explain(err)
	}
	if err := as.makeFolders(root, path.Dir(key)); err != nil {
		return explain(err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	err = give(root, tmp, key)
	if err != nil && !errors.Is(err, backend.ErrExist) {
		return explain(err)
	}
	// A loser syncs, too: it will act on what the winner has perhaps not yet
	// made durable.
	if err := syncUp(root, path.Dir(key)); err != nil {
		return explain(err)
	}
	return err
}

// link gives a file a second name, if that is free.
func link(root *os.Root, from, to string) error {
	err := root.Link(from, to)
	switch {
	case errors.Is(err, fs.ErrExist):
		return backend.ErrExist
	case errors.Is(err, syscall.EPERM) || errors.Is(err, errors.ErrUnsupported):
		return fmt.Errorf("%w: its file system has no hard links, which decide who was first; use another", backend.ErrUnsupported)
	}
	return err
}

// rights are those of the store's directory, which all that is made in it gets.
type rights struct {
	mode     fs.FileMode
	uid, gid int // -1: those of the process, which may set no others
}

func rightsOf(root *os.Root) (rights, error) {
	info, err := root.Stat(".")
	if err != nil {
		return rights{}, err
	}
	r := rights{mode: info.Mode()&(fs.ModePerm|fs.ModeSetgid) | 0o700, uid: -1, gid: -1}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		r.uid, r.gid = int(st.Uid), int(st.Gid)
	}
	return r, nil
}

// give sets them on what is held open, whatever stands under its name by now: whoever may
// write to the directory must not get another file from root. File systems without owners
// and modes refuse; what was made is as good to its maker without.
func (r rights) give(f *os.File, mode fs.FileMode) {
	if r.uid >= 0 {
		_ = f.Chown(r.uid, r.gid)
	}
	_ = f.Chmod(mode)
}

func (r rights) makeFolder(root *os.Root, name string) error {
	err := root.Mkdir(name, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Mode().Perm() == 0o700 && mine(info) {
		r.give(f, r.mode)
	}
	return nil
}

// mine says whether a folder belongs to this process, as the one that it has just made.
func mine(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	entries := st.Nlink <= 2 // none in it, where links are counted
	return entries && int(st.Uid) == os.Geteuid()
}

func (r rights) makeFolders(root *os.Root, name string) error {
	if name == "." {
		return nil
	}
	if _, err := root.Stat(name); err == nil {
		return nil
	}
	if err := r.makeFolders(root, path.Dir(name)); err != nil {
		return err
	}
	return r.makeFolder(root, name)
}

func (r rights) writeFile(root *os.Root, name string, body []byte) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	r.give(f, r.mode&0o666)
	_, err = f.Write(body)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// syncUp makes the entries durable from folder up to the top.
func syncUp(root *os.Root, folder string) error {
	for {
		f, err := root.Open(folder)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil || folder == "." {
			return err
		}
		folder = path.Dir(folder)
	}
}

func syncDir(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Delete implements backend.Store. Emptied folders stay: removing one could
// meet a Create that has just made it.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := backend.CheckKey(key); err != nil {
		return err
	}
	root, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer root.Close()
	info, err := root.Lstat(key)
	if absent(err) || err == nil && info.IsDir() {
		return nil
	}
	if err != nil {
		return explain(err)
	}
	if err := root.Remove(key); err != nil && !absent(err) {
		return explain(err)
	}
	return explain(syncUp(root, path.Dir(key)))
}

// List implements backend.Store.
func (s *Store) List(ctx context.Context, prefix string, fn func(string, int64) error) error {
	if err := backend.CheckPrefix(prefix); err != nil {
		return err
	}
	root, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer root.Close()
	start := "."
	if prefix != "" {
		start = strings.TrimSuffix(prefix, "/")
	}
	var stop error // of fn or the context: goes out as it is
	err = fs.WalkDir(root.FS(), start, func(name string, e fs.DirEntry, err error) error {
		if stop = ctx.Err(); stop != nil {
			return stop
		}
		if name == start && err == nil && !e.IsDir() {
			return nil // the prefix names an object
		}
		return listed(name, e, err, func(size int64) error {
			stop = fn(name, size)
			return stop
		})
	})
	if stop != nil {
		return stop
	}
	return explain(err)
}

func listed(name string, e fs.DirEntry, err error, fn func(int64) error) error {
	switch {
	case absent(err):
		return nil // deleted meanwhile, or nothing below this prefix yet
	case err != nil:
		return err
	case name == tmpFolder:
		return fs.SkipDir
	case !e.Type().IsRegular():
		return nil
	}
	info, err := e.Info()
	if absent(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return fn(info.Size())
}

// explain gives an operating system's error its kind and takes path and errno
// out of its chain.
func explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, backend.ErrUnsupported):
		return err
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w; make room on the disk that holds it", backend.ErrFull)
	case errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%w: %v", backend.ErrDenied, bare(err))
	}
	return fmt.Errorf("%w: %v", backend.ErrAway, bare(err))
}

// bare is the errno's text, without the paths around it.
func bare(err error) string {
	if e := syscall.Errno(0); errors.As(err, &e) {
		return e.Error()
	}
	return "the operating system refused"
}
