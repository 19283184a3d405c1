package fs

import (
	"context"
	"fmt"
	iofs "io/fs"
	"maps"
	"sync"
	"syscall"
	"testing"
	"time"

	"kist/backend"
	"kist/backend/mem"
	"kist/cache"
	"kist/crypto/keys"
	"kist/crypto/seal"
	"kist/fs/journal/disktest"
	"kist/fs/log"
	"kist/fs/tree"
)

// clock is the time of a test; it moves only when told to.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// files keeps a trust file in memory.
type files struct {
	m    map[string][]byte
	fail func() error // asked before each write
}

func (f *files) ReadFile(name string) ([]byte, error) {
	if b, ok := f.m[name]; ok {
		return b, nil
	}
	return nil, iofs.ErrNotExist
}

func (f *files) WriteFileDurable(name string, data []byte) error {
	if f.fail != nil {
		if err := f.fail(); err != nil {
			return err
		}
	}
	f.m[name] = append([]byte(nil), data...)
	return nil
}

// drive is one store with one person and their vault.
type drive struct {
	t      testing.TB
	store  *mem.Store
	clock  *clock
	master *keys.Master
	state  *keys.IdentityState
	file   *keys.Keyfile
	vault  seal.VaultID
}

// cheap stands in for the key derivation, which these tests are not about.
func cheap(_ keys.Params, _, _, pass []byte) (x seal.Key, err error) {
	copy(x[:], pass)
	return x, nil
}

// machine is one device of the drive's owner: what survives on it is disk and trust.
type machine struct {
	d       *drive
	name    string
	store   backend.Store
	session *keys.Session
	disk    *disktest.Disk
	files   *files
	cache   *cache.Cache
	frozen  bool // mounted read-only
	v       *Vault
	step    func(string) error
	held    map[string]Ino // open files, see do

	budget int64
}

func newDrive(t testing.TB) *drive { return newDriveOn(t, mem.New(t)) }

func newDriveOn(t testing.TB, store *mem.Store) *drive {
	d := &drive{t: t, store: store, clock: &clock{t: time.Unix(1_800_000_000, 0)}, master: keys.NewMaster()}
	s := keys.NewSession(keys.StoreID{1}, "ann", d.master)
	d.check(s.SetDevice("maker", [32]byte{}))
	_, user := s.UserPublic()
	d.certify(nil, keys.Change{UserKey: user, Devices: []keys.NewDevice{{Public: s.DevicePublic(), Name: "maker"}}})
	s.Head = d.state.Head
	trust, err := log.NewTrust(&files{m: map[string][]byte{}}, s.TrustKey(), s.Store)
	d.check(err)
	l, err := log.Create(context.Background(), log.Config{Store: d.store, Session: s, Trust: trust, Now: d.clock.now, CheckRoot: checkRoot}, emptyRoot(d.clock.now()))
	d.check(err)
	d.vault = l.Vault()
	s.TopVault = d.vault
	d.file, err = keys.NewKeyfile(cheap, keys.LocalParams(), []byte("x"), s, d.master)
	d.check(err)
	return d
}

func emptyRoot(t time.Time) []byte {
	now := timeOf(t)
	b, err := tree.AppendState(nil, tree.State{Root: &tree.Inode{Ino: RootIno, Type: tree.TypeDir, Mode: 0o755, Nlink: 1, Atime: now, Mtime: now, Ctime: now}})
	if err != nil {
		panic(err)
	}
	return b
}

func (d *drive) check(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *drive) certify(prev *keys.IdentityState, c keys.Change) {
	raw, state, err := d.master.Certify(prev, c)
	d.check(err)
	d.check(log.PublishIdentity(context.Background(), d.store, d.master.Identity(), state.Head.Seq, raw))
	d.state = state
}

// machine makes a further device and mounts the vault on it.
func (d *drive) machine(name string) *machine {
	m := d.device(name)
	d.check(m.open())
	return m
}

// device makes a further device.
func (d *drive) device(name string) *machine {
	k, err := d.file.WithDevice(cheap, []byte("x"), name, [32]byte{})
	d.check(err)
	s, err := k.OpenMain(cheap, []byte("x"))
	d.check(err)
	d.certify(d.state, keys.Change{Devices: []keys.NewDevice{{Public: s.DevicePublic(), Name: name}}})
	s.Head = d.state.Head
	m := &machine{d: d, name: name, store: d.store.View(name), session: s, disk: new(disktest.Disk), files: &files{m: map[string][]byte{}}}
	_, err = log.NewTrust(m.files, s.TrustKey(), s.Store)
	d.check(err)
	return m
}

// on is a copy of a machine that is not mounted, with a store of its own.
func (m *machine) on(d *drive, store *mem.Store) *machine {
	return &machine{d: d, name: m.name, store: store.View(m.name), session: m.session, disk: m.disk.Clone(), files: &files{m: maps.Clone(m.files.m)}}
}

func (m *machine) open() error {
	trust, err := log.OpenTrust(m.files, m.session.TrustKey(), m.session.Store)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	m.v, err = Open(ctx, Options{Store: m.store, Vault: m.d.vault, Session: m.session, Trust: trust,
		Disk: m.disk, Now: m.d.clock.now, Manual: true, Cache: m.cache, ReadOnly: m.frozen, Budget: m.budget, Step: func(s string) error {
			if m.step != nil {
				return m.step(s)
			}
			return nil
		}})
	return err
}

// at walks a path from the root.
func (m *machine) at(path ...string) (Ino, error) {
	ino := RootIno
	for _, p := range path {
		a, err := m.v.Lookup(context.Background(), ino, p)
		if err != nil {
			return 0, err
		}
		ino = a.Ino
	}
	return ino, nil
}

func (m *machine) mkdir(parent Ino, name string) Ino {
	m.d.t.Helper()
	a, err := m.v.Create(context.Background(), Cred{}, parent, name, syscall.S_IFDIR|0o755, 0)
	m.d.check(err)
	return a.Ino
}

func (m *machine) write(parent Ino, name, content string) Ino {
	m.d.t.Helper()
	a, err := m.v.Create(context.Background(), Cred{}, parent, name, syscall.S_IFREG|0o644, 0)
	m.d.check(err)
	m.put(a.Ino, content, 0)
	return a.Ino
}

func (m *machine) put(ino Ino, content string, off uint64) {
	m.d.t.Helper()
	n, err := m.v.Write(context.Background(), ino, []byte(content), off, WriteOpts{})
	m.d.check(err)
	if n != len(content) {
		m.d.t.Fatalf("wrote %d of %d", n, len(content))
	}
}

func (m *machine) read(path ...string) string {
	ino, err := m.at(path...)
	if err != nil {
		return "!" + err.Error()
	}
	a, err := m.v.Getattr(context.Background(), ino)
	m.d.check(err)
	p := make([]byte, a.Size)
	n, err := m.v.Read(context.Background(), ino, p, 0)
	if err != nil {
		return "!" + err.Error()
	}
	return string(p[:n])
}

func (m *machine) sync() { m.d.t.Helper(); m.d.check(m.v.Sync(context.Background())) }

func (m *machine) follow() { m.d.t.Helper(); m.d.check(m.v.Follow(context.Background())) }

// list shows a directory as "name:type" lines, sorted by name.
func (m *machine) list(path ...string) []string {
	ino, err := m.at(path...)
	if err != nil {
		return []string{"!" + err.Error()}
	}
	ents, err := m.v.ReadDir(context.Background(), ino, "", 1<<20)
	m.d.check(err)
	out := []string{}
	for _, e := range ents {
		out = append(out, e.Name)
	}
	return out
}

// crash cuts the power and mounts again.
func (m *machine) crash(seed uint64) error {
	m.disk.Crash(seed)
	return m.open()
}

func (m *machine) close() {
	m.d.t.Helper()
	m.d.check(m.v.Close(context.Background(), true))
}

func TestRoundTrip(t *testing.T) {
	d := newDrive(t)
	a := d.machine("a")
	dir := a.mkdir(RootIno, "dir")
	a.write(dir, "small", "hello")
	big := make([]byte, 3<<20+77)
	for i := range big {
		big[i] = byte(i * i >> 7)
	}
	a.write(dir, "big", string(big))
	a.write(RootIno, "medium", string(big[:5000]))
	if got := a.read("dir", "big"); got != string(big) {
		t.Fatal("a reads something else before the commit")
	}
	a.sync()
	if got := a.read("dir", "big"); got != string(big) {
		t.Fatal("a reads something else after the commit")
	}
	b := d.machine("b")
	for _, m := range []*machine{a, b} {
		if got := m.read("dir", "big"); got != string(big) {
			t.Fatalf("%s: big has %d bytes", m.name, len(got))
		}
		if got := m.read("dir", "small"); got != "hello" {
			t.Fatalf("%s: small is %q", m.name, got)
		}
		if got := m.read("medium"); got != string(big[:5000]) {
			t.Fatalf("%s: medium is %d bytes", m.name, len(got))
		}
		if got := fmt.Sprint(m.list()); got != "[dir medium]" {
			t.Fatal(got)
		}
	}
	b.write(dir, "from b", "x")
	b.sync()
	a.follow()
	if got := a.read("dir", "from b"); got != "x" {
		t.Fatal(got)
	}
	a.close()
	b.close()
	d.check(a.open())
	if got := a.read("dir", "from b"); got != "x" {
		t.Fatal(got)
	}
}

func TestCrashKeepsSynced(t *testing.T) {
	d := newDrive(t)
	a := d.machine("a")
	f := a.write(RootIno, "f", "one")
	a.sync()
	a.put(f, "TWO", 0)
	dir := a.mkdir(RootIno, "d")
	a.write(dir, "g", "three")
	d.check(a.v.Fsync(context.Background(), f))
	d.check(a.crash(1))
	if got := a.read("f") + a.read("d", "g"); got != "TWOthree" {
		t.Fatal(got)
	}
	a.sync()
	d.check(a.crash(2))
	if got := a.read("f") + a.read("d", "g"); got != "TWOthree" {
		t.Fatal(got)
	}
}
