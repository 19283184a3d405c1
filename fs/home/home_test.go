package home

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var testID = strings.Repeat("ab", 32)

func testHome(t *testing.T) (Root, *Home) {
	t.Helper()
	root, err := Find(env("KIST_HOME", t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	h, err := root.Create(testID)
	if err != nil {
		t.Fatal(err)
	}
	return root, h
}

func maker(content string) Maker {
	return func([]byte, [32]byte) ([]byte, [16]byte, error) {
		return []byte(content), [16]byte([]byte("0123456789abcdef")), nil
	}
}

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestFind(t *testing.T) {
	for _, c := range []struct {
		env          []string
		state, cache string
	}{
		{[]string{"KIST_HOME", "/k", "HOME", "/h"}, "/k/ID", "/k/ID/cache"},
		{[]string{"HOME", "/h"}, "/h/.local/state/kist/ID", "/h/.cache/kist/ID"},
		{[]string{"HOME", "/h", "XDG_STATE_HOME", "/s", "XDG_CACHE_HOME", "/c"}, "/s/kist/ID", "/c/kist/ID"},
		{[]string{"HOME", "/h", "XDG_STATE_HOME", "relative"}, "/h/.local/state/kist/ID", "/h/.cache/kist/ID"},
	} {
		root, err := Find(env(c.env...))
		if err != nil {
			t.Fatal(err)
		}
		h, err := root.home(testID)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.ReplaceAll(h.Dir(), testID, "ID"); got != c.state {
			t.Errorf("%v: state folder %s, want %s", c.env, got, c.state)
		}
		if got := strings.ReplaceAll(h.CacheDir(), testID, "ID"); got != c.cache {
			t.Errorf("%v: cache %s, want %s", c.env, got, c.cache)
		}
	}
	if _, err := Find(env()); err == nil {
		t.Error("no environment at all was accepted")
	}
}

func TestKnownOnlyWhenFinished(t *testing.T) {
	root, h := testHome(t)
	if _, err := root.Open(testID); !errors.Is(err, ErrUnknown) {
		t.Errorf("a folder without keyfile: %v, want ErrUnknown", err)
	}
	if err := h.CreateKeyfile(maker("key")); err != nil {
		t.Fatal(err)
	}
	if known, err := root.List(); err != nil || len(known) != 0 {
		t.Errorf("an unfinished folder is listed: %v %v", known, err)
	}
	if err := h.SetStore("dir:/some where"); err != nil {
		t.Fatal(err)
	}
	known, err := root.List()
	if err != nil || len(known) != 1 || known[0] != (Known{testID, "dir:/some where"}) {
		t.Errorf("List() = %v, %v", known, err)
	}
	if _, err := root.Create(testID); !errors.Is(err, ErrExist) {
		t.Errorf("made twice: %v, want ErrExist", err)
	}
	if err := h.Discard(); !errors.Is(err, ErrExist) {
		t.Errorf("a finished folder was discarded: %v", err)
	}
	for _, id := range []string{"", "..", testID[1:], strings.ToUpper(testID), testID + "/", strings.Repeat("zz", 32)} {
		if _, err := root.Open(id); !errors.Is(err, ErrUnknown) {
			t.Errorf("id %q: %v, want ErrUnknown", id, err)
		}
	}
}

func TestModes(t *testing.T) {
	_, h := testHome(t)
	if err := h.CreateKeyfile(maker("key")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{h.Dir(), h.JournalDir(), h.CacheDir(), h.Path("keyfile"), h.Path("state")} {
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s can be reached by others: %v", filepath.Base(path), fi.Mode())
		}
	}
}

func TestKeyfileIsNotOverwritten(t *testing.T) {
	_, h := testHome(t)
	if err := h.CreateKeyfile(maker("one")); err != nil {
		t.Fatal(err)
	}
	if err := h.CreateKeyfile(maker("two")); !errors.Is(err, ErrExist) {
		t.Fatalf("a second keyfile: %v, want ErrExist", err)
	}
	refused := errors.New("refused")
	if err := h.ReplaceKeyfile(func([]byte) ([]byte, error) { return []byte("x"), refused }); err != refused {
		t.Fatal(err)
	}
	if raw, err := h.Keyfile(); err != nil || string(raw) != "one" {
		t.Fatalf("after refusals: %q, %v", raw, err)
	}
	err := h.ReplaceKeyfile(func(old []byte) ([]byte, error) { return append(old, '2'), nil })
	if raw, _ := h.Keyfile(); err != nil || string(raw) != "one2" {
		t.Fatalf("after a change: %q, %v", raw, err)
	}
	entries, _ := os.ReadDir(h.Dir())
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".new-") {
			t.Errorf("left behind: %s", e.Name())
		}
	}
}

func TestCreateFileKeepsWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "export")
	if err := CreateFile(path, []byte("mine")); err != nil {
		t.Fatal(err)
	}
	if err := CreateFile(path, []byte("other")); !errors.Is(err, ErrExist) {
		t.Errorf("overwriting: %v, want ErrExist", err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(dir, "elsewhere"), link); err != nil {
		t.Fatal(err)
	}
	if err := CreateFile(link, []byte("x")); !errors.Is(err, ErrExist) {
		t.Errorf("through a dangling symlink: %v, want ErrExist", err)
	}
	if raw, _ := os.ReadFile(path); string(raw) != "mine" {
		t.Errorf("content is now %q", raw)
	}
}

func TestLock(t *testing.T) {
	_, h := testHome(t)
	l, err := h.Lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Lock(); !errors.Is(err, ErrInUse) {
		t.Errorf("a second lock: %v, want ErrInUse", err)
	}
	if held, err := h.Locked(); err != nil || !held {
		t.Errorf("Locked() = %v, %v", held, err)
	}
	if err := Free(h.Dir(), 20*time.Millisecond); !errors.Is(err, ErrInUse) {
		t.Errorf("Free while held: %v, want ErrInUse", err)
	}
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
	if err := Free(h.Dir(), time.Second); err != nil {
		t.Errorf("Free after release: %v", err)
	}
}

func TestCopies(t *testing.T) {
	root, h := testHome(t)
	if err := h.CreateKeyfile(maker("key")); err != nil {
		t.Fatal(err)
	}
	state, err := h.Check()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.CheckAgainst(state.ID, state.Mark); err != nil {
		t.Fatal(err)
	}
	if err := h.CheckAgainst([16]byte{}, state.Mark); !errors.Is(err, ErrCloned) {
		t.Errorf("another keyfile: %v, want ErrCloned", err)
	}

	// Beside it, as cp -a or a restored backup would make it.
	other := root
	other.State = t.TempDir()
	if out, err := exec.Command("cp", "-a", h.Dir(), other.State).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	copied, err := other.home(testID)
	if err != nil {
		t.Fatal(err)
	}
	_, err = copied.Check()
	if !errors.Is(err, ErrCloned) || !strings.Contains(err.Error(), "kist id device new") {
		t.Errorf("a copy: %v, want ErrCloned with the way out", err)
	}
	if err := copied.Renew(maker("key2")); err != nil {
		t.Fatal(err)
	}
	if _, err := copied.Check(); err != nil {
		t.Errorf("after Renew: %v", err)
	}
	if _, err := h.Check(); err != nil {
		t.Errorf("the original: %v", err)
	}

	// Without its state, or with a damaged one.
	if err := os.Remove(h.Path("state")); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Check(); !errors.Is(err, ErrCloned) {
		t.Errorf("without state: %v, want ErrCloned", err)
	}
}

func TestRenew(t *testing.T) {
	_, h := testHome(t)
	if err := h.CreateKeyfile(maker("one")); err != nil {
		t.Fatal(err)
	}
	before, err := h.Check()
	if err != nil {
		t.Fatal(err)
	}
	refused := errors.New("refused")
	if err := h.Renew(func([]byte, [32]byte) ([]byte, [16]byte, error) { return nil, [16]byte{}, refused }); err != refused {
		t.Fatal(err)
	}
	if s, err := h.Check(); err != nil || s != before {
		t.Fatalf("after a refusal: %v, %v", s, err)
	}
	var seen State
	err = h.Renew(func(old []byte, mark [32]byte) ([]byte, [16]byte, error) {
		seen = State{ID: [16]byte{9}, Mark: mark}
		return append(old, "two"...), seen.ID, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	after, err := h.Check()
	if err != nil || after != seen || after == before {
		t.Errorf("state %v, %v; the keyfile was given %v", after, err, seen)
	}
	if raw, _ := h.Keyfile(); string(raw) != "onetwo" {
		t.Errorf("keyfile %q", raw)
	}
}

func FuzzState(f *testing.F) {
	f.Add(string(encodeState(State{ID: [16]byte{1}, Mark: [32]byte{2}})))
	f.Add("kist state 1\n\n\n")
	f.Fuzz(func(t *testing.T, raw string) {
		s, err := parseState(raw)
		if err == nil && string(encodeState(s)) != raw {
			t.Errorf("accepted a second form: %q", raw)
		}
	})
}

func TestSetAside(t *testing.T) {
	_, h := testHome(t)
	if err := h.CreateKeyfile(maker("old")); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		for _, name := range []string{"trust", "journal/1"} {
			if err := os.WriteFile(h.Path(name), []byte(name), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := h.SetAside("trust", "absent"); err != nil {
			t.Fatal(err)
		}
		dirs, err := h.Formers()
		if err != nil || len(dirs) != i+1 {
			t.Fatalf("Formers() = %v, %v", dirs, err)
		}
		for name, want := range map[string]string{"keyfile": "old", "trust": "trust", "journal/1": "journal/1"} {
			if raw, err := os.ReadFile(filepath.Join(dirs[i].dir, name)); err != nil || string(raw) != want {
				t.Errorf("%s: %q, %v", name, raw, err)
			}
		}
		if end := dirs[i].End(); end != "" {
			t.Errorf("a journal that waits has come to the end %q", end)
		}
		if err := dirs[i].SetEnd(Adopted); err != nil || dirs[i].End() != Adopted {
			t.Errorf("after its end: %q, %v", dirs[i].End(), err)
		}
		if left, _ := os.ReadDir(h.JournalDir()); len(left) != 0 {
			t.Errorf("the journal still holds %v", left)
		}
	}
}
