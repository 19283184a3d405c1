package check

import (
	"context"
	"fmt"
	iofs "io/fs"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"kist/backend"
	"kist/crypto/seal"
	"kist/fs/log"
)

// readOnly is a store that can only be read.
type readOnly struct{ backend.Store }

var errWrite = fmt.Errorf("%w: a check writes nothing", backend.ErrInvalid)

func (readOnly) Put(context.Context, string, []byte, [32]byte) error { return errWrite }
func (readOnly) Create(context.Context, string, []byte) error        { return errWrite }
func (readOnly) Delete(context.Context, string) error                { return errWrite }

// slotsAhead is how many slots are read at once.
const slotsAhead = 32

// slots shows a log up to a limit only, so that it can be walked commit by
// commit, and reads ahead up to top.
type slots struct {
	backend.Store
	prefix string
	top    uint64

	mu    sync.Mutex // guards what follows; held while reading ahead
	limit uint64
	ahead map[uint64]slot
}

type slot struct {
	raw []byte
	err error
}

func (c *checker) slots(limit, top uint64) *slots {
	return &slots{Store: c.store, prefix: c.folder("log"), limit: limit, top: top, ahead: map[uint64]slot{}}
}

func (s *slots) show(limit uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = limit
}

// number is the sequence that a key names; false for other objects.
func (s *slots) number(key string) (uint64, bool) {
	name, ok := strings.CutPrefix(key, s.prefix)
	if !ok {
		return 0, false
	}
	seq, err := strconv.ParseUint(name, 16, 64)
	return seq, err == nil
}

// Get implements backend.Store.
func (s *slots) Get(ctx context.Context, key string, limit int64) ([]byte, error) {
	seq, ok := s.number(key)
	if !ok {
		return s.Store.Get(ctx, key, limit)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if seq > s.limit {
		return nil, backend.ErrNotExist
	}
	if backend.IsFresh(ctx) {
		return s.Store.Get(ctx, key, limit)
	}
	if _, ok := s.ahead[seq]; !ok {
		s.readAhead(ctx, seq, limit)
	}
	got := s.ahead[seq]
	delete(s.ahead, seq)
	return got.raw, got.err
}

func (s *slots) readAhead(ctx context.Context, from uint64, limit int64) {
	clear(s.ahead)
	n := 1
	if from < s.top {
		n += int(min(s.top-from, slotsAhead-1))
	}
	got := make([]slot, n)
	var g errgroup.Group
	g.SetLimit(slotsAhead / 2)
	for i := range got {
		g.Go(func() error {
			raw, err := s.Store.Get(ctx, fmt.Sprintf("%s%016x", s.prefix, from+uint64(i)), limit)
			got[i] = slot{raw, err}
			return nil
		})
	}
	g.Wait()
	for i := range got {
		s.ahead[from+uint64(i)] = got[i]
	}
}

// inMemory keeps a trust file for the time of a run.
type inMemory map[string][]byte

func (m inMemory) ReadFile(name string) ([]byte, error) {
	if b, ok := m[name]; ok {
		return b, nil
	}
	return nil, iofs.ErrNotExist
}

func (m inMemory) WriteFileDurable(name string, data []byte) error {
	m[name] = data
	return nil
}

// memory makes a trust file that remembers one head, or nothing.
func (c *checker) memory(head *log.Head) (*log.Trust, error) {
	t, err := log.NewTrust(inMemory{}, seal.NewKey(), c.cfg.Session.Store)
	if err == nil && head != nil {
		err = t.Advance(c.cfg.Vault, *head, nil)
	}
	return t, err
}

// recent is a log.Cache of what the store sent in this run: the oldest goes
// first. It serves walking down the log, which reads in batches.
type recent struct {
	mu    sync.Mutex
	order []string
	data  map[string][]byte
	bytes int
}

const recentBytes = 16 << 20

// Get implements log.Cache.
func (r *recent) Get(key string) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.data[key]
}

// Put implements log.Cache.
func (r *recent) Put(key string, val []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.data == nil {
		r.data = map[string][]byte{}
	}
	if old, ok := r.data[key]; ok {
		r.bytes -= len(old)
	} else {
		r.order = append(r.order, key)
	}
	r.data[key] = val
	r.bytes += len(val)
	for r.bytes > recentBytes {
		r.bytes -= len(r.data[r.order[0]])
		delete(r.data, r.order[0])
		r.order = r.order[1:]
	}
}
