package fs

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"testing/cryptotest"
	"time"

	"kist/backend"
	"kist/backend/mem"
)

var (
	machinesSeeds = flag.Int("machines.seeds", 150*histories/100, "how many histories TestMachines plays")
	machinesSeed  = flag.Int("machines.seed", -1, "play this one history only")
)

// crowd plays one history on two or three machines: each does what it likes, syncs and
// follows when it likes, under faults of the store and power cuts. All content is made
// of tokens, each written once. In the end everybody must see the same, and every token
// that was acknowledged and not removed by its own maker.
type crowd struct {
	d        *drive
	rnd      *rand.Rand
	machines []*machine
	tokens   map[string]*token
	edits    map[string]int // machine and inode → when it was last written to, but for appends
	gentle   bool           // of what others may have changed, only appends
	inside   bool           // an operation is done while a sync or a follow is under way
	temps    []temp         // files that have no name yet
	log      []string
}

type token struct {
	maker *machine
	on    string // machine and inode
	at    int
	acked bool
	dead  bool // removed by its maker
}

type temp struct {
	m    *machine
	ino  Ino
	text string
}

var tokenForm = regexp.MustCompile(`<[a-c]\d+>`)

func TestMachines(t *testing.T) {
	from, to := 0, *machinesSeeds
	if *machinesSeed >= 0 {
		from, to = *machinesSeed, *machinesSeed+1
	}
	for seed := from; seed < to; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { playMachines(t, uint64(seed)) })
	}
}

func playMachines(t *testing.T, seed uint64) {
	cryptotest.SetGlobalRandom(t, seed)
	c := &crowd{d: newDrive(t), rnd: rand.New(rand.NewPCG(seed, 2)), tokens: map[string]*token{}, edits: map[string]int{}, gentle: seed%2 == 0}
	for _, name := range []string{"a", "b", "c"}[:2+seed/2%2] {
		c.machines = append(c.machines, c.d.machine(name))
	}
	defer func() {
		if t.Failed() {
			t.Logf("seed %d:\n%s", seed, strings.Join(c.log, "\n"))
		}
	}()
	for range 60 + c.rnd.IntN(90) {
		c.turn(c.machines[c.rnd.IntN(len(c.machines))])
	}
	c.settle()
}

func (c *crowd) note(m *machine, format string, args ...any) {
	c.log = append(c.log, m.name+": "+fmt.Sprintf(format, args...))
}

func (c *crowd) turn(m *machine) {
	c.d.clock.add(time.Duration(c.rnd.IntN(5000)) * time.Millisecond)
	ctx := context.Background()
	switch p := c.rnd.IntN(100); {
	case p < 70:
		c.operation(m)
		return
	case p < 76:
		c.d.check(m.v.Fsync(ctx, RootIno))
		c.note(m, "fsync")
		c.acked(m, len(c.log))
	case p < 84:
		c.remote(m, "follow", m.v.Follow)
	case p < 95:
		if start := len(c.log); c.remote(m, "sync", m.v.Sync) {
			c.acked(m, start)
		}
	default:
		c.powerCut(m)
	}
	m.consistent()
}

// acked notes that what a machine did before is safe.
func (c *crowd) acked(m *machine, before int) {
	for _, k := range c.tokens {
		k.acked = k.acked || k.maker == m && k.at <= before
	}
}

// powerCut takes what its machine was not told to be safe.
func (c *crowd) powerCut(m *machine) {
	c.note(m, "power cut")
	for name, k := range c.tokens {
		if k.maker == m && !k.acked {
			delete(c.tokens, name)
		}
	}
	temps := c.temps[:0]
	for _, t := range c.temps {
		if t.m != m {
			temps = append(temps, t)
		}
	}
	c.temps = temps
	if err := m.crash(c.rnd.Uint64()); err != nil {
		c.d.t.Fatalf("%s: mount after a power cut: %v", m.name, err)
	}
}

// remote does something that needs the store, now and then with a fault at one request
// or a power cut at one step.
func (c *crowd) remote(m *machine, what string, do func(context.Context) error) bool {
	view, errCut := m.store.(*mem.Store), errors.New("cut")
	steps := []string{"", "", "", StepFreeze, StepContent, StepNodes, StepSign, StepAppend, StepInstall}
	cut := steps[c.rnd.IntN(len(steps))]
	meanwhile := c.meanwhile(m)
	n, after := c.rnd.IntN(12), c.rnd.IntN(2) == 0
	view.SetHook(func(mem.Request) mem.Answer {
		if c.inside {
			return mem.Answer{}
		}
		meanwhile()
		n--
		switch {
		case n != -1:
			return mem.Answer{}
		case after:
			return mem.Answer{After: errFault}
		}
		return mem.Answer{Before: errFault}
	})
	m.step = func(name string) error {
		meanwhile()
		if name == cut {
			return errCut
		}
		return nil
	}
	err := do(context.Background())
	c.note(m, "%s: %v", what, err)
	view.SetHook(nil)
	m.step = nil
	switch {
	case errors.Is(err, errCut):
		c.powerCut(m)
	case err != nil && !errors.Is(err, backend.ErrAway):
		c.d.t.Fatalf("%s: %s: %v", m.name, what, err)
	case err != nil && c.rnd.IntN(2) == 0:
		c.powerCut(m)
	}
	return err == nil
}

// meanwhile returns what does something now and then while a sync or a follow is under
// way. It must not wait for the very request that it is called from: so what needs a page
// that is not in memory is not done.
func (c *crowd) meanwhile(m *machine) func() {
	busy := c.rnd.IntN(3) == 0
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return func() {
		for c.inside = true; busy && c.rnd.IntN(2) == 0; {
			c.quick(ctx, m)
		}
		c.inside = false
	}
}

func (c *crowd) quick(ctx context.Context, m *machine) {
	name, to, k := string(rune('a'+c.rnd.IntN(5))), string(rune('a'+c.rnd.IntN(5))), c.token(m)
	switch c.rnd.IntN(3) {
	case 0:
		a, err := m.v.Create(ctx, Cred{}, RootIno, name, syscall.S_IFREG|0o644, 0)
		c.note(m, "meanwhile create %s %s: %v", name, k, err)
		if err == nil {
			_, err = m.v.Write(ctx, a.Ino, []byte(k), 0, WriteOpts{})
			c.d.check(err)
			c.wrote(m, k, a.Ino, false)
		}
	case 1:
		a, err := m.v.Lookup(ctx, RootIno, name)
		if err == nil {
			_, err = m.v.Write(ctx, a.Ino, []byte(k), 0, WriteOpts{Append: true})
		}
		c.note(m, "meanwhile append %s %s: %v", name, k, err)
		if err == nil {
			c.wrote(m, k, a.Ino, false)
		}
	case 2:
		err := m.v.Rename(ctx, RootIno, name, RootIno, to, RenameNoReplace)
		c.note(m, "meanwhile rename %s %s: %v", name, to, err)
	}
}

// settle lets everybody store and see everything, and judges.
func (c *crowd) settle() {
	for range 3 {
		for _, m := range c.machines {
			m.sync()
			m.consistent()
			c.acked(m, len(c.log))
		}
	}
	for _, m := range c.machines {
		m.follow()
	}
	same(c.d.t, append(c.machines, c.d.machine("c2"))...)
	var all strings.Builder
	for _, line := range c.machines[0].show().short {
		all.WriteString(line)
	}
	for name, k := range c.tokens {
		if k.dead || strings.Contains(all.String(), name) {
			continue
		}
		if c.edits[k.on] > k.at {
			continue // its conflict copy was brought up to date by its maker
		}
		c.d.t.Errorf("%s is lost", name)
	}
	if c.d.t.Failed() {
		c.d.t.Logf("the tree:\n%s", strings.Join(c.machines[0].show().short, "\n"))
	}
}
