package drive

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"kist/backend"
)

// stalled is how long a drain may make no progress before it is given up: what
// waits is safe in the journal.
const stalled = time.Minute

var (
	errStalled = fmt.Errorf("%w: nothing could be stored for %v", backend.ErrAway, stalled)
	errHurried = fmt.Errorf("%w: a second signal ended the storing", ErrLeft)
	errEnded   = fmt.Errorf("%w: the drive was unmounted meanwhile; the journal keeps what waits", ErrLeft)
	errYielded = fmt.Errorf("%w: the next mount goes on with the storing", ErrLeft)
)

// gauge counts the bytes that a store has taken.
type gauge struct {
	backend.Store
	taken atomic.Int64
}

func (g *gauge) Put(ctx context.Context, key string, body []byte, sum [32]byte) error {
	return g.count(body, g.Store.Put(ctx, key, body, sum))
}

func (g *gauge) Create(ctx context.Context, key string, body []byte) error {
	return g.count(body, g.Store.Create(ctx, key, body))
}

func (g *gauge) count(body []byte, err error) error {
	if err == nil {
		g.taken.Add(int64(len(body)))
	}
	return err
}

// drain brings everything into the store, as long as that makes progress and
// nobody is in a hurry.
func (d *daemon) drain(ctx context.Context, progress func(string)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	hurried := context.AfterFunc(d.patience, func() { cancel(context.Cause(d.patience)) })
	defer hurried()
	err := d.watched(progress, func() { cancel(errStalled) }, func() error { return d.vault.Sync(ctx) })
	for _, cause := range []error{errStalled, errHurried, errYielded} {
		if err != nil && errors.Is(context.Cause(ctx), cause) {
			return cause
		}
	}
	return err
}

// watched stores and meanwhile reports what still waits; stuck is called while
// that has not changed for too long.
func (d *daemon) watched(progress func(string), stuck func(), store func() error) error {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		d.watch(done, progress, stuck)
	}()
	err := store()
	close(done)
	<-ended
	return err
}

func (d *daemon) watch(done <-chan struct{}, progress func(string), stuck func()) {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	p := newPace(d.sample())
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		p.add(d.sample())
		if p.idle() > stalled {
			stuck()
		}
		if p.idle() == 0 {
			d.service.extend()
		}
		if progress != nil {
			progress(p.String())
		}
	}
}

func (d *daemon) sample() sample {
	s := d.vault.Status()
	return sample{at: time.Now(), ops: s.PendingOps, bytes: s.PendingBytes, taken: d.store.taken.Load()}
}

// sample is how far a drain is.
type sample struct {
	at    time.Time
	ops   int   // changes that wait
	bytes int64 // of their content
	taken int64 // by the store, since the mount
}

// pace judges how fast a drain is. What waits counts as waiting until a commit
// contains it; so what the store took since the last commit is subtracted.
type pace struct {
	samples []sample  // of the last minute, oldest first; one at least
	since   int64     // what the store had taken at the last commit
	moved   time.Time // when something was last stored
}

func newPace(s sample) *pace { return &pace{samples: []sample{s}, since: s.taken, moved: s.at} }

func (p *pace) last() sample { return p.samples[len(p.samples)-1] }

func (p *pace) add(s sample) {
	was := p.last()
	if s.ops < was.ops {
		p.since = s.taken
	}
	if s.ops < was.ops || s.taken != was.taken { // what is written meanwhile is no progress
		p.moved = s.at
	}
	p.samples = append(p.samples, s)
	for s.at.Sub(p.samples[0].at) > stalled {
		p.samples = p.samples[1:]
	}
}

// idle is how long nothing has changed.
func (p *pace) idle() time.Duration { return p.last().at.Sub(p.moved) }

// quiet is how long nothing has to change before that is worth a word.
const quiet = 5 * time.Second

func (p *pace) String() string {
	first, s := p.samples[0], p.last()
	left := max(0, s.bytes-(s.taken-p.since))
	text := fmt.Sprintf("%d changes, %s to store", s.ops, size(left))
	if idle := p.idle(); idle > quiet {
		return fmt.Sprintf("%s; nothing was stored for %v", text, idle.Round(time.Second))
	}
	took := s.at.Sub(first.at)
	rate := float64(s.taken-first.taken) / took.Seconds()
	if took < time.Second || rate < 1 || left == 0 {
		return text
	}
	eta := time.Duration(float64(left) / rate * float64(time.Second)).Round(time.Second)
	return fmt.Sprintf("%s, %s/s, about %v left", text, size(int64(rate)), max(eta, time.Second))
}

func size(n int64) string {
	for _, unit := range []string{"B", "KiB", "MiB"} {
		if n < 10<<10 {
			return fmt.Sprintf("%d %s", n, unit)
		}
		n >>= 10
	}
	return fmt.Sprintf("%d GiB", n)
}

// rarely is how often progress is told where each line of it stays.
const rarely = 10 * time.Second

// Rarely passes a line of progress on every ten seconds; what takes less says
// nothing. It is for one goroutine at a time.
func Rarely(say func(string)) func(string) {
	last := time.Now()
	return func(line string) {
		if now := time.Now(); now.Sub(last) >= rarely {
			last = now
			say(line)
		}
	}
}
