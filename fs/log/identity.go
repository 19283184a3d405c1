package log

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"

	"kist/backend"
	"kist/crypto/keys"
)

func identityKey(id keys.IdentityID, seq uint64) string { return fmt.Sprintf("ids/%s/%016x", id, seq) }

// PublishIdentity writes an object of an identity's chain once. ErrLost: another
// object stands there. ErrUnknown: call again with the same bytes.
func PublishIdentity(ctx context.Context, store backend.Store, id keys.IdentityID, seq uint64, raw []byte) error {
	if _, err := keys.ParseIdentity(id, seq, raw); err != nil {
		return err
	}
	key := identityKey(id, seq)
	err := store.Create(ctx, key, raw)
	if err == nil {
		return nil
	}
	got, gerr := store.Get(backend.Fresh(ctx), key, int64(keys.MaxIdentity))
	switch {
	case gerr == nil && bytes.Equal(got, raw):
		return nil
	case gerr == nil:
		return fmt.Errorf("identity object %d: %w", seq, ErrLost)
	}
	return fmt.Errorf("identity object %d: %w: %w (reading it back: %w)", seq, ErrUnknown, err, gerr)
}

// FetchIdentity reads and verifies an object of an identity's chain. An object
// that does not verify is read three times.
func FetchIdentity(ctx context.Context, store backend.Store, id keys.IdentityID, seq uint64) ([]byte, *keys.IdentityState, error) {
	var last error
	for try := range 3 {
		if try > 0 {
			ctx = backend.Fresh(ctx)
		}
		raw, err := store.Get(ctx, identityKey(id, seq), int64(keys.MaxIdentity))
		if err != nil {
			return nil, nil, fmt.Errorf("identity object %d: %w", seq, err)
		}
		state, err := keys.ParseIdentity(id, seq, raw)
		if err == nil {
			return raw, state, nil
		}
		last = err
	}
	return nil, nil, fmt.Errorf("identity object %d: %w", seq, last)
}

// person is an identity object that verified.
type person struct {
	raw   []byte
	state *keys.IdentityState
}

// people remembers identity objects: in memory and in the cache.
type people struct {
	store backend.Store
	cache Cache

	mu   sync.Mutex // guards memo
	memo map[IdentityHead]person
}

// take admits an object that the store sent, inside a commit or by itself, and that
// need not come again.
func (p *people) take(at IdentityHead, raw []byte) (person, error) {
	who, err := p.admit(at, raw)
	if err == nil {
		p.cache.Put(identityKey(at.Identity, at.Seq), raw)
	}
	return who, err
}

func (p *people) admit(at IdentityHead, raw []byte) (person, error) {
	if sha256.Sum256(raw) != at.Hash {
		return person{}, bad("the identity object is not the one named")
	}
	state, err := keys.ParseIdentity(at.Identity, at.Seq, raw)
	if err != nil {
		return person{}, bad("%v", err)
	}
	who := person{bytes.Clone(raw), state}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.memo[at] = who
	return who, nil
}

// find returns the object at a point that a verified commit vouches for.
func (p *people) find(ctx context.Context, at IdentityHead) (person, error) {
	p.mu.Lock()
	who, ok := p.memo[at]
	p.mu.Unlock()
	if ok {
		return who, nil
	}
	key := identityKey(at.Identity, at.Seq)
	if raw := p.cache.Get(key); raw != nil {
		if who, err := p.admit(at, raw); err == nil {
			return who, nil
		}
	}
	for range 3 {
		raw, err := p.store.Get(ctx, key, int64(keys.MaxIdentity))
		if errors.Is(err, backend.ErrNotExist) {
			return person{}, fmt.Errorf("identity object %d of a member is missing: %w", at.Seq, ErrWithheld)
		}
		if err != nil {
			return person{}, fmt.Errorf("identity object %d of a member: %w", at.Seq, err)
		}
		if who, err := p.take(at, raw); err == nil {
			return who, nil
		}
		ctx = backend.Fresh(ctx)
	}
	return person{}, fmt.Errorf("identity object %d of a member is not the one that was seen: %w", at.Seq, ErrWithheld)
}

// noCache stands for a missing cache.
type noCache struct{}

func (noCache) Get(string) []byte  { return nil }
func (noCache) Put(string, []byte) {}
