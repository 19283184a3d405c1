package tree

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"testing"

	"kist/crypto/seal"
)

var testVault = seal.VaultID{1, 2, 3}

// memory is a store and a sink: packs of at most limit bytes.
type memory struct {
	mu    sync.Mutex
	limit int
	packs map[[32]byte][]byte
	open  []byte
	reads int
}

func newMemory(limit int) *memory { return &memory{limit: limit, packs: map[[32]byte][]byte{}} }

func (m *memory) Room(n int) (*[32]byte, error) {
	if len(m.open) == 0 || len(m.open)+n <= m.limit {
		return nil, nil
	}
	name := m.close()
	return &name, nil
}

func (m *memory) Place(_ uint8, b seal.Blob) (uint32, error) {
	off := uint32(len(m.open))
	m.open = append(m.open, b.Sealed...)
	return off, nil
}

func (m *memory) close() (name [32]byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.open) == 0 {
		return name
	}
	name = sha256.Sum256(m.open)
	m.packs[name], m.open = m.open, nil
	return name
}

func (m *memory) get(p Pointer) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reads++
	b, ok := m.packs[p.Pack]
	if !ok {
		return nil, errors.New("no such pack")
	}
	return seal.OpenBlob(testVault, p.Kind, p.Codec, p.PlainLen, p.Fingerprint, &p.Key, b[p.Offset:p.Offset+p.SealedLen])
}

func (m *memory) load(miss *Miss) error {
	plain, err := m.get(miss.Ptr)
	if err == nil {
		err = miss.Fill(plain)
	}
	return err
}

type tester interface {
	Helper()
	Fatalf(string, ...any)
	Fatal(...any)
}

// commit seals st into m, installs the places and returns the encoded state.
func (m *memory) commit(t tester, st State) []byte {
	t.Helper()
	s := NewSealing(testVault, m)
	if err := placeAll(s, st); err != nil {
		t.Fatal(err)
	}
	if err := s.SealState(st); err != nil {
		t.Fatal(err)
	}
	s.Finish(m.close())
	b, err := s.State()
	if err != nil {
		t.Fatal(err)
	}
	s.Install()
	again, err := AppendState(nil, st)
	if err != nil || !bytes.Equal(again, b) {
		t.Fatalf("the installed state is another than the sealed one: %v", err)
	}
	return b
}

// placeAll places the pending chunks in new pages, whose local is their content.
func placeAll(s *Sealing, st State) error {
	inode := func(in *Inode) error {
		if _, stored := in.Extents.Pointer(); stored {
			return nil
		}
		return in.Extents.Scan("", func(_ string, x Extent) bool {
			b, _ := x.Resolve()
			_, stored := b.Pointer()
			if data, ok := b.Local().([]byte); ok && !stored && !s.Placed(b) {
				sealed, err := seal.SealBlob(testVault, KindChunk, data)
				if err != nil || s.PlaceChunk(sealed, b) != nil {
					panic("a chunk was not placed")
				}
			}
			return true
		})
	}
	err := eachInode(st.Root.Dir.root, inode)
	if err == nil {
		err = eachInode(st.Table.root, inode)
	}
	return err
}

// eachInode visits what is in memory and not stored.
func eachInode[V any, C Codec[V]](r *ref[V, C], fn func(*Inode) error) error {
	if r == nil || r.ptr.Load() != nil {
		return nil
	}
	var c C
	p := r.page.Load()
	for _, kid := range p.kids {
		if err := eachInode(kid, fn); err != nil {
			return err
		}
	}
	for _, v := range p.vals {
		in := c.inode(v)
		if in == nil {
			continue
		}
		if err := fn(in); err != nil {
			return err
		}
		if err := eachInode(in.Dir.root, fn); err != nil {
			return err
		}
	}
	return nil
}

func file(ino uint64) *Inode {
	return &Inode{Ino: ino, Type: TypeFile, Mode: 0o644, Nlink: 1, VerDev: 1, VerOp: ino}
}

func dir(ino uint64) *Inode {
	return &Inode{Ino: ino, Type: TypeDir, Mode: 0o755, Nlink: 1}
}

func emptyState() State { return State{Root: dir(1)} }

// checkPages verifies what every page in memory must be, below a map's root.
func checkPages[V any, C Codec[V]](m Map[V, C]) error {
	if m.root == nil {
		return nil
	}
	return checkPage(m.root, atRoot)
}

func checkPage[V any, C Codec[V]](r *ref[V, C], at place) error {
	p := r.page.Load()
	if p == nil {
		return nil
	}
	var c C
	if len(p.keys) == 0 || p.size > MaxPage || !at.root && (p.level != at.level || p.keys[0] != at.first) {
		return fmt.Errorf("page at level %d: %d items, %d bytes", p.level, len(p.keys), p.size)
	}
	size := headerSize
	for i, key := range p.keys {
		n := c.keySize(key) + PointerSize
		if p.level == 0 {
			n = c.keySize(key) + c.valueSize(p.vals[i])
		}
		if n != int(p.sizes[i]) {
			return fmt.Errorf("an item of %d bytes counts as %d", n, p.sizes[i])
		}
		size += n
		if i > 0 && p.keys[i-1] >= key || at.bound != "" && key >= at.bound {
			return errors.New("keys out of order")
		}
	}
	if size != p.size {
		return fmt.Errorf("a page of %d bytes counts as %d", size, p.size)
	}
	for i, kid := range p.kids {
		if err := checkPage(kid, p.below(at, i)); err != nil {
			return err
		}
	}
	return nil
}

func mustSet[V any, C Codec[V]](t testing.TB, m *Map[V, C], e *Edit, key string, v V) {
	t.Helper()
	if err := m.Set(e, key, v); err != nil {
		t.Fatal(err)
	}
}
