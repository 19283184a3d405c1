package drive

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"kist/backend"
)

const (
	knock    = 10 * time.Second // a store that takes longer to say who it is is away
	breather = time.Second      // between knocks
)

var errSilent = fmt.Errorf("%w: it did not answer within %v", backend.ErrAway, knock)

// late is the store of a mount, which may be away and come back. Before anything
// else is asked of it, at first and after each outage, it must say who it is: what
// comes back may be another disk, another bucket, or the same under new credentials.
type late struct {
	place
	now  atomic.Pointer[backend.Store] // nil: not reached
	turn chan struct{}                 // holds one token; who has it may knock, and touch what follows
	last time.Time                     // when the last that had an outcome began
	err  error                         // how it ended
	next time.Time                     // not before that again
}

var _ backend.Store = (*late)(nil)

func newLate(p place) *late { return &late{place: p, turn: make(chan struct{}, 1)} }

// reach returns the store once it has said who it is. An error is the outcome of a knock
// after the call: what failed before may have come back.
func (l *late) reach(ctx context.Context) (*backend.Store, error) {
	came := time.Now()
	if st := l.now.Load(); st != nil {
		return st, nil
	}
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if st := l.now.Load(); st != nil {
		return st, nil
	}
	if l.last.After(came) {
		return nil, l.err
	}
	select {
	case <-time.After(time.Until(l.next)):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	began := time.Now()
	probe, cancel := context.WithTimeout(ctx, knock)
	defer cancel()
	st, err := l.connect(probe)
	if ctx.Err() != nil {
		return nil, ctx.Err() // its caller's end says nothing about the store
	}
	if err == nil {
		l.now.Store(&st)
		return &st, nil
	}
	if probe.Err() != nil {
		err = errSilent
	}
	l.last, l.err, l.next = began, err, time.Now().Add(breather)
	return nil, err
}

// use does something with the store.
func (l *late) use(ctx context.Context, do func(backend.Store) error) error {
	st, err := l.reach(ctx)
	if err != nil {
		return err
	}
	if err = do(*st); errors.Is(err, backend.ErrAway) || errors.Is(err, backend.ErrDenied) {
		l.now.CompareAndSwap(st, nil)
	}
	return err
}

func (l *late) Get(ctx context.Context, key string, limit int64) (b []byte, err error) {
	err = l.use(ctx, func(st backend.Store) error {
		b, err = st.Get(ctx, key, limit)
		return err
	})
	return b, err
}

func (l *late) GetRange(ctx context.Context, key string, off, n int64) (b []byte, err error) {
	err = l.use(ctx, func(st backend.Store) error {
		b, err = st.GetRange(ctx, key, off, n)
		return err
	})
	return b, err
}

func (l *late) Put(ctx context.Context, key string, body []byte, sum [32]byte) error {
	return l.use(ctx, func(st backend.Store) error { return st.Put(ctx, key, body, sum) })
}

func (l *late) Create(ctx context.Context, key string, body []byte) error {
	return l.use(ctx, func(st backend.Store) error { return st.Create(ctx, key, body) })
}

func (l *late) List(ctx context.Context, prefix string, fn func(key string, size int64) error) error {
	return l.use(ctx, func(st backend.Store) error { return st.List(ctx, prefix, fn) })
}

func (l *late) Delete(ctx context.Context, key string) error {
	return l.use(ctx, func(st backend.Store) error { return st.Delete(ctx, key) })
}

func (l *late) String() string { return l.spec.String() }
