package pack

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"kist/backend"
	"kist/crypto/seal"
	"kist/fs/tree"
)

// store answers ranges of packs and accuses a reader that asks behind the end.
type store struct {
	t        testing.TB
	mu       sync.Mutex
	objects  map[string][]byte
	requests int
	flip     func(fresh bool, b []byte) error
	gate     chan struct{}
}

func newStore(t testing.TB, f Footer, packs []Pack) *store {
	s := &store{t: t, objects: map[string][]byte{}}
	for _, p := range packs {
		s.objects[ObjectKey(f.Vault, p.Name)] = p.Bytes
	}
	return s
}

func (s *store) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	if s.gate != nil {
		select {
		case <-s.gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	b, ok := s.objects[key]
	if !ok {
		return nil, backend.ErrNotExist
	}
	if off+n > int64(len(b)) {
		return nil, backend.ErrShort
	}
	out := bytes.Clone(b[off : off+n])
	if s.flip != nil {
		if err := s.flip(backend.IsFresh(ctx), out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (s *store) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

func small(n, size int) []int {
	sizes := make([]int, n)
	for i := range sizes {
		sizes[i] = size
	}
	return sizes
}

func check(t *testing.T, r *Reader, p placed) {
	t.Helper()
	got, err := r.Fetch(t.Context(), p.ptr)
	if err != nil || !bytes.Equal(got, p.plain) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
}

func TestNeighboursCostFewRequests(t *testing.T) {
	f := testFooter()
	packs, ps := build(t, f, small(1000, 3000)...) // incompressible enough: about 300 bytes each
	total := 0
	for _, p := range packs {
		total += len(p.Bytes)
	}
	t.Run("a parent, then its children in order", func(t *testing.T) {
		s := newStore(t, f, packs)
		r := NewReader(s, f.Vault, 16<<20, 16<<20)
		check(t, r, ps[len(ps)-1])
		for _, p := range ps {
			check(t, r, p)
		}
		if most := total/smallWindow + 3; s.count() > most {
			t.Errorf("%d requests for %d bytes, want at most %d", s.count(), total, most)
		}
	})
	t.Run("all at once", func(t *testing.T) {
		s := newStore(t, f, packs)
		var ptrs []tree.Pointer
		for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(len(ps)) {
			ptrs = append(ptrs, ps[i].ptr)
		}
		plains, err := NewReader(s, f.Vault, 1<<20, 1<<20).FetchMany(t.Context(), ptrs)
		if err != nil || s.count() != 1 {
			t.Fatal(s.count(), err)
		}
		for i, p := range ptrs {
			if len(plains[i]) != int(p.PlainLen) {
				t.Fatalf("blob %d has %d bytes", i, len(plains[i]))
			}
		}
	})
	t.Run("a prefetched range", func(t *testing.T) {
		s := newStore(t, f, packs)
		r := NewReader(s, f.Vault, 16<<20, 16<<20)
		last := ps[len(ps)-1].ptr
		if err := r.Prefetch(t.Context(), tree.Range{Pack: last.Pack, Len: last.Offset + last.SealedLen}); err != nil {
			t.Fatal(err)
		}
		before := s.count()
		for _, p := range ps {
			check(t, r, p)
		}
		if s.count() != before {
			t.Errorf("%d requests after a prefetch", s.count()-before)
		}
	})
	t.Run("noted neighbours come along", func(t *testing.T) {
		s := newStore(t, f, packs)
		r := NewReader(s, f.Vault, 16<<20, 16<<20)
		for _, p := range ps[:100] {
			r.Note(p.ptr)
		}
		for _, p := range ps[:100] {
			check(t, r, p)
		}
		if s.count() != 1 {
			t.Errorf("%d requests", s.count())
		}
	})
}

func TestManyReadersOneRequest(t *testing.T) {
	f := testFooter()
	packs, ps := build(t, f, small(50, 100)...)
	s := newStore(t, f, packs)
	s.gate = make(chan struct{})
	r := NewReader(s, f.Vault, 1<<20, 1<<20)
	r.Note(ps[len(ps)-1].ptr)
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan error, 1)
	go func() { _, err := r.Fetch(ctx, ps[0].ptr); started <- err }()
	for r.inFlight() == 0 {
		runtime.Gosched() // the first reader is on its way to the gate
	}
	var wg sync.WaitGroup
	for _, p := range ps {
		wg.Go(func() {
			if got, err := r.Fetch(t.Context(), p.ptr); err != nil || !bytes.Equal(got, p.plain) {
				t.Error(len(got), err)
			}
		})
	}
	cancel() // the first gives up; it takes nobody with it
	if err := <-started; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(s.gate)
	wg.Wait()
	if s.count() > 2 {
		t.Errorf("%d requests", s.count())
	}
}

func (r *Reader) inFlight() int {
	r.cache.mu.Lock()
	defer r.cache.mu.Unlock()
	return len(r.cache.packs)
}

func TestDamageIsNeverServed(t *testing.T) {
	f := testFooter()
	packs, ps := build(t, f, small(20, 100)...)
	fetch := map[string]func(r *Reader) error{
		"Fetch": func(r *Reader) error { _, err := r.Fetch(t.Context(), ps[3].ptr); return err },
		"FetchMany": func(r *Reader) error {
			_, err := r.FetchMany(t.Context(), []tree.Pointer{ps[3].ptr, ps[9].ptr})
			return err
		},
	}
	for name, fetch := range fetch {
		s := newStore(t, f, packs)
		damage := func(_ bool, b []byte) error {
			for i := range b {
				b[i] ^= 4
			}
			return nil
		}
		s.flip = damage
		if err := fetch(NewReader(s, f.Vault, 1<<20, 1<<20)); !errors.Is(err, seal.ErrUnseal) {
			t.Error(name, "of damaged bytes:", err)
		}
		s.flip = func(fresh bool, b []byte) error {
			if fresh {
				return nil
			}
			return damage(fresh, b)
		}
		if err := fetch(NewReader(s, f.Vault, 1<<20, 1<<20)); err != nil {
			t.Error(name, "over a fresh connection:", err)
		}
		s.flip = func(fresh bool, b []byte) error {
			if fresh {
				return nil
			}
			return backend.ErrShort
		}
		if err := fetch(NewReader(s, f.Vault, 1<<20, 1<<20)); err != nil {
			t.Error(name, "after a window that is not there:", err)
		}
		s.flip = func(bool, []byte) error { return backend.ErrAway }
		if err := fetch(NewReader(s, f.Vault, 1<<20, 1<<20)); !errors.Is(err, backend.ErrAway) {
			t.Error(name, "of a store that is away:", err)
		}
	}
}

func TestPointersAreNotInterchangeable(t *testing.T) {
	f := testFooter()
	packs, ps := build(t, f, 100, 100)
	r := NewReader(newStore(t, f, packs), f.Vault, 1<<20, 1<<20)
	for name, change := range map[string]func(p *tree.Pointer){
		"kind":        func(p *tree.Pointer) { p.Kind = tree.KindDir },
		"codec":       func(p *tree.Pointer) { p.Codec ^= 1 },
		"plain len":   func(p *tree.Pointer) { p.PlainLen++ },
		"sealed len":  func(p *tree.Pointer) { p.SealedLen-- },
		"offset":      func(p *tree.Pointer) { p.Offset++ },
		"other blob":  func(p *tree.Pointer) { p.Offset = ps[1].ptr.Offset },
		"key":         func(p *tree.Pointer) { p.Key[0] ^= 1 },
		"fingerprint": func(p *tree.Pointer) { p.Fingerprint[0] ^= 1 },
	} {
		p := ps[0].ptr
		change(&p)
		if _, err := r.Fetch(t.Context(), p); !errors.Is(err, seal.ErrUnseal) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBudget(t *testing.T) {
	f := testFooter()
	var sizes []int
	for i := range 400 {
		sizes = append(sizes, 1000+i)
	}
	packs, ps := build(t, f, sizes...)
	const budget = 64 << 10
	r := NewReader(newStore(t, f, packs), f.Vault, budget, 1<<20)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(g)))
			for range 300 {
				p := ps[rng.IntN(len(ps))]
				if got, err := r.Fetch(t.Context(), p.ptr); err != nil || !bytes.Equal(got, p.plain) {
					t.Error(len(got), err)
				}
			}
		})
	}
	wg.Wait()
	r.cache.mu.Lock()
	defer r.cache.mu.Unlock()
	var sum int64
	n := 0
	for _, ws := range r.cache.packs {
		for _, w := range ws {
			sum += int64(len(w.data))
			n++
		}
	}
	if sum != r.cache.bytes || sum > budget || n != r.cache.used.Len() {
		t.Errorf("%d bytes in %d windows, counted %d in %d", sum, n, r.cache.bytes, r.cache.used.Len())
	}
}
