package check

import (
	"context"
	iofs "io/fs"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"kist/backend"
	"kist/backend/mem"
	"kist/crypto/keys"
	"kist/crypto/seal"
	"kist/fs"
	"kist/fs/journal/disktest"
	"kist/fs/log"
	"kist/fs/tree"
)

var ctx = context.Background()

// files is a trust file in memory.
type files struct {
	mu sync.Mutex
	m  map[string][]byte
}

func (f *files) ReadFile(name string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if b, ok := f.m[name]; ok {
		return b, nil
	}
	return nil, iofs.ErrNotExist
}

func (f *files) WriteFileDurable(name string, data []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.m[name] = append([]byte(nil), data...)
	return nil
}

// world is a store with one person and their vault.
type world struct {
	t      testing.TB
	store  *mem.Store
	master *keys.Master
	state  *keys.IdentityState
	file   *keys.Keyfile
	vault  seal.VaultID
	when   time.Time
}

func (w *world) now() time.Time { return w.when }

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// cheap stands in for the stretching of the passphrase.
func cheap(_ keys.Params, _, _, pass []byte) (x seal.Key, err error) {
	copy(x[:], pass)
	return x, nil
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, store: mem.New(t), master: keys.NewMaster(), when: time.Unix(1_800_000_000, 0)}
	s := keys.NewSession(keys.StoreID{1}, "ann", w.master)
	w.must(w.store.Create(ctx, headerKey, keys.StoreHeader{Format: keys.StoreFormat, StoreID: s.Store}.Encode()))
	w.must(s.SetDevice("maker", [32]byte{}))
	_, user := s.UserPublic()
	w.certify(keys.Change{UserKey: user, Devices: []keys.NewDevice{{Public: s.DevicePublic(), Name: "maker"}}})
	s.Head = w.state.Head
	trust, err := log.NewTrust(&files{m: map[string][]byte{}}, s.TrustKey(), s.Store)
	w.must(err)
	root, err := tree.AppendState(nil, tree.State{Root: &tree.Inode{Ino: rootIno, Type: tree.TypeDir, Mode: 0o755, Nlink: 1}})
	w.must(err)
	l, err := log.Create(ctx, log.Config{Store: w.store, Session: s, Trust: trust, Now: w.now}, root)
	w.must(err)
	w.vault = l.Vault()
	s.TopVault = w.vault
	w.file, err = keys.NewKeyfile(cheap, keys.LocalParams(), []byte("x"), s, w.master)
	w.must(err)
	return w
}

func (w *world) certify(c keys.Change) {
	raw, state, err := w.master.Certify(w.state, c)
	w.must(err)
	w.must(log.PublishIdentity(ctx, w.store, state.ID, state.Head.Seq, raw))
	w.state = state
}

// machine is a device of the world's person.
type machine struct {
	*world
	session *keys.Session
	trust   *log.Trust
	files   *files
	v       *fs.Vault
}

// device certifies a new device, without opening the vault.
func (w *world) device(name string) *machine {
	k, err := w.file.WithDevice(cheap, []byte("x"), name, [32]byte{})
	w.must(err)
	s, err := k.OpenMain(cheap, []byte("x"))
	w.must(err)
	w.certify(keys.Change{Devices: []keys.NewDevice{{Public: s.DevicePublic(), Name: name}}})
	s.Head = w.state.Head
	m := &machine{world: w, session: s, files: &files{m: map[string][]byte{}}}
	m.trust, err = log.NewTrust(m.files, s.TrustKey(), s.Store)
	w.must(err)
	return m
}

func (w *world) machine(name string) *machine {
	m := w.device(name)
	var err error
	m.v, err = fs.Open(ctx, fs.Options{Store: w.store.View(name), Vault: w.vault, Session: m.session, Trust: m.trust,
		Disk: new(disktest.Disk), Now: w.now, Manual: true})
	w.must(err)
	return m
}

func footerKey(ctx context.Context, l *log.Log, epoch uint32) (seal.Key, error) {
	return l.EpochKey(ctx, epoch, seal.LabelFooterKey)
}

// config checks a store with this machine's keys and memory.
func (m *machine) config(store backend.Store, readData bool) Config {
	return Config{Store: store, Vault: m.vault, Session: m.session, Trust: m.trust, FooterKey: footerKey, Now: m.now, ReadData: readData}
}

func (m *machine) mkdir(parent uint64, name string) uint64 {
	m.t.Helper()
	a, err := m.v.Create(ctx, fs.Cred{}, parent, name, syscall.S_IFDIR|0o755, 0)
	m.must(err)
	return a.Ino
}

func (m *machine) write(parent uint64, name, content string) uint64 {
	m.t.Helper()
	a, err := m.v.Create(ctx, fs.Cred{}, parent, name, syscall.S_IFREG|0o644, 0)
	m.must(err)
	m.put(a.Ino, content, 0)
	return a.Ino
}

func (m *machine) put(ino uint64, content string, off uint64) {
	m.t.Helper()
	if content == "" {
		return
	}
	_, err := m.v.Write(ctx, ino, []byte(content), off, fs.WriteOpts{})
	m.must(err)
}

func (m *machine) sync() {
	m.t.Helper()
	m.must(m.v.Sync(ctx))
}

// noise is content that does not compress.
func noise(seed uint64, n int) string {
	b := make([]byte, n)
	x := seed*2862933555777941757 + 3037000493
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	return string(b)
}

// clean runs a check of which nothing may come.
func (m *machine) clean(store backend.Store, readData bool) *Report {
	m.t.Helper()
	r, err := Run(ctx, m.config(store, readData))
	m.must(err)
	if r.Damaged() {
		m.t.Fatalf("damage where there is none: %+v", r.Problems)
	}
	return r
}

// keys are the objects of the store below a prefix.
func (w *world) keys(part string) (out []string) {
	for _, k := range w.store.Keys() {
		if strings.Contains(k, part) {
			out = append(out, k)
		}
	}
	return out
}

// says reports whether there is a finding of a kind whose place and words contain
// these.
func says(list []Problem, kind Kind, where, what string) bool {
	for _, p := range list {
		if p.Kind == kind && strings.Contains(p.Where, where) && strings.Contains(p.What, what) {
			return true
		}
	}
	return false
}
