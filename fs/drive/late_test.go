package drive

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"kist/backend"
	"kist/crypto/keys"
	"kist/fs/home"
)

// lateStore is the store of a state folder, in a directory that is not there yet.
func lateStore(t *testing.T) (l *late, dir string, id keys.StoreID) {
	t.Helper()
	id[0] = 1
	root := home.Root{State: t.TempDir()}
	h, err := root.Create(id.String())
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(t.TempDir(), "store")
	spec, err := parseStore("dir:" + dir)
	if err != nil {
		t.Fatal(err)
	}
	return newLate(place{h, spec}), dir, id
}

func makeStore(t *testing.T, dir string, id keys.StoreID) {
	t.Helper()
	raw := keys.StoreHeader{Format: keys.StoreFormat, StoreID: id}.Encode()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, headerKey), raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A store that comes back must be the one that went, each time.
func TestLateStore(t *testing.T) {
	l, dir, id := lateStore(t)
	other := keys.StoreID{2}
	create := func(key string, want error) {
		t.Helper()
		l.next = time.Time{} // without waiting for the next knock
		if err := l.Create(t.Context(), key, []byte("x")); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", key, err, want)
		}
	}
	create("away", backend.ErrAway)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	create("an-empty-mount-point", backend.ErrAway)
	makeStore(t, dir, other)
	create("another", keys.ErrKeyfile)
	makeStore(t, dir, id)
	create("there", nil)
	if err := os.Rename(dir, dir+".aside"); err != nil {
		t.Fatal(err)
	}
	create("away-again", backend.ErrAway)
	makeStore(t, dir, other)
	create("another-again", keys.ErrKeyfile)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir+".aside", dir); err != nil {
		t.Fatal(err)
	}
	create("back", nil)
	for _, key := range []string{"there", "back"} {
		if raw, err := l.Get(t.Context(), key, 9); err != nil || string(raw) != "x" {
			t.Errorf("%s: %q, %v", key, raw, err)
		}
	}
}

// Who gives up does not make the store seem away to others. Who waits behind a knock that
// fails has the answer; who comes after it does not: the store may be back.
func TestLateStoreInterrupted(t *testing.T) {
	l, dir, id := lateStore(t)
	makeStore(t, dir, id)
	ctx, cancel := context.WithCancel(t.Context())
	l.turn <- struct{}{} // another knocks, and waits
	cancel()
	if _, err := l.Get(ctx, "x", 9); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	<-l.turn
	if _, err := l.Get(t.Context(), "x", 9); !errors.Is(err, backend.ErrNotExist) {
		t.Errorf("after that: %v", err)
	}
	l.now.Store(nil)
	l.last, l.err, l.next = time.Now().Add(time.Hour), backend.ErrDenied, time.Now().Add(time.Hour)
	if _, err := l.Get(t.Context(), "x", 9); !errors.Is(err, backend.ErrDenied) {
		t.Errorf("before a failure: %v", err)
	}
	l.last, l.next = time.Now(), time.Now().Add(10*time.Millisecond)
	if _, err := l.Get(t.Context(), "x", 9); !errors.Is(err, backend.ErrNotExist) {
		t.Errorf("after a failure: %v", err)
	}
}
