package log

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"testing"
	"time"

	"kist/backend/mem"
	"kist/crypto/keys"
	"kist/crypto/seal"
)

// files is a disk in memory.
type files struct {
	mu   sync.Mutex
	data map[string][]byte
	fail error
}

func (f *files) ReadFile(name string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, ok := f.data[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return slices.Clone(b), nil
}

func (f *files) WriteFileDurable(name string, data []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return f.fail
	}
	if f.data == nil {
		f.data = map[string][]byte{}
	}
	f.data[name] = slices.Clone(data)
	return nil
}

// memCache is a cache that forgets nothing.
type memCache struct {
	mu   sync.Mutex
	data map[string][]byte
}

func (c *memCache) Get(key string) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.data[key])
}

func (c *memCache) Put(key string, val []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.data[key] = slices.Clone(val)
}

// person under test: one identity on one device, with its own view and memory.
type actor struct {
	*Log
	t       testing.TB
	name    string
	master  *keys.Master
	session *keys.Session
	state   *keys.IdentityState
	store   *mem.Store
	files   *files
	cache   *memCache
	ops     uint64
}

type world struct {
	t     testing.TB
	store *mem.Store
	id    keys.StoreID
	vault seal.VaultID
}

var ctx = context.Background()

func newWorld(t testing.TB) *world {
	w := &world{t: t, store: mem.New(t)}
	w.id[0] = 7
	return w
}

// actor makes a person with one device and publishes its first statement.
func (w *world) actor(name string) *actor {
	m := keys.NewMaster()
	s := keys.NewSession(w.id, name, m)
	a := &actor{t: w.t, name: name, master: m, session: s}
	a.session.SetDevice(name+"'s", [32]byte{1})
	_, public := s.UserPublic()
	a.certify(w.store, nil, keys.Change{
		UserKey: public, Devices: []keys.NewDevice{{Public: s.DevicePublic(), Name: name}},
	})
	a.move(w)
	return a
}

func (a *actor) certify(store *mem.Store, prev *keys.IdentityState, c keys.Change) {
	a.t.Helper()
	raw, st, err := a.master.Certify(prev, c)
	must(a.t, err)
	must(a.t, PublishIdentity(ctx, store, st.ID, st.Head.Seq, raw))
	a.state, a.session.Head = st, st.Head
}

// move gives the actor a new view, memory and cache.
func (a *actor) move(w *world) {
	a.store = w.store.View(a.name)
	a.files, a.cache = &files{}, &memCache{data: map[string][]byte{}}
	_, err := NewTrust(a.files, a.session.TrustKey(), w.id)
	must(w.t, err)
}

func (a *actor) config(w *world) Config {
	t, err := OpenTrust(a.files, a.session.TrustKey(), w.id)
	must(w.t, err)
	return Config{
		Store: a.store, Vault: w.vault, Session: a.session, Trust: t, Cache: a.cache,
		Now: time.Now, CheckRoot: checkRoot,
	}
}

func checkRoot(b []byte) error {
	if string(b) == "broken" {
		return fmt.Errorf("broken")
	}
	return nil
}

func (a *actor) create(w *world) {
	a.t.Helper()
	l, err := Create(ctx, a.config(w), []byte("root"))
	must(a.t, err)
	a.Log, w.vault = l, l.Vault()
}

func (a *actor) open(w *world) {
	a.t.Helper()
	must(a.t, a.tryOpen(w))
}

func (a *actor) tryOpen(w *world) error {
	l, err := Open(ctx, a.config(w))
	if err == nil {
		a.Log = l
	}
	return err
}

func (a *actor) follow() {
	a.t.Helper()
	for {
		c, err := a.Next(ctx)
		must(a.t, err)
		if c == nil {
			return
		}
	}
}

// number takes a device number for the actor.
func (a *actor) number() {
	a.t.Helper()
	a.follow()
	n := uint16(1)
	for _, d := range a.Head().Devices {
		n = max(n, d.Number+1)
	}
	a.put(Body{Kind: Numbering, Row: &DeviceRow{Number: n}})
}

func (a *actor) put(b Body) {
	a.t.Helper()
	p, err := a.Prepare(b)
	must(a.t, err)
	must(a.t, a.Append(ctx, p))
}

func (a *actor) ordinary(root string) Body {
	a.ops++
	row := *a.Head().Row(a.session.Device)
	row.Op++
	row.Run = sha256.Sum256(fmt.Append(nil, a.name, a.ops))
	return Body{Kind: Ordinary, Root: []byte(root), Row: &row}
}

// write appends an ordinary commit, however often it loses.
func (a *actor) write(root string) {
	a.t.Helper()
	a.follow()
	a.put(a.ordinary(root))
}

// raw is what stands in a slot.
func (w *world) raw(seq uint64) []byte { return w.store.Peek(w.key(seq)) }

func (w *world) key(seq uint64) string { return (&Log{vault: w.vault}).key(seq) }

func (w *world) plant(seq uint64, raw []byte) { w.store.Plant(w.key(seq), raw) }

// team makes a vault of ann (owner), with bob in a role, both numbered if they
// may write.
func team(t testing.TB, role Role) (w *world, ann, bob *actor) {
	w = newWorld(t)
	ann, bob = w.actor("ann"), w.actor("bob")
	ann.create(w)
	ann.number()
	ann.put(Body{Kind: Membership, Members: []NewMember{{ann.state, Owner}, {bob.state, role}}})
	bob.Log = bob.invited(w, ann.Head().Head)
	if role > Reader {
		bob.number()
		ann.follow()
	}
	return w, ann, bob
}

func (a *actor) invited(w *world, known Head) *Log {
	cfg := a.config(w)
	cfg.Known = known
	l, err := Open(ctx, cfg)
	must(a.t, err)
	return l
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
