package log

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"kist/crypto/keys"
	"kist/crypto/seal"
)

// Files keeps the two copies of the trust file. ReadFile's error for a missing
// one is fs.ErrNotExist. WriteFileDurable replaces a file as a whole and returns
// when file and folder are synced.
type Files interface {
	ReadFile(name string) ([]byte, error)
	WriteFileDurable(name string, data []byte) error
}

// TrustNames are the two copies.
var TrustNames = [2]string{"trust.0", "trust.1"}

// Trust is what this device has seen. Each change is durable in one of the two
// copies, in turn, before the call returns; the copy with the highest generation
// that verifies counts. After a failed write the memory stays as it was.
type Trust struct {
	files Files
	key   seal.Key
	store keys.StoreID

	mu    sync.Mutex // guards what follows, and is held while a copy is written
	now   trustState
	stale int // the copy to be written next: not the one that counts

	generation atomic.Uint64 // of now
	alone      bool          // opened from one copy, the other being lost
}

type trustState struct {
	generation uint64
	vaults     map[seal.VaultID]Head
	people     map[keys.IdentityID]Head
	slots      map[seal.VaultID]uint8
}

const (
	trustVersion = 1
	maxTrusted   = 1 << 16
)

// NewTrust starts the memory of a fresh device. It refuses where one exists.
func NewTrust(files Files, key seal.Key, store keys.StoreID) (*Trust, error) {
	for _, name := range TrustNames {
		if _, err := files.ReadFile(name); err == nil {
			return nil, fmt.Errorf("there is a trust file already; it was left as it is: %w", fs.ErrExist)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("looking for the trust file: %w", err)
		}
	}
	t := &Trust{files: files, key: key, store: store, now: trustState{
		vaults: map[seal.VaultID]Head{}, people: map[keys.IdentityID]Head{}, slots: map[seal.VaultID]uint8{},
	}}
	for range TrustNames { // both exist from the first moment on
		if err := t.change(func(*trustState) error { return nil }); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// OpenTrust reads the newer copy that verifies; ErrNoTrust if there is none.
func OpenTrust(files Files, key seal.Key, store keys.StoreID) (*Trust, error) {
	t := &Trust{files: files, key: key, store: store}
	found := 0
	for i, name := range TrustNames {
		raw, err := files.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading the trust file: %w", err)
		}
		state, ok := t.open(raw)
		if ok && (found == 0 || state.generation > t.now.generation) {
			t.now, t.stale = state, 1-i
		}
		if ok {
			found++
		}
	}
	if found == 0 {
		return nil, fmt.Errorf("%w: neither copy of the trust file verifies; nothing was changed. «kist trust reset» accepts what the store shows now", ErrNoTrust)
	}
	t.generation.Store(t.now.generation)
	t.alone = found < len(TrustNames)
	return t, nil
}

// Generation counts the changes: the newer of two states has the higher one.
func (t *Trust) Generation() uint64 { return t.generation.Load() }

// MayBeNewest says whether this can be the newest state there was, given that a
// generation has been written: a copy that is alone may be the older one of two.
func (t *Trust) MayBeNewest(generation uint64) bool {
	now := t.Generation()
	return now >= generation || t.alone && now+1 >= generation
}

// Vault returns the highest commit seen of a vault.
func (t *Trust) Vault(v seal.VaultID) (Head, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h, ok := t.now.vaults[v]
	return h, ok
}

// Identity returns the highest point seen of an identity's chain.
func (t *Trust) Identity(id keys.IdentityID) (Head, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h, ok := t.now.people[id]
	return h, ok
}

// Advance remembers a head and the identity points that come with it. It refuses
// to go back or aside.
func (t *Trust) Advance(v seal.VaultID, to Head, points []IdentityHead) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	news := t.now.vaults[v] != to
	if had, ok := t.now.vaults[v]; ok {
		if err := forward(had, to); err != nil {
			return err
		}
	} else {
		news = true
	}
	raised := map[keys.IdentityID]Head{}
	for _, p := range points {
		had, ok := t.now.people[p.Identity]
		if ok && had.Seq == p.Seq && had != p.Head {
			return fmt.Errorf("%w: of an identity, this device saw statement %s, now there is %s", ErrFork, had, p.Head)
		}
		if !ok || p.Seq > had.Seq {
			raised[p.Identity] = p.Head
		}
	}
	if !news && len(raised) == 0 {
		return nil
	}
	return t.write(func(s *trustState) error {
		s.vaults[v] = to
		maps.Copy(s.people, raised)
		return nil
	})
}

func forward(had, to Head) error {
	switch {
	case to.Seq < had.Seq:
		return fmt.Errorf("%w: this device saw commit %s, now the newest is %s", ErrRollback, had, to)
	case to.Seq == had.Seq && to != had:
		return fmt.Errorf("%w: this device saw commit %s, now there is %s", ErrFork, had, to)
	}
	return nil
}

// Reset makes a person's decision to accept another head. The caller says in the
// next commit, by Body.Override, that it was made.
func (t *Trust) Reset(v seal.VaultID, to Head) error {
	return t.change(func(s *trustState) error {
		s.vaults[v] = to
		return nil
	})
}

// Slots returns the numbers that stand for vaults in inode numbers.
func (t *Trust) Slots() map[seal.VaultID]uint8 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.now.slots)
}

// SetSlot gives a vault its number, 1 to 255, once and for ever.
func (t *Trust) SetSlot(v seal.VaultID, slot uint8) error {
	return t.change(func(s *trustState) error {
		for other, n := range s.slots {
			if (n == slot) != (other == v) {
				return fmt.Errorf("%w: vault or slot has another partner already", ErrBody)
			}
		}
		if slot == 0 {
			return fmt.Errorf("%w: slot 0 is the top's", ErrBody)
		}
		s.slots[v] = slot
		return nil
	})
}

func (t *Trust) change(edit func(*trustState) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.write(edit)
}

func (t *Trust) write(edit func(*trustState) error) error {
	next := trustState{
		generation: t.now.generation + 1,
		vaults:     maps.Clone(t.now.vaults),
		people:     maps.Clone(t.now.people),
		slots:      maps.Clone(t.now.slots),
	}
	if err := edit(&next); err != nil {
		return err
	}
	sealed := seal.SealK(t.key, seal.LabelTrust, t.store[:], next.encode())
	if err := t.files.WriteFileDurable(TrustNames[t.stale], sealed); err != nil {
		return fmt.Errorf("writing the trust file: %w", err)
	}
	t.now, t.stale = next, 1-t.stale
	t.generation.Store(next.generation)
	return nil
}

func (t *Trust) open(sealed []byte) (trustState, bool) {
	pt, err := seal.OpenK(t.key, seal.LabelTrust, t.store[:], sealed)
	if err != nil {
		return trustState{}, false
	}
	return parseTrust(pt)
}

func (s *trustState) encode() []byte {
	var w writer
	w.u8(trustVersion)
	w.u64(s.generation)
	writeList(&w, sorted(s.vaults), func(v seal.VaultID) { w.named(v, s.vaults[v]) })
	writeList(&w, sorted(s.people), func(id keys.IdentityID) { w.named(id, s.people[id]) })
	writeList(&w, sorted(s.slots), func(v seal.VaultID) { w.bytes(v[:]); w.u8(s.slots[v]) })
	return w
}

func parseTrust(raw []byte) (trustState, bool) {
	r := &reader{rest: raw}
	r.require(r.u8() == trustVersion)
	s := trustState{
		generation: r.u64(),
		vaults:     readMap[seal.VaultID](r, maxTrusted, headLen, r.head),
		people:     readMap[keys.IdentityID](r, maxTrusted, headLen, r.head),
		slots:      readMap[seal.VaultID](r, 255, 1, r.u8),
	}
	used := map[uint8]bool{0: true}
	for _, n := range s.slots {
		r.require(!used[n])
		used[n] = true
	}
	return s, r.end() && slices.Equal(s.encode(), raw)
}

func readMap[K ~[32]byte, V any](r *reader, limit, size int, read func() V) map[K]V {
	out := map[K]V{}
	for range r.list(limit, 32+size) {
		id := K(r.b32())
		out[id] = read()
	}
	return out
}

func sorted[K ~[32]byte, V any](m map[K]V) []K {
	return slices.SortedFunc(maps.Keys(m), func(a, z K) int {
		x, y := [32]byte(a), [32]byte(z)
		return slices.Compare(x[:], y[:])
	})
}
