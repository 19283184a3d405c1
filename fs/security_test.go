package fs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kist/backend/mem"
	"kist/cache"
	"kist/crypto/seal"
	"kist/fs/log"
)

// These tests change what a device keeps, or what the store keeps for it, one byte at a
// time and as a whole. See docs/SECURITY-TESTS.md.

// B1, local: each byte of the journal flipped once. What is mounted afterwards is a
// state that once was, nothing newer than the damage is guessed, and nothing that was
// not understood is deleted.
func TestFlippedJournal(t *testing.T) {
	d := newDrive(t)
	a := d.machine("a")
	f := a.write(RootIno, "committed", "old content")
	a.sync()
	states := []view{survey(a.v, nil)}
	for _, do := range []func() error{
		func() error { _, err := a.v.Write(t.Context(), f, []byte("new content"), 0, WriteOpts{}); return err },
		func() error { _, err := a.v.Create(t.Context(), Cred{}, RootIno, "dir", 0o40755, 0); return err },
		func() error { return a.v.Setxattr(t.Context(), f, "user.x", []byte("value"), 0) },
		func() error { return a.v.Rename(t.Context(), RootIno, "committed", RootIno, "renamed", 0) },
		func() error { _, err := a.v.Symlink(t.Context(), Cred{}, RootIno, "link", "target"); return err },
		func() error { return a.v.Unlink(t.Context(), RootIno, "link") },
	} {
		d.check(do())
		d.check(a.v.Fsync(t.Context(), RootIno))
		states = append(states, survey(a.v, nil))
	}
	total, refused, shorter := 0, 0, 0
	for _, name := range a.disk.Names() {
		for i := range a.disk.Bytes(name) {
			b := a.reopened(d.store.View("flipped"))
			bad := b.disk.Bytes(name)
			bad[i] ^= 1 << (i % 8)
			b.disk.SetBytes(name, bad)
			before := diskBytes(b)
			total++
			if err := b.open(); err != nil {
				refused++
				continue
			}
			got := survey(b.v, nil)
			at := slices.IndexFunc(states, func(s view) bool { return fmt.Sprint(s) == fmt.Sprint(got) })
			if at < 0 {
				t.Fatalf("%s byte %d: a state that never was: %q", name, i, got)
			}
			if at < len(states)-1 {
				shorter++
			}
			if diskBytes(b) < before {
				t.Fatalf("%s byte %d: something was deleted", name, i)
			}
		}
	}
	t.Logf("%d bytes: %d refused, %d states before the last", total, refused, shorter)
	if total < 2000 || refused == 0 || shorter == 0 {
		t.Error("the sweep did not reach what it is about")
	}
}

func diskBytes(m *machine) (n int) {
	for _, name := range m.disk.Names() {
		n += len(m.disk.Bytes(name))
	}
	return n
}

// B1, local: each byte of the two copies of the trust file, alone and in both at once.
func TestFlippedTrust(t *testing.T) {
	d := newDrive(t)
	a := d.machine("a")
	furnishSmall(a)
	a.sync()
	truth := survey(a.v, nil)
	for i, name := range log.TrustNames {
		for at := range a.files.m[name] {
			b := a.reopened(d.store.View("flipped"))
			b.files.m[name] = bytes.Clone(b.files.m[name])
			b.files.m[name][at] ^= 1 << (at % 8)
			if err := b.open(); err != nil {
				t.Fatalf("%s byte %d: one good copy is enough: %v", name, at, err)
			}
			if truth.hold(t, survey(b.v, truth), name) != 0 {
				t.Fatal("not readable")
			}
			other := log.TrustNames[1-i]
			both := a.reopened(d.store.View("flipped"))
			for _, n := range []string{name, other} {
				both.files.m[n] = bytes.Clone(both.files.m[n])
				both.files.m[n][at%len(both.files.m[n])] ^= 1
			}
			if err := both.open(); !errors.Is(err, log.ErrNoTrust) {
				t.Fatalf("byte %d of both copies: %v", at, err)
			}
			if n := len(both.store.(*mem.Store).Log()); n != 0 { // A1: whoever cannot open it asks nothing
				t.Fatalf("byte %d of both copies: %d requests", at, n)
			}
		}
	}
}

// B1, store: the bytes of all objects flipped, one at a time, and everything read through
// a cold vault of the device that wrote it. Every line is the truth or an error. Each byte
// of a commit and of an identity's statement is the business of fs/log and crypto/keys;
// here every seventh must do.
func TestFlippedStore(t *testing.T) {
	d := newDrive(t)
	a := d.machine("a")
	furnishSmall(a)
	a.sync()
	truth := survey(a.v, nil)
	store := d.store.View("flipped")
	var bytesOf, noticed = map[string]int{}, map[string]int{}
	for _, key := range d.store.Keys() {
		if key == "kist.json" {
			continue // read by fs/drive
		}
		kind := strings.Split(key, "/")[max(0, strings.Count(key, "/")-1)]
		if strings.HasPrefix(key, "ids/") {
			kind = "ids"
		}
		step := 7
		if kind == "packs" {
			step = 1
		}
		for i := 0; i < len(d.store.Peek(key)); i += step {
			store.SetHook(forKey(key, mem.Flip(8*i+i%8)))
			bytesOf[kind]++
			b := a.reopened(store)
			err := b.open()
			if err == nil && truth.hold(t, survey(b.v, truth), fmt.Sprintf("%s byte %d", kind, i)) == 0 {
				continue
			}
			noticed[kind]++
		}
	}
	t.Logf("%v bytes, of which noticed by who knows the head: %v", bytesOf, noticed)
	if len(bytesOf) != 3 || noticed["packs"] == 0 || noticed["log"] == 0 || noticed["ids"] == 0 {
		t.Error("the sweep did not reach what it is about")
	}
	// Of a pack, every byte of every blob that is in use counts.
	for _, r := range a.v.log.Head().Nodes {
		if noticed["packs"] < int(r.Len) {
			t.Errorf("%d bytes noticed, the pages alone have %d", noticed["packs"], r.Len)
		}
	}
}

// furnishSmall is little, but of every kind that a pack holds.
func furnishSmall(m *machine) {
	dir := m.mkdir(RootIno, "d")
	f := m.write(dir, "chunk", strings.Repeat("chunk ", 100))
	_, err := m.v.Link(context.Background(), f, RootIno, "linked")
	m.d.check(err)
	m.write(RootIno, "inline", "few")
}

// cached is a machine with a cache in a folder.
func (m *machine) cached(dir string) *Vault {
	m.d.t.Helper()
	c, err := cache.Open(dir, m.session.CacheKey(), cache.Options{})
	m.d.check(err)
	trust, err := log.OpenTrust(m.files, m.session.TrustKey(), m.session.Store)
	m.d.check(err)
	v, err := Open(context.Background(), Options{Store: m.store, Vault: m.d.vault, Session: m.session, Trust: trust,
		Disk: m.disk, Now: m.d.clock.now, Manual: true, Cache: c})
	m.d.check(err)
	return v
}

// fill makes a cache that holds the whole drive, and closes it.
func (m *machine) fill(truth view) (dir string) {
	dir = filepath.Join(m.d.t.TempDir(), "cache")
	for range 2 {
		v := m.reopened(m.store).cached(dir)
		if truth.hold(m.d.t.(*testing.T), survey(v, truth), "filling the cache") != 0 {
			m.d.t.Fatal("not readable")
		}
		m.d.check(v.opt.Cache.Close())
	}
	return dir
}

func localFiles(t *testing.T, dir string) (paths []string) {
	err := filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			paths = append(paths, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func copyFolder(t *testing.T, from string) string {
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

// B1, E7: whatever is done to the cache, everything reads right, from the store if need
// be. The byte sweep over chunk files and Badger's files is the cache's own.
func TestHostileCache(t *testing.T) {
	d := newDrive(t)
	a := d.machine("a")
	furnish(a)
	a.write(RootIno, "big", randomText(100<<10))
	a.write(RootIno, "big too", randomText(100<<10))
	a.sync()
	early := a.fill(survey(a.v, nil)) // and then everything changes
	ino, err := a.at("big")
	d.check(err)
	a.put(ino, randomText(100<<10), 0)
	a.write(RootIno, "new", randomText(700))
	d.check(a.v.Unlink(t.Context(), RootIno, "linked"))
	a.sync()
	truth := survey(a.v, nil)
	now := a.fill(truth)
	if n := a.packReads(t, copyFolder(t, now), truth); n != 0 {
		t.Fatalf("a sound cache sends %d requests for content", n)
	}
	a.packReads(t, early, truth)
	evil, chunk := a.evilCache(t)
	for _, path := range localFiles(t, now) {
		rel, _ := filepath.Rel(now, path)
		clean, err := os.ReadFile(path)
		if err != nil || len(clean) == 0 {
			continue
		}
		planted, err := os.ReadFile(filepath.Join(evil, rel))
		if err != nil {
			planted = chunk // under the name that the victim uses
		}
		for name, bad := range map[string][]byte{
			"first": flipAt(clean, 0), "middle": flipAt(clean, len(clean)/2), "last": flipAt(clean, len(clean)-1),
			"cut": clean[:len(clean)/2], "planted": planted,
		} {
			dir := copyFolder(t, now)
			if err := os.WriteFile(filepath.Join(dir, rel), bad, 0o600); err != nil {
				t.Fatal(err)
			}
			n := a.packReads(t, dir, truth)
			if n == 0 && !bytes.Equal(bad, clean) && rel != filepath.Join("db", "DISCARD") {
				t.Errorf("%s of %s: the store was not asked", name, rel)
			}
		}
	}
	// All of somebody else's, and all of it beside what is the victim's own.
	a.packReads(t, evil, truth)
	dir := copyFolder(t, now)
	if err := errors.Join(os.RemoveAll(filepath.Join(dir, "db")), os.CopyFS(filepath.Join(dir, "db"), os.DirFS(filepath.Join(evil, "db")))); err != nil {
		t.Fatal(err)
	}
	a.packReads(t, dir, truth)
	// Chunk files change places.
	chunks := localFiles(t, filepath.Join(now, "chunks"))
	if len(chunks) < 2 {
		t.Fatal("no chunk files")
	}
	x, y := chunks[0], chunks[1]
	if err := errors.Join(os.Rename(x, x+"~"), os.Rename(y, x), os.Rename(x+"~", y)); err != nil {
		t.Fatal(err)
	}
	if a.packReads(t, now, truth) == 0 {
		t.Error("swapped chunk files were believed")
	}
}

func flipAt(b []byte, i int) []byte {
	b = bytes.Clone(b)
	b[i] ^= 1
	return b
}

// evilCache is what somebody who may read the vault makes under a key of his own: a
// whole cache, and one chunk file, for the right fingerprint with other plaintext.
func (m *machine) evilCache(t *testing.T) (dir string, chunk []byte) {
	dir = filepath.Join(t.TempDir(), "cache")
	c, err := cache.Open(dir, seal.NewKey(), cache.Options{})
	m.d.check(err)
	c.PutChunk(m.pointer("big").Fingerprint, []byte(randomText(100<<10)))
	c.PutChunk(m.pointer("new").Fingerprint, []byte(randomText(700)))
	m.d.check(c.Close())
	chunks := localFiles(t, filepath.Join(dir, "chunks"))
	if len(chunks) != 1 {
		t.Fatal("no chunk file to plant")
	}
	chunk, err = os.ReadFile(chunks[0])
	m.d.check(err)
	return dir, chunk
}

// packReads opens the vault over a cache, reads everything, and says how often the store
// was asked for content.
func (m *machine) packReads(t *testing.T, dir string, truth view) (n int) {
	t.Helper()
	store := m.d.store.View("cached")
	v := m.reopened(store).cached(dir)
	if truth.hold(t, survey(v, truth), "over a hostile cache") != 0 {
		t.Fatal("not readable, although the store is sound")
	}
	m.d.check(v.opt.Cache.Close())
	for _, r := range store.Log() {
		if strings.Contains(r.Key, "/packs/") {
			n++
		}
	}
	return n
}
