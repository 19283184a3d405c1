package fs

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"

	"kist/backend"
	"kist/backend/mem"
	"kist/fs/journal/disktest"
)

var (
	errFault = fmt.Errorf("simulated: %w", backend.ErrAway)
	errPower = errors.New("the power was cut")
)

// trouble is what goes wrong for a while.
type trouble struct {
	mu    sync.Mutex
	armed bool
	dead  bool // the power is cut: nothing is done any more

	cutAt string // a step: cut the power there
	busy  bool   // operations come between the steps of a commit

	late []mem.Request // writes that failed and are still on their way

	salt  uint64 // of the dice that say which requests to the store fail
	rate  uint64 // one in so many; 0: none
	asked map[string]int

	onDisk string // how a call to the disk fails
	calls  int    // after so many
}

// arm chooses what goes wrong from now on.
func (s *sim) arm() {
	t := &s.trouble
	t.armed, t.asked, t.salt, t.calls = true, map[string]int{}, s.rnd.Uint64(), s.rnd.IntN(40)
	t.rate = []uint64{0, 0, 3, 8, 20}[s.rnd.IntN(5)]
	t.onDisk = []string{"", "", "", "power", "power", "full", "error", "torn"}[s.rnd.IntN(8)]
	t.cutAt = []string{"", "", "", StepFreeze, StepContent, StepNodes, StepSign, StepAppend, StepInstall}[s.rnd.IntN(9)]
	t.busy = s.rnd.IntN(2) == 0
	s.note("trouble: store %d, disk %q at %d, step %q, busy %v", t.rate, t.onDisk, t.calls, t.cutAt, t.busy)
	s.store.(*mem.Store).SetHook(s.request)
	s.disk.SetHook(s.call)
	s.files.fail = s.alive
	s.step = func(name string) error {
		for s.alive() == nil && t.busy && s.rnd.IntN(2) == 0 {
			s.operation()
		}
		if name == t.cutAt {
			return s.cut()
		}
		return s.alive()
	}
}

func (s *sim) calm() {
	s.store.(*mem.Store).SetHook(nil)
	s.disk.SetHook(nil)
	s.files.fail, s.step = nil, nil
	s.armed, s.dead = false, false
}

func (s *sim) alive() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead {
		return errPower
	}
	return nil
}

func (s *sim) cut() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dead = true
	return errPower
}

// request decides over one request to the store, by a throw of dice that depends on
// nothing but the request: those that run side by side come in any order.
func (s *sim) request(r mem.Request) mem.Answer {
	if s.alive() != nil {
		return mem.Answer{Before: errFault}
	}
	s.mu.Lock()
	what := fmt.Sprint(r.Verb, r.Key, r.Off)
	s.asked[what]++
	n := s.asked[what]
	s.mu.Unlock()
	h := fnv.New64a()
	fmt.Fprint(h, what, n)
	dice, rate := rand.New(rand.NewPCG(s.salt, h.Sum64())), s.rate
	if r.Verb == mem.Create {
		rate = min(rate, 2) // few, and all depends on them
	}
	if rate == 0 || dice.Uint64N(rate) > 0 {
		return mem.Answer{}
	}
	fate := dice.IntN(10)
	if r.Verb == mem.Create && dice.IntN(3) == 0 {
		fate = 9
	}
	switch fate {
	case 0, 1:
		return mem.Answer{Before: errFault}
	case 9:
		s.mu.Lock()
		s.late = append(s.late, r)
		s.mu.Unlock()
		return mem.Answer{Before: errFault}
	case 2, 3:
		return mem.Answer{After: errFault}
	case 4:
		return mem.Answer{Wait: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
	case 5:
		return mem.Answer{After: context.DeadlineExceeded}
	case 6:
		return mem.Answer{Before: fmt.Errorf("simulated: %w", backend.ErrDenied)}
	case 7:
		_ = s.cut()
		return mem.Answer{Before: errFault}
	default:
		_ = s.cut()
		return mem.Answer{After: errFault}
	}
}

// arrive lets writes arrive whose caller has given them up.
func (s *sim) arrive() {
	for _, r := range s.late {
		switch r.Verb {
		case mem.Create:
			err := s.d.store.Create(context.Background(), r.Key, r.Body)
			s.note("late: %s: %v", r.Key, err)
		case mem.Put:
			s.d.check(s.d.store.Put(context.Background(), r.Key, r.Body, sha256.Sum256(r.Body)))
		}
	}
	s.late = nil
}

// call decides over one call to the disk.
func (s *sim) call(op disktest.Op, _ string) error {
	if s.alive() != nil {
		return disktest.ErrCrashed
	}
	s.mu.Lock()
	s.calls--
	n := s.calls
	s.mu.Unlock()
	if n > 0 {
		return nil
	}
	grows := op == disktest.OpWrite || op == disktest.OpAllocate || op == disktest.OpCreate
	switch s.onDisk {
	case "power":
		return s.cut()
	case "full":
		if grows {
			return syscall.ENOSPC
		}
	case "error":
		if n == 0 {
			return syscall.EIO
		}
	case "torn": // the next write does not come back
		if op == disktest.OpWrite {
			return s.cut()
		}
	}
	return nil
}

// excused says whether something may fail with this error now.
func (s *sim) excused(err error) bool {
	if s.small && errors.Is(err, syscall.ENOSPC) {
		return true
	}
	if err == nil || !s.armed || refused(err) {
		return false
	}
	if s.onDisk != "" && (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EROFS)) {
		return true
	}
	return s.dead || s.rate > 0 && (errors.Is(err, backend.ErrAway) || errors.Is(err, backend.ErrDenied) || errors.Is(err, context.DeadlineExceeded))
}

// broken says whether the mount takes no more changes, as it may after an error of the disk.
func (s *sim) broken() bool {
	why := s.v.Status().Failed
	if why != "" && !strings.Contains(why, ErrBroken.Error()) {
		s.d.t.Fatal(why)
	}
	return why != ""
}
