package log

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"kist/backend"
	"kist/backend/mem"
)

// Any history of writes, lost answers, crashes, junk and damaged reads by two
// writers ends in one chain that both agree on and that holds each write that
// was acknowledged exactly once.
func TestRandomHistories(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		w, ann, bob := team(t, Writer)
		h := &history{r: r, w: w, sent: map[string]string{}}
		for range rapid.IntRange(1, 25).Draw(r, "steps") {
			a := rapid.SampledFrom([]*actor{ann, bob}).Draw(r, "actor")
			switch rapid.IntRange(0, 5).Draw(r, "what") {
			case 0:
				w.store.Plant(w.key(h.free()), []byte("junk"))
			case 1:
				h.reopen(a)
			case 2:
				h.quiet(a)
				a.follow()
			default:
				h.write(a)
			}
		}
		for _, a := range []*actor{ann, bob} {
			h.quiet(a)
			a.follow()
		}
		ann.follow()
		if ann.Head().Head != bob.Head().Head {
			r.Fatal("they do not agree")
		}
		for _, a := range []*actor{ann, bob} {
			if got := ann.Head().Row(a.session.Device).Op; got != a.ops {
				r.Fatalf("%s has %d operations in the log, acknowledged were %d", a.name, got, a.ops)
			}
		}
	})
}

type history struct {
	r    *rapid.T
	w    *world
	mu   sync.Mutex // hooks run side by side
	sent map[string]string
}

// free is the lowest slot that holds nothing.
func (h *history) free() uint64 {
	seq := uint64(0)
	for h.w.raw(seq) != nil {
		seq++
	}
	return seq
}

func (h *history) quiet(a *actor) { a.store.SetHook(h.hook(0)) }

// hook fails requests by the bits of a mask, and accuses who signs twice.
func (h *history) hook(mask int) mem.Hook {
	n := 0
	return func(r mem.Request) mem.Answer {
		h.mu.Lock()
		defer h.mu.Unlock()
		if r.Verb == mem.Create {
			if had, ok := h.sent[r.Key]; ok && had != string(r.Body) && h.w.store.Peek(r.Key) == nil {
				h.r.Error("two commits were sent for a free slot")
			}
			h.sent[r.Key] = string(r.Body)
		}
		n++
		switch mask >> (2 * (n - 1)) & 3 {
		case 1:
			return mem.Answer{Before: backend.ErrAway}
		case 2:
			return mem.Answer{After: backend.ErrAway}
		case 3:
			if r.Verb == mem.Get {
				return mem.Answer{Bend: mem.Flip(r.N * 31)}
			}
		}
		return mem.Answer{}
	}
}

func (h *history) reopen(a *actor) {
	h.quiet(a)
	if err := a.tryOpen(h.w); err != nil {
		h.r.Fatal(err)
	}
}

// write drives one write to its end, through whatever happens.
func (h *history) write(a *actor) {
	h.quiet(a)
	a.follow()
	for tries := 0; ; tries++ {
		b := a.ordinary(fmt.Sprint(a.name, a.ops))
		p, err := a.Prepare(b)
		if err != nil {
			h.r.Fatal(err)
		}
		err = h.deliver(a, p)
		if err == nil {
			return
		}
		if !errors.Is(err, ErrLost) || tries > 20 {
			h.r.Fatal(err)
		}
		a.ops-- // rebased: the same operation again
		h.quiet(a)
		a.follow()
	}
}

func (h *history) deliver(a *actor, p *Pending) error {
	for {
		a.store.SetHook(h.hook(rapid.IntRange(0, 255).Draw(h.r, "mask")))
		err := a.Append(ctx, p)
		for rapid.Bool().Draw(h.r, "crash") {
			if e := a.tryOpen(h.w); e != nil {
				h.quiet(a)
				continue
			}
			err = a.Resume(ctx, p.Bytes)
		}
		if err == nil || errors.Is(err, ErrLost) {
			return err
		}
	}
}
