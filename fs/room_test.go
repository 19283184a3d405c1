package fs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"kist/backend/mem"
	"kist/fs/journal/disktest"
	"kist/fs/log"
)

// filling is a machine whose disk is full for a while, and what its tree must be.
type filling struct {
	*machine
	t     *testing.T
	model map[string]string
	full  int // calls that were told so
}

// did notes what a call has done, or that it did nothing for want of room.
func (f *filling) did(err error, done func()) {
	f.t.Helper()
	switch {
	case err == nil:
		done()
	case errors.Is(err, syscall.ENOSPC):
		f.full++
	default:
		f.t.Fatal(err)
	}
}

func (f *filling) round(i int) {
	name, moved, text := fmt.Sprint("f", i), fmt.Sprint("g", i), fmt.Sprint(i, rough(300*i))
	f.did(f.file(name, text), func() { f.model[name] = text })
	if _, ok := f.model[name]; ok {
		f.did(f.v.Rename(always, RootIno, name, RootIno, moved, 0), func() { f.model[moved] = text; delete(f.model, name) })
	}
	old := fmt.Sprint("g", i-2)
	if _, ok := f.model[old]; ok {
		f.did(f.v.Unlink(always, RootIno, old), func() { delete(f.model, old) })
	}
	if i%3 == 1 {
		f.did(f.v.Fsync(always, RootIno), func() {})
	}
	if i%4 == 2 {
		f.did(f.v.Sync(always), func() {})
	}
}

// file makes a file with all of its text, or none.
func (f *filling) file(name, text string) error {
	a, err := f.v.Create(always, Cred{}, RootIno, name, syscall.S_IFREG|0o644, 0)
	if err != nil {
		return err
	}
	if _, err = f.v.Write(always, a.Ino, []byte(text), 0, WriteOpts{}); err != nil {
		f.model[name] = ""
	}
	return err
}

func (f *filling) compare(m *machine, when string) {
	f.t.Helper()
	want := slices.Sorted(maps.Keys(f.model))
	if got := m.list(); fmt.Sprint(got) != fmt.Sprint(want) {
		f.t.Fatalf("%s: %v, not %v", when, got, want)
	}
	for name, text := range f.model {
		if got := m.read(name); got != text {
			f.t.Fatalf("%s: %s has %d bytes of %d", when, name, len(got), len(text))
		}
	}
}

// The disk is full from one call to another, wherever that falls. Each operation has
// taken effect or was told ENOSPC, nothing is broken, reads go on, and with room again
// everything is stored and survives a crash.
func TestDiskFullAtAnyCall(t *testing.T) {
	kinds := map[disktest.Op]bool{disktest.OpAllocate: true, disktest.OpWrite: true, disktest.OpCreate: true, disktest.OpSync: true}
	told := 0
	for from := 0; from < 40; from += 3 {
		for _, calls := range []int{1, 6, 1000} {
			d := newDrive(t)
			f := &filling{machine: d.machine("a"), t: t, model: map[string]string{}}
			n := 0
			f.disk.SetHook(func(op disktest.Op, _ string) error {
				if !kinds[op] {
					return nil
				}
				if n++; n > from && n <= from+calls {
					return syscall.ENOSPC
				}
				return nil
			})
			for i := range 10 {
				f.round(i)
				f.compare(f.machine, "on a full disk")
			}
			f.disk.SetHook(nil)
			if s := f.v.Status(); s.Failed != "" {
				t.Fatalf("full from call %d on, %d calls: %s", from, calls, s.Failed)
			}
			told += f.full
			f.round(11)
			f.compare(f.machine, "with room again")
			d.check(f.v.Fsync(always, RootIno))
			d.check(f.crash(uint64(from)))
			f.compare(f.machine, "after a crash")
			f.sync()
			f.compare(d.machine("b"), "elsewhere")
		}
	}
	if told < 60 {
		t.Errorf("only %d calls met a full disk", told)
	}
}

// live mounts with goroutines and the smallest journal.
func (m *machine) live(budget int64) {
	m.d.t.Helper()
	m.d.check(m.v.Close(always, true))
	m.disk.SetBytes("reserve", nil) // that of a journal without a budget
	trust, err := log.OpenTrust(m.files, m.session.TrustKey(), m.session.Store)
	m.d.check(err)
	m.v, err = Open(always, Options{Store: m.store, Vault: m.d.vault, Session: m.session, Trust: trust, Disk: m.disk, Now: time.Now, Budget: budget})
	m.d.check(err)
}

// A writer who is faster than the store waits for it, as long as it answers, and no
// longer than that or than the writer likes; what frees space never waits.
func TestWriterWaitsForTheStore(t *testing.T) {
	const budget = 32 << 20
	d := newDrive(t)
	a := d.machine("a")
	a.live(budget)
	ino := a.write(RootIno, "f", "")
	a.write(RootIno, "other", "x")
	chunk := []byte(rough(1 << 20))
	write := func(ctx context.Context, i int) error {
		_, err := a.v.Write(ctx, ino, chunk, uint64(i)<<20, WriteOpts{})
		if s := a.v.Status(); s.Journal > budget || a.disk.Used() > budget || s.Memory > s.MemoryMost || s.MemoryMost != DefaultMemory {
			t.Fatalf("journal %d, disk %d, memory %d of %d", s.Journal, a.disk.Used(), s.Memory, s.MemoryMost)
		}
		return err
	}
	for i := range 2 * budget >> 20 {
		d.check(write(always, i))
	}
	a.sync()

	// It hangs: the writer waits until he is told not to.
	view := a.store.(*mem.Store)
	var away atomic.Bool
	inside, hang := make(chan struct{}, 100), make(chan struct{})
	view.SetHook(func(mem.Request) mem.Answer {
		if away.Load() {
			return mem.Answer{Before: errFault}
		}
		return mem.Answer{Wait: func(ctx context.Context) error {
			inside <- struct{}{}
			select {
			case <-hang:
			case <-ctx.Done():
			}
			return ctx.Err()
		}}
	})
	ctx, cancel := context.WithCancel(always)
	failed := make(chan error)
	go func() {
		err := error(nil)
		for i := 0; err == nil; i++ {
			err = write(ctx, i)
		}
		failed <- err
	}()
	<-inside
	waitFor(t, "a writer who waits", func() bool { return a.v.pressed().waiting > 0 })
	d.check(a.v.Unlink(always, RootIno, "other"))
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}

	// It is away: the writer is told at once, also the one who waits already.
	go func() { failed <- write(always, 100) }()
	waitFor(t, "a writer who waits", func() bool { return a.v.pressed().waiting > 0 })
	away.Store(true)
	close(hang)
	for err := <-failed; ; err = write(always, 100) { // what hung may have been the commit's last request
		if errors.Is(err, syscall.ENOSPC) {
			break
		}
		d.check(err)
	}
	began := time.Now()
	for range 20 {
		if err := write(always, 100); !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("20 writers had to wait %v for a store that is away", took)
	}
	if s := a.v.Status(); s.Failed != "" || s.Connected {
		t.Fatalf("%+v", s)
	}
	if got := fmt.Sprint(a.list()); got != "[f]" {
		t.Fatal(got)
	}

	// It is back: all goes on.
	view.SetHook(nil)
	d.check(a.v.Sync(always))
	d.check(write(always, 101))
	a.close()
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no sign of", what)
		}
	}
}

// What a writer was promised is kept, although a commit has ended the segment in which
// there was room for it, and the disk is full since.
func TestPromisedRoomIsLost(t *testing.T) {
	d := newDrive(t)
	a := d.machine("a")
	a.smallSegments()
	ino := a.write(RootIno, "f", rough(6<<20))
	text := rough(900_000)
	a.during(StepFreeze, func() {
		a.put(ino, text, 8<<20)
		a.disk.SetCapacity(1)
		a.v.jrn.GiveReserve()
	})
	if err := a.v.Sync(always); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if _, err := a.v.Write(always, ino, []byte("x"), 0, WriteOpts{}); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if err := a.v.Fsync(always, ino); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal("what is in memory only was acknowledged:", err)
	}
	if s := a.v.Status(); s.Failed != "" || a.read("f")[8<<20:] != text {
		t.Fatal("lost; ", s.Failed)
	}
	a.disk.SetCapacity(0)
	d.check(a.v.Fsync(always, ino))
	d.check(a.crash(3))
	a.sync()
	if d.machine("b").read("f")[8<<20:] != text {
		t.Fatal("another machine does not have it")
	}
}
