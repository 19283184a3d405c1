package mount

import (
	"context"
	"sync"
	"time"
)

// grace is how long a request goes on after its caller was interrupted. The
// kernel reports every signal, also those that a program only counts with, and
// few programs expect EINTR from a file: what can be had soon is still waited
// for, what can't is given up before a person loses patience.
const grace = time.Second / 2

// request is the context of one FUSE request. It costs a goroutine only if
// somebody asks for Done, which only what waits long does.
type request struct {
	cancel <-chan struct{} // closed by go-fuse when the kernel interrupts

	mu    sync.Mutex
	done  chan struct{} // closed grace after cancel; nil until asked for
	end   chan struct{} // closed when the request has been answered
	err   error
	ended bool
}

func newRequest(cancel <-chan struct{}) *request { return &request{cancel: cancel} }

func (r *request) Deadline() (time.Time, bool) { return time.Time{}, false }
func (r *request) Value(any) any               { return nil }

func (r *request) Done() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done == nil {
		r.done, r.end = make(chan struct{}), make(chan struct{})
		if !r.ended {
			go r.watch()
		}
	}
	return r.done
}

func (r *request) Err() error {
	select {
	case <-r.cancel:
		r.Done()
	default:
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// watch must be over with the request: go-fuse uses the channel again.
func (r *request) watch() {
	select {
	case <-r.cancel:
	case <-r.end:
		return
	}
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-t.C:
		r.mu.Lock()
		r.err = context.Canceled
		close(r.done)
		r.mu.Unlock()
	case <-r.end:
	}
}

func (r *request) finish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	if r.end != nil {
		close(r.end)
	}
}
