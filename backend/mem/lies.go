package mem

import (
	"bytes"
	"context"
	"slices"
	"sync"
)

// Verb names a method of the store.
type Verb string

const (
	Get      Verb = "Get"
	GetRange Verb = "GetRange"
	Put      Verb = "Put"
	Create   Verb = "Create"
	List     Verb = "List"
	Delete   Verb = "Delete"
)

// A Request is one call of a view, as its log keeps it.
type Request struct {
	N    int    // of this view, from 1
	Verb Verb   //
	Key  string // of List: the prefix
	Off  int64  // GetRange
	Size int64  // GetRange: bytes asked for
	Len  int    // bytes of Body
	Body []byte // Put, Create: what the caller wrote; not to be changed. The log keeps none
	Err  error  // in the log: how it ended
	Of   int    // how many-th request of this verb for this key, from 1
}

// A Hook sees each request before it is carried out and says how the store
// lies. It may call the store's Peek, Plant and so on, and may block. It can
// run many times at once.
type Hook func(Request) Answer

// An Answer is a lie. The zero Answer is the truth.
type Answer struct {
	Wait    func(context.Context) error // runs first, with no lock held; its error is the outcome
	Before  error                       // the outcome; nothing is carried out
	After   error                       // carried out, but this is the outcome
	Drop    bool                        // a write: acknowledged, not carried out; a read: not there
	Accept  bool                        // Create: succeed although something is there, replacing it
	Key     string                      // act on this key instead
	Version int                         // a read: the k-th version ever written, from 1; 0 means the newest
	Bend    func([]byte) []byte         // reads: what is returned; writes: what is kept. Gets a copy
	List    func([]Item) []Item         // what List says
}

// An Item is one line of a listing.
type Item struct {
	Key  string
	Size int64
}

func (a Answer) target(key string) string {
	if a.Key != "" {
		return a.Key
	}
	return key
}

func (a Answer) bend(data []byte) []byte {
	if a.Bend == nil {
		return data
	}
	return a.Bend(bytes.Clone(data))
}

// Flip bends by one bit, counted from the first byte's lowest; modulo the size.
func Flip(bit int) func([]byte) []byte {
	return func(b []byte) []byte {
		if len(b) > 0 {
			b[bit/8%len(b)] ^= 1 << (bit % 8)
		}
		return b
	}
}

// Truncate bends to at most n bytes.
func Truncate(n int) func([]byte) []byte {
	return func(b []byte) []byte { return b[:min(n, len(b))] }
}

// Extend bends by n zero bytes at the end.
func Extend(n int) func([]byte) []byte {
	return func(b []byte) []byte { return append(b, make([]byte, n)...) }
}

// serve logs the request, asks the hook, and carries out what it leaves.
func (s *Store) serve(ctx context.Context, req Request, do func(Answer) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	hook, n := s.record(&req)
	var a Answer
	if hook != nil {
		a = hook(req)
	}
	err := carryOut(ctx, a, do)
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := n - 1 - s.past; i >= 0 { // else forgotten meanwhile
		s.log[i].Err = err
	}
	return err
}

func carryOut(ctx context.Context, a Answer, do func(Answer) error) error {
	if a.Wait != nil {
		if err := a.Wait(ctx); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	if a.Before != nil {
		return a.Before
	}
	err := do(a)
	if a.After != nil {
		return a.After
	}
	return err
}

func (s *Store) record(req *Request) (Hook, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == nil {
		s.seen = map[seenKey]int{}
	}
	s.seen[seenKey{req.Verb, req.Key}]++
	req.N, req.Of, req.Len = s.past+len(s.log)+1, s.seen[seenKey{req.Verb, req.Key}], len(req.Body)
	kept := *req
	kept.Body = nil
	s.log = append(s.log, kept)
	return s.hook, req.N
}

// SetHook replaces the view's hook; nil means the truth.
func (s *Store) SetHook(h Hook) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = h
}

// SetSerialHook is SetHook for a hook that keeps count of something: it runs
// once at a time, so it must not wait for other requests of this view.
func (s *Store) SetSerialHook(h Hook) {
	var mu sync.Mutex
	s.SetHook(func(r Request) Answer {
		mu.Lock()
		defer mu.Unlock()
		return h(r)
	})
}

// Log returns the requests of this view so far, in order.
func (s *Store) Log() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log)
}

// Counts returns how many requests of each verb this view has had.
func (s *Store) Counts() map[Verb]int {
	n := map[Verb]int{}
	for _, r := range s.Log() {
		n[r.Verb]++
	}
	return n
}

// Forget empties the request log. The numbers in N and Of go on.
func (s *Store) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.past += len(s.log)
	s.log = nil
}

// Peek returns the newest bytes under key, past hook and log; nil for none.
func (s *Store) Peek(key string) []byte { return bytes.Clone(s.objs.read(key, 0)) }

// Plant puts an object in place, whatever it breaks; nil removes it. This is
// the attacker's hand: past hook, log, key check and accusation.
func (s *Store) Plant(key string, body []byte) { s.objs.put(key, bytes.Clone(body)) }

// Keys returns the keys of all objects, sorted.
func (s *Store) Keys() []string {
	var keys []string
	for _, it := range s.objs.list("") {
		keys = append(keys, it.Key)
	}
	return keys
}

// Versions returns how many versions of key there have been, deletions counted.
func (s *Store) Versions(key string) int {
	s.objs.mu.Lock()
	defer s.objs.mu.Unlock()
	return len(s.objs.versions[key])
}
