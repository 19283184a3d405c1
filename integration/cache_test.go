//go:build linux

package integration

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// below lists the regular files of one part of a state folder.
func (m *Machine) below(part string) []string {
	m.w.t.Helper()
	var paths []string
	roots, err := filepath.Glob(m.home + "/*/" + part)
	m.w.ok(err)
	for _, root := range roots {
		m.w.ok(filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				paths = append(paths, path)
			}
			return err
		}))
	}
	if len(paths) == 0 {
		m.w.t.Fatalf("the state folder has no %s", part)
	}
	return paths
}

// TestCacheIsNotBelieved damages, swaps, restores and removes the cache: the
// drive never shows anything but what is in the store.
func TestCacheIsNotBelieved(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onDir) // what a cache may say has nothing to do with the store
	source := filepath.Join(w.dir, "source")
	w.ok(os.Mkdir(source, 0o755))
	w.ok(makeTree(source))
	a := w.first("a")
	a.mount()
	a.rsync(copyLimit, source+"/", a.at("tree")+"/")
	a.sh("mkdir other; head -c 3000000 /dev/urandom > other/file")
	a.remount()
	read := func() { a.child(stepLimit, "compare", source, a.at("tree"), "dense") }
	read()
	a.sh("cat other/file > /dev/null")
	a.umount()
	old, err := filepath.Glob(a.home + "/*/cache")
	w.ok(err)
	w.copyTree(old[0], a.dir+"/old-cache")
	for what, spoil := range map[string]func(){
		"every 997th octet": func() { a.spoilCache(997, 11) },
		"every 64th octet":  func() { a.spoilCache(64, 3) },
		"cut in the middle": func() { a.eachCacheFile(func(p string, size int64) error { return os.Truncate(p, size/2) }) },
		"all zero": func() {
			a.eachCacheFile(func(p string, size int64) error { return os.WriteFile(p, make([]byte, size), 0o600) })
		},
		"noise": func() {
			a.eachCacheFile(func(p string, size int64) error { return os.WriteFile(p, noise(int(size), 9), 0o600) })
		},
		"another state's": func() { w.ok(os.RemoveAll(old[0])); w.copyTree(a.dir+"/old-cache", old[0]) },
		"files exchanged": a.exchangeCache,
		"gone":            func() { w.ok(os.RemoveAll(old[0])) },
	} {
		spoil()
		a.mount()
		t.Logf("the cache: %s", what)
		read()
		a.sh("sha256sum other/file; rm -rf new; mkdir new; echo " + strings.ReplaceAll(what, "'", "") + " > new/file")
		a.umount()
	}
}

func (m *Machine) eachCacheFile(change func(path string, size int64) error) {
	m.w.t.Helper()
	for _, path := range m.below("cache") {
		info, err := os.Stat(path)
		m.w.ok(err)
		if size := min(info.Size(), 64<<20); size > 0 {
			m.w.ok(change(path, size))
		}
	}
}

func (m *Machine) spoilCache(stride, first int) {
	m.w.t.Helper()
	m.eachCacheFile(func(path string, size int64) error {
		raw, err := os.ReadFile(path)
		for at := first; at < len(raw); at += stride {
			raw[at] ^= 1 << (at % 8)
		}
		if err != nil {
			return err
		}
		return os.WriteFile(path, raw, 0o600)
	})
}

// exchangeCache gives each file of the cache the content of its neighbour.
func (m *Machine) exchangeCache() {
	m.w.t.Helper()
	paths := m.below("cache")
	for i := 0; i+1 < len(paths); i += 2 {
		a, err := os.ReadFile(paths[i])
		m.w.ok(err)
		b, err := os.ReadFile(paths[i+1])
		m.w.ok(err)
		m.w.ok(os.WriteFile(paths[i], b, 0o600))
		m.w.ok(os.WriteFile(paths[i+1], a, 0o600))
	}
}

// TestDamagedJournal turns one bit of a journal that holds acknowledged work:
// what a mount then shows is the work up to some point, whole, and it says that
// something is missing.
func TestDamagedJournal(t *testing.T) {
	t.Parallel()
	for _, tenth := range []int64{9, 5, 1, 0} { // 0: nothing is turned
		t.Run(fmt.Sprint(tenth), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, onDir)
			a := w.first("a")
			a.mount()
			a.sh("mkdir d")
			a.sync()
			back := w.away()
			const count = 30
			acks := a.acker("d", count)
			if r, err := acks.p.wait(2 * stepLimit); err != nil || r.code != 0 {
				t.Fatalf("%v, %v", r, err)
			}
			a.crash()
			back()
			path, raw := a.largest("journal")
			if tenth > 0 {
				w.ok(os.WriteFile(path, flipped(raw, len(raw)*int(tenth)/10), 0o600))
			}
			a.mount()
			kept := a.prefix("d", count)
			problems := fmt.Sprint(a.status()["problems"])
			t.Logf("%d tenths: %d of %d acknowledged things are left; problems: %s", tenth, kept, count, problems)
			if (kept == count) != (tenth == 0) || (problems == "[]") != (tenth == 0) {
				t.Error("what is missing must be missing, and told")
			}
			a.sh("echo on we go > further")
			a.sync()
			b := w.join("b")
			b.mount()
			if again := b.prefix("d", count); again != kept {
				t.Errorf("elsewhere %d are left, here %d", again, kept)
			}
		})
	}
}

// largest is the biggest file of one part of the state folder.
func (m *Machine) largest(part string) (path string, raw []byte) {
	m.w.t.Helper()
	for _, p := range m.below(part) {
		text, err := os.ReadFile(p)
		m.w.ok(err)
		if len(text) > len(raw) {
			path, raw = p, text
		}
	}
	return path, raw
}

// prefix says how many of the numbered things are there, of which none may
// follow one that is missing.
func (m *Machine) prefix(dir string, count int) int {
	m.w.t.Helper()
	var kept int
	_, err := fmt.Sscan(m.child(stepLimit, "prefix", m.at(dir), fmt.Sprint(count)), &kept)
	m.w.ok(err)
	return kept
}
