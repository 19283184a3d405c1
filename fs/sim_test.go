package fs

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"kist/backend/mem"
	"kist/crypto/keys"
	"kist/crypto/seal"
	"kist/fs/check"
	"kist/fs/log"
	"kist/fs/tree"
)

var (
	simSeeds  = flag.Int("sim.seeds", 500*histories/100, "how many histories TestSimulation plays")
	simFrom   = flag.Int("sim.from", 0, "the first of them")
	simStride = flag.Int("sim.stride", 0, "play every so many-th, in this process; 0: all, one process for each core")
	simFor    = flag.Duration("sim.for", 0, "play no new history after this long; 0: no limit")
	simSeed   = flag.Int("sim.seed", -1, "play this one history only")
)

// TestSimulation plays histories: random operations on one machine, under faults of its
// disk and of the store and power cuts at any moment, judged by a model. A seed is a
// history: played again, it is the same to the last byte.
func TestSimulation(t *testing.T) {
	switch {
	case *simSeed >= 0:
		newCampaign(t).play(t, *simSeed)
	case *simStride > 0 || *simSeeds < 100:
		newCampaign(t).playAll(t)
	default:
		inProcesses(t, runtime.NumCPU())
	}
}

// inProcesses shares the seeds out: the source of randomness is one for a process.
func inProcesses(t *testing.T, n int) {
	var running sync.WaitGroup
	for i := range n {
		args := []string{"-test.run=^TestSimulation$", fmt.Sprintf("-sim.stride=%d", n), fmt.Sprintf("-sim.from=%d", *simFrom+i),
			fmt.Sprintf("-sim.seeds=%d", *simSeeds-i), fmt.Sprintf("-sim.for=%v", *simFor)}
		if end, ok := t.Deadline(); ok {
			args = append(args, fmt.Sprintf("-test.timeout=%v", time.Until(end)))
		}
		c := exec.CommandContext(t.Context(), os.Args[0], args...)
		c.Env = append(os.Environ(), "GOMAXPROCS=1")
		running.Go(func() {
			if out, err := c.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	running.Wait()
}

// campaign is what all histories begin with, made once.
type campaign struct {
	*drive
	judge  *accused
	sim    *machine // mounted before
	fresh  *machine // a device of the same person that was never mounted
	reader *machine // another
}

// accused is the test that the store accuses to.
type accused struct{ testing.TB }

func newCampaign(t *testing.T) *campaign {
	cryptotest.SetGlobalRandom(t, 0)
	c := &campaign{judge: &accused{t}}
	c.drive = newDriveOn(t, mem.New(c.judge))
	c.check(c.store.Create(t.Context(), "kist.json", keys.StoreHeader{Format: keys.StoreFormat, StoreID: keys.StoreID{1}}.Encode()))
	c.sim, c.fresh, c.reader = c.device("sim"), c.device("fresh"), c.device("reader")
	c.check(c.sim.open())
	c.sim.mkdir(RootIno, "a")
	c.sim.close()
	c.makeCoders()
	return c
}

// makeCoders makes what the whole process shares: it must not belong to the time of one
// synctest bubble.
func (d *drive) makeCoders() {
	b, err := seal.SealBlob(d.vault, tree.KindChunk, make([]byte, 4096))
	d.check(err)
	_, err = seal.OpenBlob(d.vault, tree.KindChunk, b.Codec, b.PlainLen, b.Fingerprint, &b.Key, b.Sealed)
	d.check(err)
}

func (c *campaign) playAll(t *testing.T) {
	start := time.Now()
	for i := 0; i < *simSeeds && (*simFor == 0 || time.Since(start) < *simFor); i += max(*simStride, 1) {
		t.Run(strconv.Itoa(*simFrom+i), func(t *testing.T) { c.play(t, *simFrom+i) })
	}
}

// sim plays one history.
type sim struct {
	*machine
	c      *campaign
	seed   int
	rnd    *rand.Rand
	model  *model
	states []*model // the model after each step that a crash may separate from the next
	acked  int      // which of them the disk was said to hold
	stored int      // and the store
	small  bool     // the journal has a budget
	trouble
	log []string
}

// play plays a history and returns what happened.
func (c *campaign) play(t *testing.T, seed int) (s *sim) {
	cryptotest.SetGlobalRandom(t, uint64(seed))
	synctest.Test(t, func(t *testing.T) {
		s = c.begin(t, seed)
		defer func() {
			if t.Failed() {
				t.Logf("seed %d:\n%s", seed, strings.Join(s.log, "\n"))
			}
		}()
		for range 12 + s.rnd.IntN(34) {
			s.turn()
			if t.Failed() {
				return
			}
		}
		s.end()
	})
	return s
}

func (c *campaign) begin(t testing.TB, seed int) *sim {
	d := *c.drive
	d.t, d.store, d.clock = t, c.store.Clone("sim"), &clock{t: c.clock.now()}
	c.judge.TB = t
	s := &sim{c: c, seed: seed, rnd: rand.New(rand.NewPCG(uint64(seed), 1)), model: newModel()}
	first := c.sim
	if s.rnd.IntN(8) == 0 {
		first = c.fresh
	}
	s.machine = first.on(&d, d.store)
	if s.small = s.rnd.IntN(2) == 0; s.small {
		s.budget = []int64{1, 3, 12}[s.rnd.IntN(3)] << 20
	}
	s.model.add(1, "a", &modelInode{mode: 0o755, dir: map[string]int{}})
	s.states = []*model{s.model.clone()}
	s.restart("begin", func() { s.disk.Crash(0) })
	return s
}

// end stores everything and asks everybody.
func (s *sim) end() {
	s.calm()
	s.arrive()
	if s.broken() {
		s.restart("end", s.disk.Kill)
	}
	s.sync()
	s.compare()
	if got := s.fresh(); got != s.model.dump() {
		s.d.t.Fatalf("a second machine sees\n%s\nnot\n%s", got, s.model.dump())
	}
	m := s.c.reader.on(s.d, s.d.store)
	trust, err := log.OpenTrust(m.files, m.session.TrustKey(), m.session.Store)
	s.d.check(err)
	r, err := check.Run(context.Background(), check.Config{Store: m.store, Vault: s.d.vault, Session: m.session, Trust: trust,
		FooterKey: FooterKey, Now: s.d.clock.now, ReadData: s.seed%8 == 0})
	s.d.check(err)
	if r.Damaged() {
		s.d.t.Fatalf("the checker finds %+v", r.Problems)
	}
}

// fresh is the tree as a machine sees it that has nothing but the store.
func (s *sim) fresh() string {
	m := s.c.reader.on(s.d, s.d.store)
	m.frozen = true
	s.d.check(m.open())
	got, err := m.dump()
	s.d.check(err)
	return got
}

// stores compares what the store holds with what it must: a state that was there, with
// all that it was said to hold.
func (s *sim) stores() {
	got := s.fresh()
	for i := len(s.states) - 1; i >= s.stored; i-- {
		if s.states[i].dump() == got {
			return
		}
	}
	s.d.t.Fatalf("the store holds\n%s\nit was said to hold\n%s", got, s.states[s.stored].dump())
}

func (s *sim) note(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf(format, args...))
}

func (s *sim) turn() {
	if s.rnd.IntN(4) == 0 {
		s.arrive()
	}
	switch p := s.rnd.IntN(100); {
	case p < 72:
		s.operation()
	case p < 76:
		s.fsync()
	case p < 79:
		s.sync()
	case p < 94:
		s.underFaults()
	case p < 97:
		s.restart("now", s.lose())
	default:
		s.d.clock.add(time.Minute)
		s.compare()
	}
}

// push notes a state that a crash may leave.
func (s *sim) push() { s.states = append(s.states, s.model.clone()) }

func (s *sim) fsync() {
	err := s.v.Fsync(context.Background(), RootIno)
	s.note("fsync: %v", err)
	if err == nil {
		s.acked = len(s.states) - 1
	} else if !s.excused(err) {
		s.d.t.Fatal(err)
	}
}

func (s *sim) sync() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	before := len(s.states) - 1
	err := s.v.Sync(ctx)
	s.note("sync: %v", err)
	if err == nil {
		s.acked, s.stored = max(s.acked, before), before
	} else if !s.excused(err) {
		s.d.t.Fatal(err)
	}
}

func (s *sim) follow() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	if err := s.v.Follow(ctx); err != nil && !s.excused(err) {
		s.d.t.Fatal(err)
	}
}

// underFaults does a few things while disk, store or power may fail.
func (s *sim) underFaults() {
	s.arm()
	for range 1 + s.rnd.IntN(5) {
		switch p := s.rnd.IntN(8); {
		case s.dead || s.broken():
		case p < 3:
			s.operation()
		case p < 4:
			s.fsync()
		case p < 7:
			s.sync()
		default:
			s.follow()
		}
	}
	dead := s.dead
	s.calm()
	switch {
	case dead:
		s.restart("dead", s.powerCut)
	case s.broken() || len(s.late) > 0 || s.rnd.IntN(3) == 0:
		s.restart("after faults", s.lose())
	default:
		s.compare()
	}
}

func (s *sim) powerCut() { s.disk.Crash(s.rnd.Uint64()) }

// lose ends the process, or cuts the power.
func (s *sim) lose() func() {
	if s.rnd.IntN(3) == 0 {
		return s.disk.Kill
	}
	return s.powerCut
}

// restart ends a machine's process and mounts again, now and then under faults that end
// that as well. What is there then must be a state that the model went through, with all
// that was acknowledged.
func (s *sim) restart(when string, end func()) {
	for try := 0; ; try++ {
		end()
		if try < 3 && s.rnd.IntN(3) == 0 {
			s.arm()
		}
		if s.rnd.IntN(2) == 0 {
			s.arrive()
		}
		err := s.open()
		dead, excused := s.dead, s.excused(err)
		s.note("restart, %s: dead %v: %v", when, dead, err)
		s.calm()
		if err == nil && !dead {
			break
		}
		if refused(err) || !dead && !excused {
			s.d.t.Fatalf("mount after a crash (%s): %v", when, err)
		}
		if end = s.lose(); dead {
			end = s.powerCut
		}
	}
	s.recovered(when)
	if s.rnd.IntN(4) == 0 {
		s.stores()
	}
}

func (s *sim) recovered(when string) {
	got, err := s.machine.dump()
	if err != nil {
		s.d.t.Fatalf("after a crash (%s): %v", when, err)
	}
	if errs := s.v.Status().Errors; len(errs) > 0 {
		s.d.t.Fatalf("after a crash (%s): %q", when, errs)
	}
	for i := len(s.states) - 1; i >= s.acked; i-- {
		if s.states[i].dump() == got {
			s.model = s.states[i].clone()
			s.states, s.acked = s.states[:i+1], i
			return
		}
	}
	s.d.t.Fatalf("after a crash (%s) the tree is\n%s\nthe last that was acknowledged\n%s\nthe newest\n%s", when, got,
		s.states[s.acked].dump(), s.states[len(s.states)-1].dump())
}

func (s *sim) compare() {
	got, err := s.machine.dump()
	if err != nil {
		s.d.t.Fatal(err)
	}
	if want := s.model.dump(); got != want {
		s.d.t.Fatalf("the tree is\n%s\nnot\n%s", got, want)
	}
}

// TestSimulationRepeats plays histories twice: what a seed finds, it finds again.
func TestSimulationRepeats(t *testing.T) {
	c := newCampaign(t)
	var before []string
	for i := range 24 {
		s := c.play(t, i/2)
		got := append(s.log, s.d.store.Keys()...)
		for _, name := range s.disk.Names() {
			got = append(got, fmt.Sprintf("%s %x", name, s.disk.Bytes(name)))
		}
		if i%2 == 1 && strings.Join(got, "\n") != strings.Join(before, "\n") {
			t.Fatalf("seed %d:\n%.5000s\nand again:\n%.5000s", i/2, strings.Join(before, "\n"), strings.Join(got, "\n"))
		}
		before = got
	}
}
