// Package mem is a store in memory, for tests. It accuses and it lies.
//
// It accuses its caller: a broken rule of the store's layout (an immutable
// object changed, a log slot overwritten or deleted, an empty object, a pack
// that is not named by the SHA-256 of its bytes) fails the test at once.
//
// It lies to its caller on demand: a Hook sees every request and says what goes
// wrong with it. Lies are the store's doing, so they accuse nobody; and since a
// Hook can bend anything, all that the real world does to a bucket can be
// played: rollback, forks, swaps, lost answers, races that both sides win.
//
// Clone makes a fork that goes its own way from here; View is another client
// of the same objects, with a hook and a request log of its own.
package mem

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"kist/backend"
)

// TB is the part of testing.TB that an accusation needs.
type TB interface {
	Helper()
	Errorf(format string, args ...any)
}

// Store is one client's view of the objects.
type Store struct {
	tb   TB
	name string
	objs *objects

	mu   sync.Mutex // guards what follows; never held while a Hook runs
	hook Hook
	log  []Request
	past int // requests before log[0], since Forget
	seen map[seenKey]int
}

type seenKey struct {
	verb Verb
	key  string
}

var _ backend.Store = (*Store)(nil)

// objects is what all views of one store share.
type objects struct {
	mu       sync.Mutex          // guards versions; taken after Store.mu, never before
	versions map[string][][]byte // oldest first; nil bytes mean deleted
}

// New returns an empty store that accuses to tb; nil means that it doesn't.
func New(tb TB) *Store {
	return &Store{tb: tb, name: "mem", objs: &objects{versions: map[string][][]byte{}}}
}

// View returns another client of the same objects, without hook or log.
func (s *Store) View(name string) *Store {
	return &Store{tb: s.tb, name: name, objs: s.objs}
}

// Clone returns a fork: the same objects and history now, nothing shared later.
func (s *Store) Clone(name string) *Store {
	s.objs.mu.Lock()
	defer s.objs.mu.Unlock()
	fork := &objects{versions: maps.Clone(s.objs.versions)}
	for key, v := range fork.versions {
		fork.versions[key] = slices.Clip(v) // the next append copies
	}
	return &Store{tb: s.tb, name: name, objs: fork}
}

// String implements backend.Store.
func (s *Store) String() string { return "mem:" + s.name }

// Get implements backend.Store.
func (s *Store) Get(ctx context.Context, key string, limit int64) ([]byte, error) {
	if err := backend.CheckKey(key); err != nil {
		return nil, err
	}
	if limit < 0 || limit > backend.MaxObject {
		return nil, fmt.Errorf("%w: a limit of %d bytes", backend.ErrInvalid, limit)
	}
	data, err := s.read(ctx, Request{Verb: Get, Key: key})
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, backend.ErrTooLarge
	}
	return bytes.Clone(data), nil
}

// GetRange implements backend.Store. Lies bend the object, not the answer.
func (s *Store) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	if err := backend.CheckRange(key, off, n); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil || n == 0 {
		return []byte{}, err
	}
	data, err := s.read(ctx, Request{Verb: GetRange, Key: key, Off: off, Size: n})
	if err != nil {
		return nil, err
	}
	if off+n > int64(len(data)) {
		return nil, backend.ErrShort
	}
	return bytes.Clone(data[off : off+n]), nil
}

func (s *Store) read(ctx context.Context, req Request) ([]byte, error) {
	var data []byte
	err := s.serve(ctx, req, func(a Answer) error {
		key := req.Key
		if a.Key != "" {
			key = a.Key
		}
		data = s.objs.read(key, a.Version)
		if data == nil || a.Drop {
			return backend.ErrNotExist
		}
		data = a.bend(data)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

// Put implements backend.Store.
func (s *Store) Put(ctx context.Context, key string, body []byte, sum [32]byte) error {
	s.accuseBody(key, body)
	if createdOnce(key) {
		s.accuse("an object that is created once was written by Put: %s", key)
	}
	if err := backend.CheckWrite(key, body); err != nil {
		return err
	}
	if sha256.Sum256(body) != sum {
		return fmt.Errorf("%w: the sum is not the body's", backend.ErrInvalid)
	}
	body = bytes.Clone(body)
	return s.serve(ctx, Request{Verb: Put, Key: key, Body: body}, func(a Answer) error {
		if !a.Drop {
			s.objs.put(a.target(key), a.bend(body))
		}
		return nil
	})
}

// Create implements backend.Store.
func (s *Store) Create(ctx context.Context, key string, body []byte) error {
	s.accuseBody(key, body)
	if err := backend.CheckWrite(key, body); err != nil {
		return err
	}
	body = bytes.Clone(body)
	return s.serve(ctx, Request{Verb: Create, Key: key, Body: body}, func(a Answer) error {
		switch {
		case a.Drop:
			return nil
		case a.Accept:
			s.objs.put(a.target(key), a.bend(body))
			return nil
		case !s.objs.create(a.target(key), a.bend(body)):
			return backend.ErrExist
		}
		return nil
	})
}

// Delete implements backend.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := backend.CheckKey(key); err != nil {
		return err
	}
	if createdOnce(key) {
		s.accuse("an object that is created once was deleted: %s", key)
	}
	return s.serve(ctx, Request{Verb: Delete, Key: key}, func(a Answer) error {
		if !a.Drop {
			s.objs.put(a.target(key), nil)
		}
		return nil
	})
}

// List implements backend.Store.
func (s *Store) List(ctx context.Context, prefix string, fn func(string, int64) error) error {
	if err := backend.CheckPrefix(prefix); err != nil {
		return err
	}
	var items []Item
	err := s.serve(ctx, Request{Verb: List, Key: prefix}, func(a Answer) error {
		if items = s.objs.list(prefix); a.List != nil {
			items = a.List(items)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, it := range items {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(it.Key, it.Size); err != nil {
			return err
		}
	}
	return nil
}

func (o *objects) read(key string, version int) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	v := o.versions[key]
	if version == 0 {
		version = len(v)
	}
	if version < 1 || version > len(v) {
		return nil
	}
	return v[version-1]
}

// put adds a version. A nil body deletes.
func (o *objects) put(key string, body []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.versions[key] = append(o.versions[key], body)
}

func (o *objects) create(key string, body []byte) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	v := o.versions[key]
	if len(v) > 0 && v[len(v)-1] != nil {
		return false
	}
	o.versions[key] = append(v, body)
	return true
}

func (o *objects) list(prefix string) []Item {
	o.mu.Lock()
	defer o.mu.Unlock()
	var items []Item
	for _, key := range slices.Sorted(maps.Keys(o.versions)) {
		v := o.versions[key]
		if body := v[len(v)-1]; body != nil && strings.HasPrefix(key, prefix) {
			items = append(items, Item{key, int64(len(body))})
		}
	}
	return items
}

func (s *Store) accuse(format string, args ...any) {
	if s.tb == nil {
		return
	}
	s.tb.Helper()
	s.tb.Errorf("store %s accuses: "+format, append([]any{s.name}, args...)...)
}

func (s *Store) accuseBody(key string, body []byte) {
	if len(body) == 0 {
		s.accuse("an empty object was written: %s", key)
	}
	name, isPack := packName(key)
	if sum := sha256.Sum256(body); isPack && name != hex.EncodeToString(sum[:]) {
		s.accuse("a pack is not named by the SHA-256 of its bytes: %s", key)
	}
}

// createdOnce is the layout's rule: log slots, identity chains, kist.json.
func createdOnce(key string) bool {
	return strings.HasPrefix(key, "log/") || strings.Contains(key, "/log/") ||
		strings.HasPrefix(key, "ids/") || key == "kist.json"
}

func packName(key string) (string, bool) {
	if !strings.HasPrefix(key, "packs/") && !strings.Contains(key, "/packs/") {
		return "", false
	}
	return key[strings.LastIndexByte(key, '/')+1:], true
}
