package journal_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"kist/crypto/seal"
	"kist/fs/journal"
	"kist/fs/journal/disktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	testKey = seal.Key{1, 2, 3}
	small   = journal.Options{Vault: [32]byte{9}, Segment: 4 << 10, Unsynced: 8 << 10, Reserve: 2 << 10}
)

func open(t testing.TB, d journal.Disk, opt journal.Options) (*journal.Journal, *journal.Replay) {
	t.Helper()
	j, r, err := journal.Open(d, testKey, opt)
	if err != nil {
		t.Fatal(err)
	}
	return j, r
}

// item is what the model knows about a record.
type item struct {
	pos     journal.Pos
	kind    uint8
	meta    []byte
	payload []byte
	loc     journal.Loc
}

func randomItem(r *rand.Rand) (item, journal.Flags) {
	blob := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	it := item{kind: uint8(r.IntN(256)), meta: blob(r.IntN(80))}
	switch r.IntN(4) {
	case 0:
		it.payload = blob(r.IntN(2500))
	case 1, 2:
		it.payload = blob(r.IntN(100))
	}
	var flags journal.Flags
	if r.IntN(3) == 0 {
		flags = journal.Raw
	}
	return it, flags
}

func appendItem(t testing.TB, j *journal.Journal, it item, flags journal.Flags) (item, error) {
	t.Helper()
	rec, err := j.Append(it.kind, it.meta, it.payload, flags)
	it.pos, it.loc = rec.Pos, rec.Loc
	return it, err
}

// appendN appends n random records that must be accepted.
func appendN(t testing.TB, j *journal.Journal, r *rand.Rand, n int) []item {
	t.Helper()
	var items []item
	for range n {
		it, flags := randomItem(r)
		it, err := appendItem(t, j, it, flags)
		if err != nil {
			t.Fatal(err)
		}
		items = append(items, it)
	}
	return items
}

// isPrefix checks that the replay is what the model has from r.Start on, as
// far as it goes, and returns the end of it.
func isPrefix(t testing.TB, j *journal.Journal, r *journal.Replay, model []item) uint64 {
	t.Helper()
	n := r.Start.N
	err := r.Each(0, func(rec journal.Record) error {
		n++
		if rec.N != n || n > uint64(len(model)) {
			return fmt.Errorf("record %d where %d was due, of %d", rec.N, n, len(model))
		}
		want := model[n-1]
		if rec.Pos != want.pos || rec.Kind != want.kind || !bytes.Equal(rec.Meta, want.meta) {
			return fmt.Errorf("record %d is altered", n)
		}
		payload, err := j.Payload(rec.Loc)
		if err != nil || !bytes.Equal(payload, want.payload) {
			return fmt.Errorf("payload %d: %w", n, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.End.N != n || j.Pos() != r.End {
		t.Fatalf("end %d, read %d", r.End.N, n)
	}
	if n > 0 && n > r.Start.N && r.End != model[n-1].pos {
		t.Fatal("running hash differs")
	}
	return n
}

// TestPowerCuts appends, syncs, trims, fails, cuts the power and opens again,
// and compares with a list in memory.
func TestPowerCuts(t *testing.T) {
	rounds := 300
	if testing.Short() {
		rounds = 40
	}
	for seed := range rounds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { powerCuts(t, uint64(seed)) })
	}
}

func powerCuts(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	d := &disktest.Disk{}
	var model []item
	synced, trimmed := uint64(0), uint64(0)
	faulty := seed%2 == 1
	for range 8 {
		d.SetHook(nil)
		j, rep := open(t, d, small)
		if len(rep.Damage) > 0 {
			t.Fatalf("damage out of nothing: %+v", rep.Damage)
		}
		n := isPrefix(t, j, rep, model)
		if n < synced || rep.Start.N > trimmed {
			t.Fatalf("synced up to %d, found %d; trimmed to %d, starts at %d", synced, n, trimmed, rep.Start.N)
		}
		model, synced = model[:n], n
		if faulty {
			d.SetHook(failSometimes(rand.New(rand.NewPCG(seed, n))))
		}
		for range r.IntN(60) {
			switch r.IntN(8) {
			case 0, 1:
				if err := j.Sync(); err == nil {
					synced = uint64(len(model))
				} else if !faulty {
					t.Fatal(err)
				}
			case 2:
				if n := r.Uint64N(synced + 1); n > trimmed {
					trimmed = n
					if err := j.Trim(n); err != nil && !faulty {
						t.Fatal(err)
					}
				}
			case 3:
				if len(model) > 0 {
					it := model[r.IntN(len(model))]
					p, err := j.Payload(it.loc)
					if err == nil && !bytes.Equal(p, it.payload) || err != nil && it.pos.N > max(trimmed, rep.End.N) {
						t.Fatalf("payload of %d: %v", it.pos.N, err)
					}
				}
			default:
				it, flags := randomItem(r)
				it, err := appendItem(t, j, it, flags)
				if err == nil {
					model = append(model, it)
				} else if !faulty {
					t.Fatal(err)
				}
			}
		}
		if r.IntN(3) > 0 {
			d.Crash(r.Uint64())
		} // else kill -9: what was written stays
	}
}

var errDisk = errors.New("disk on fire")

func failSometimes(r *rand.Rand) func(disktest.Op, string) error {
	var mu sync.Mutex
	return func(op disktest.Op, _ string) error {
		mu.Lock()
		defer mu.Unlock()
		switch op {
		case disktest.OpRead, disktest.OpOpen, disktest.OpList:
			return nil
		}
		switch r.IntN(25) {
		case 0:
			return errDisk
		case 1:
			return syscall.ENOSPC
		}
		return nil
	}
}

func TestRunningHash(t *testing.T) {
	d := &disktest.Disk{}
	j, r := open(t, d, small)
	id := j.ID()
	run := sha256.Sum256(id[:])
	if r.Start.Run != run {
		t.Fatal("first running hash")
	}
	for i := range 50 {
		meta, payload := []byte{byte(i)}, bytes.Repeat([]byte{7}, i*20)
		rec, err := j.Append(uint8(i), meta, payload, journal.Flags(i%2))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(payload)
		inner := sha256.Sum256(append(append([]byte{uint8(i)}, meta...), sum[:]...))
		run = sha256.Sum256(append(run[:], inner[:]...))
		if rec.Run != run || rec.N != uint64(i+1) {
			t.Fatal("running hash", i)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j, r = open(t, d, small)
	for _, c := range []struct {
		p    journal.Pos
		want bool
	}{
		{r.Start, true}, {r.End, true}, {journal.Pos{N: 50, Run: run}, true},
		{journal.Pos{N: 49, Run: run}, false}, {journal.Pos{N: 51, Run: run}, false}, {journal.Pos{}, false},
	} {
		if got, err := r.Contains(c.p); err != nil || got != c.want {
			t.Errorf("Contains(%d) = %v, %v", c.p.N, got, err)
		}
	}
	_ = j.Close()
}

func TestSharedSync(t *testing.T) {
	d := &disktest.Disk{}
	j, _ := open(t, d, journal.Options{})
	before := d.Count(disktest.OpSync)
	// The first sync is held until all the others wait.
	started, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	d.SetHook(func(op disktest.Op, _ string) error {
		if op == disktest.OpSync {
			once.Do(func() { close(started); <-release })
		}
		return nil
	})
	var wg sync.WaitGroup
	syncOne := func() {
		if _, err := j.Append(1, nil, []byte("x"), 0); err != nil {
			t.Error(err)
		}
		if err := j.Sync(); err != nil {
			t.Error(err)
		}
	}
	wg.Go(syncOne)
	<-started
	var ready sync.WaitGroup
	for range 20 {
		ready.Add(1)
		wg.Go(func() {
			_, err := j.Append(1, nil, []byte("x"), 0)
			ready.Done()
			if err = errors.Join(err, j.Sync()); err != nil {
				t.Error(err)
			}
		})
	}
	ready.Wait()
	close(release)
	wg.Wait()
	if n := d.Count(disktest.OpSync) - before; n > 2 {
		t.Fatalf("%d syncs for 21 callers", n)
	}
	if j.Durable().N != 21 {
		t.Fatal("not all durable")
	}
	_ = j.Close()
}

func TestConcurrent(t *testing.T) {
	d := &disktest.Disk{}
	j, _ := open(t, d, small)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 2))
			for i := range 200 {
				it, flags := randomItem(r)
				it, err := appendItem(t, j, it, flags)
				if err != nil {
					t.Error(err)
					return
				}
				if i%7 == 0 {
					if err := j.Sync(); err != nil {
						t.Error(err)
					}
				}
				p, err := j.Payload(it.loc)
				if errors.Is(err, journal.ErrGone) {
					continue // trimmed by another
				}
				if err != nil || !bytes.Equal(p, it.payload) {
					t.Errorf("payload: %v", err)
				}
				if i%31 == 0 {
					if err := j.Trim(it.pos.N / 2); err != nil {
						t.Error(err)
					}
				}
				j.Usage()
			}
		})
	}
	wg.Wait()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j, r := open(t, d, small)
	if r.End.N != 800 || len(r.Damage) > 0 {
		t.Fatalf("%d records, %v", r.End.N, r.Damage)
	}
	_ = j.Close()
}

func TestTrimFreesAll(t *testing.T) {
	d := &disktest.Disk{}
	j, _ := open(t, d, small)
	r := rand.New(rand.NewPCG(1, 1))
	items := appendN(t, j, r, 200)
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	_, full := j.Usage()
	if err := j.Cut(); err != nil {
		t.Fatal(err)
	}
	if err := j.Trim(items[199].pos.N); err != nil {
		t.Fatal(err)
	}
	if _, left := j.Usage(); left > 1<<10+200 || full < 50<<10 {
		t.Fatalf("%d of %d left", left, full)
	}
	if _, err := j.Payload(items[3].loc); !errors.Is(err, journal.ErrGone) {
		t.Fatal(err)
	}
	_ = j.Close()
	if j, rep := open(t, d, small); rep.End != items[199].pos {
		t.Fatal("the position was lost with the records")
	} else {
		_ = j.Close()
	}
}
