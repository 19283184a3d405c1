package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"kist/backend"
	"kist/backend/backendtest"
)

// A test binary that is started with this variable is one of the creators of
// TestRaceOfProcesses.
const creatorEnv = "KIST_DIR_TEST_CREATOR"

func TestMain(m *testing.M) {
	if top := os.Getenv(creatorEnv); top != "" {
		os.Exit(create(top))
	}
	os.Exit(m.Run())
}

func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := Create(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	backendtest.Run(t, func(t *testing.T) backend.Store { return newStore(t) })
}

// What is made is open to those to whom the directory is, whatever the umask, and root
// gives it to the directory's owner.
func TestRights(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	s := newStore(t)
	if err := os.Chmod(s.top, fs.ModeSetgid|0o750); err != nil {
		t.Fatal(err)
	}
	want := os.Geteuid()
	if want == 0 {
		want = 65534
		if err := os.Chown(s.top, want, want); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Create(context.Background(), "a/b/c", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]fs.FileMode{"a": fs.ModeSetgid | 0o750, "a/b": fs.ModeSetgid | 0o750, "a/b/c": 0o640} {
		info, err := os.Stat(filepath.Join(s.top, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode() &^ fs.ModeDir; got != mode {
			t.Errorf("%s has mode %o, want %o", name, got, mode)
		}
		if uid := int(info.Sys().(*syscall.Stat_t).Uid); uid != want {
			t.Errorf("%s belongs to %d, want %d", name, uid, want)
		}
	}
}

func TestRaceOfStores(t *testing.T) {
	s := newStore(t)
	other, err := Open(s.top)
	if err != nil {
		t.Fatal(err)
	}
	backendtest.Race(t, []backend.Store{s, other}, 16)
}

const rounds = 50

// create is one process: it tries to create every key and says which it got.
func create(top string) int {
	s, err := Open(top)
	if err != nil {
		return 1
	}
	var b [1]byte
	_, _ = os.Stdin.Read(b[:]) // until all processes are up
	for i := range rounds {
		err := s.Create(context.Background(), fmt.Sprintf("race/%d", i), fmt.Appendf(nil, "%d", os.Getpid()))
		switch {
		case err == nil:
			fmt.Println("won", i)
		case !errors.Is(err, backend.ErrExist):
			fmt.Println("failed", err)
			return 1
		}
	}
	return 0
}

func TestRaceOfProcesses(t *testing.T) {
	s := newStore(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var outs [4]strings.Builder
	var cmds [4]*exec.Cmd
	for i := range cmds {
		cmds[i] = exec.CommandContext(t.Context(), exe)
		cmds[i].Env = append(os.Environ(), creatorEnv+"="+s.top)
		cmds[i].Stdin, cmds[i].Stdout, cmds[i].Stderr = r, &outs[i], &outs[i]
		if err := cmds[i].Start(); err != nil {
			t.Fatal(err)
		}
	}
	w.Close() // lets them all go
	r.Close()
	winner := map[string]string{}
	for i, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Fatal(err, outs[i].String())
		}
		for line := range strings.Lines(outs[i].String()) {
			var n int
			if _, err := fmt.Sscanf(line, "won %d", &n); err != nil {
				t.Fatal(line)
			}
			key := fmt.Sprintf("race/%d", n)
			if winner[key] != "" {
				t.Fatalf("%s was won twice", key)
			}
			winner[key] = fmt.Sprint(cmd.Process.Pid)
		}
	}
	if len(winner) != rounds {
		t.Fatalf("%d of %d keys were won", len(winner), rounds)
	}
	for key, pid := range winner {
		if got, err := s.Get(t.Context(), key, 100); err != nil || string(got) != pid {
			t.Fatalf("%s holds %q, won by %s: %v", key, got, pid, err)
		}
	}
}

func TestMissingDirectory(t *testing.T) {
	top := filepath.Join(t.TempDir(), "no", "store")
	if _, err := Create(top); !errors.Is(err, backend.ErrAway) {
		t.Fatalf("made the parent, too: %v", err)
	}
	s, err := Open(top)
	if err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		_, getErr := s.Get(t.Context(), "k", 1)
		_, rangeErr := s.GetRange(t.Context(), "k", 0, 1)
		for i, err := range []error{
			getErr, rangeErr, s.Create(t.Context(), "k", []byte("x")), s.Delete(t.Context(), "k"),
			s.List(t.Context(), "", nil), backend.Probe(t.Context(), s),
		} {
			if errno := syscall.Errno(0); !errors.Is(err, backend.ErrAway) || errors.As(err, &errno) || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("call %d: %v", i, err)
			}
		}
	}
	check()
	if _, err := os.Stat(filepath.Dir(top)); err == nil {
		t.Fatal("a call made the directory")
	}
	// A file in its parent's place.
	if err := os.WriteFile(filepath.Dir(top), []byte("x"), 0o666); err != nil {
		t.Fatal(err)
	}
	check()
}

// The disk comes back: the same Store goes on.
func TestDirectoryReturns(t *testing.T) {
	s := newStore(t)
	if err := s.Create(t.Context(), "k", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(s.top, s.top+"-away"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), "k", 1); !errors.Is(err, backend.ErrAway) {
		t.Fatal(err)
	}
	if err := os.Rename(s.top+"-away", s.top); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get(t.Context(), "k", 1); err != nil || string(got) != "x" {
		t.Fatal(got, err)
	}
}

// What a crash leaves is not seen, does no harm, and goes after a day.
func TestLeftOvers(t *testing.T) {
	s := newStore(t)
	if err := s.Create(t.Context(), "a/k", []byte("x")); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(s.top, tmpFolder))
	if err != nil || len(entries) != 0 {
		t.Fatalf("a write left %v, %v", entries, err)
	}
	young, old := filepath.Join(s.top, tmpFolder, "young"), filepath.Join(s.top, tmpFolder, "old")
	for _, name := range []string{young, old} {
		if err := os.WriteFile(name, []byte("half"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Now().Add(-2 * staleTime)
	if err := os.Chtimes(old, past, past); err != nil {
		t.Fatal(err)
	}
	var keys []string
	if err := s.List(t.Context(), "", func(key string, _ int64) error { keys = append(keys, key); return nil }); err != nil || len(keys) != 1 {
		t.Fatal(keys, err)
	}
	if _, err := Open(s.top); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(young); err != nil {
		t.Error("a file was removed that its writer may still need")
	}
	if _, err := os.Stat(old); err == nil {
		t.Error("an old left-over stays")
	}
}

// Whoever else writes to the directory can't lead us out of it or hold us up.
func TestStrangers(t *testing.T) {
	s := newStore(t)
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("secret"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		os.Symlink(outside, filepath.Join(s.top, "link")),
		os.Symlink(filepath.Dir(outside), filepath.Join(s.top, "folder")),
		syscall.Mkfifo(filepath.Join(s.top, "pipe"), 0o666),
		os.Mkdir(filepath.Join(s.top, "dir"), 0o777),
	); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"link", "folder/outside", "pipe", "dir"} {
		if got, err := s.Get(t.Context(), key, 100); err == nil {
			t.Errorf("%s: read %q", key, got)
		}
	}
	if err := s.Create(t.Context(), "folder/new", []byte("x")); !errors.Is(err, backend.ErrAway) {
		t.Error("wrote outside:", err)
	}
	if err := s.Create(t.Context(), "link", []byte("x")); !errors.Is(err, backend.ErrExist) {
		t.Error(err)
	}
	if err := s.List(t.Context(), "", func(key string, _ int64) error { return errors.New("lists " + key) }); err != nil {
		t.Error(err)
	}
}

func TestErrorKinds(t *testing.T) {
	for errno, kind := range map[syscall.Errno]error{
		syscall.ENOSPC: backend.ErrAway, syscall.EDQUOT: backend.ErrAway, syscall.EIO: backend.ErrAway,
		syscall.EACCES: backend.ErrDenied, syscall.EROFS: backend.ErrDenied, syscall.ESTALE: backend.ErrAway,
	} {
		err := explain(&fs.PathError{Op: "write", Path: "/secret/path", Err: errno})
		var e syscall.Errno
		if !errors.Is(err, kind) || errors.As(err, &e) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%v: %v", errno, err)
		}
	}
	if err := explain(syscall.ENOSPC); !strings.Contains(err.Error(), "full") {
		t.Error(err)
	}
}
