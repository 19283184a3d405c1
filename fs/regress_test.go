package fs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"kist/backend"
	"kist/backend/mem"
	"kist/fs/journal/disktest"
	"kist/fs/log"
)

var always = context.Background()

// smallSegments mounts again with a journal of segments of 16 MiB, so that a test can
// fill one and see what a commit lets go.
func (m *machine) smallSegments() {
	m.d.t.Helper()
	if m.v != nil {
		m.d.check(m.v.Close(always, true))
	}
	m.d.check(m.openSmall())
}

func (m *machine) openSmall() error {
	trust, err := log.OpenTrust(m.files, m.session.TrustKey(), m.session.Store)
	if err != nil {
		return err
	}
	m.v, err = Open(always, Options{Store: m.store, Vault: m.d.vault, Session: m.session, Trust: trust,
		Disk: m.disk, Now: m.d.clock.now, Manual: true, Budget: 64 << 20, Step: func(s string) error {
			if m.step != nil {
				return m.step(s)
			}
			return nil
		}})
	return err
}

// during does something once, at a step of the next commit.
func (m *machine) during(step string, fn func()) {
	m.step = func(s string) error {
		if s == step {
			m.step = nil
			fn()
		}
		return nil
	}
}

// rough is content that compression makes no smaller.
func rough(n int) string {
	b := make([]byte, n)
	x := uint32(n)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return string(b)
}

// The log is read before the pages that it names. When these cannot be had, the next
// commit must not be signed on top of a commit whose tree it does not contain.
func TestCommitAfterFollowingHalfway(t *testing.T) {
	for _, away := range []string{"/packs/", "/log/"} {
		t.Run(strings.Trim(away, "/"), func(t *testing.T) {
			d := newDrive(t)
			a, b := d.machine("a"), d.machine("b")
			a.follow()
			for _, name := range []string{"theirs", "theirs too"} {
				b.write(RootIno, name, strings.Repeat("x", 2000))
				b.sync()
			}
			a.write(RootIno, "ours", "y")
			view, n := a.store.(*mem.Store), 0
			view.SetSerialHook(func(r mem.Request) mem.Answer {
				if strings.Contains(r.Key, away) {
					if n++; n > 1 || away == "/packs/" {
						return mem.Answer{Before: errFault}
					}
				}
				return mem.Answer{}
			})
			if err := a.v.Follow(always); err == nil {
				t.Fatal("nothing failed")
			}
			view.SetHook(nil)
			a.sync()
			if got := fmt.Sprint(d.machine("c").list()); got != "[ours theirs theirs too]" {
				t.Fatal(got)
			}
		})
	}
}

// What is done on a commit of others, found at mount, is replayed on that commit.
func TestCrashOnCommitFoundAtMount(t *testing.T) {
	d := newDrive(t)
	a, b := d.machine("a"), d.machine("b")
	a.write(RootIno, "x", "1")
	a.sync()
	a.close()
	dir := b.mkdir(RootIno, "dir")
	b.write(dir, "f", strings.Repeat("x", 2000))
	b.sync()
	d.check(a.open())
	f, err := a.at("dir", "f")
	d.check(err)
	a.put(f, "OURS", 0)
	a.write(dir, "g", "new")
	d.check(a.v.Fsync(always, f))
	for seed := range uint64(2) {
		d.check(a.crash(seed))
		if got := a.read("dir", "f")[:6] + a.read("dir", "g"); got != "OURSxxnew" {
			t.Fatal(got)
		}
	}
	a.sync()
	if got := d.machine("c").read("dir", "f")[:6]; got != "OURSxx" {
		t.Fatal(got)
	}
}

// A file made without a name gets one while a commit is under way that does not contain
// it: its records stay in the journal until one does.
func TestTmpfileLinkedDuringCommit(t *testing.T) {
	for _, crash := range []bool{false, true} {
		t.Run(fmt.Sprint("crash ", crash), func(t *testing.T) {
			d := newDrive(t)
			a := d.machine("a")
			a.smallSegments()
			content := rough(40 << 20)
			tmp, err := a.v.Tmpfile(always, Cred{}, RootIno, 0o600)
			d.check(err)
			a.put(tmp.Ino, content, 0)
			a.write(RootIno, "other", "o")
			a.during(StepNodes, func() {
				_, err := a.v.Link(always, tmp.Ino, RootIno, "named")
				d.check(err)
				a.v.Forget(tmp.Ino, 2)
				d.check(a.v.Fsync(always, tmp.Ino))
			})
			d.check(a.v.Commit(always))
			if crash {
				a.disk.Crash(1)
				d.check(a.openSmall())
			}
			a.v.hot = newHotCache(1)
			if got := a.read("named"); got != content {
				t.Fatalf("%.60q", got)
			}
			a.sync()
			if got := d.machine("c").read("named"); got != content {
				t.Fatalf("%.60q", got)
			}
			if len(a.v.nameless)+len(a.v.linked) > 0 {
				t.Fatal("its records are kept for ever")
			}
		})
	}
}

// What is done while a commit is under way must not need descriptions of directories
// that the commit lets go.
func TestDescriptionsOutliveCommit(t *testing.T) {
	d := newDrive(t)
	a := d.machine("a")
	dir := a.mkdir(RootIno, "dir")
	sub := a.mkdir(dir, "sub")
	a.smallSegments()
	_, err := a.at("dir", "sub")
	d.check(err)
	a.write(sub, "big", rough(20<<20))
	a.during(StepNodes, func() { a.write(sub, "during", "precious") })
	d.check(a.v.Commit(always))
	d.check(a.v.Fsync(always, sub))
	a.disk.Crash(1)
	d.check(a.openSmall())
	if got := a.read("dir", "sub", "during"); got != "precious" {
		t.Fatal(got)
	}
}

// Of an open file without a name, with more pages than are in memory, the journal keeps
// what no commit has.
func TestUnlinkedFileKeepsPending(t *testing.T) {
	d := newDrive(t)
	a := d.machine("a")
	f := a.write(RootIno, "f", "")
	for i := range uint64(2000) {
		a.put(f, "one of many extents", i<<20)
	}
	a.smallSegments()
	_, err := a.at("f")
	d.check(err)
	d.check(a.v.Open(always, f))
	d.check(a.v.Unlink(always, RootIno, "f"))
	a.put(f, "pending", 1900<<20+100)
	a.write(RootIno, "big", rough(20<<20))
	d.check(a.v.Commit(always))
	a.v.hot = newHotCache(1)
	p := make([]byte, 7)
	if _, err := a.v.Read(always, f, p, 1900<<20+100); err != nil || string(p) != "pending" {
		t.Fatal(err, string(p))
	}
}

// What the journal could not give back is said in status.
func TestDamagedJournalIsTold(t *testing.T) {
	d := newDrive(t)
	a := d.machine("a")
	for _, name := range []string{"f", "g", "h"} {
		a.write(RootIno, name, rough(100_000))
		d.check(a.v.Fsync(always, RootIno))
	}
	a.disk.Crash(1)
	name := a.disk.Names()[0]
	b := a.disk.Bytes(name)
	b[len(b)-150_000] ^= 1
	a.disk.SetBytes(name, b)
	d.check(a.open())
	if a.read("f") != rough(100_000) {
		t.Fatal("what stands before the damage is lost")
	}
	if errs := a.v.Status().Errors; len(errs) != 1 || !strings.Contains(errs[0], "damaged") {
		t.Fatal(errs)
	}
}

// A disk that does not give the journal back is no sign that the home was copied.
func TestReadErrorIsNoCopy(t *testing.T) {
	d := newDrive(t)
	a := d.machine("a")
	a.write(RootIno, "f", "x")
	a.sync()
	a.close()
	for failing, n := true, 1; failing; n++ {
		b, reads := a.on(d, d.store), 0
		b.disk.SetHook(func(op disktest.Op, _ string) error {
			if op == disktest.OpRead {
				if reads++; reads == n {
					return syscall.EIO
				}
			}
			return nil
		})
		err := b.open()
		if failing = reads >= n; failing && (!errors.Is(err, syscall.EIO) || errors.Is(err, ErrCloned)) {
			t.Fatalf("read %d failed: %v", n, err)
		}
	}
}

// A store that does not answer is away, and status says so.
func TestSilentStoreIsAway(t *testing.T) {
	d := newDrive(t)
	d.makeCoders()
	synctest.Test(t, func(t *testing.T) {
		d.t = t
		a := d.machine("a")
		a.write(RootIno, "f", rough(3<<20))
		a.close()
		d.check(a.open())
		f, err := a.at("f")
		d.check(err)
		a.store.(*mem.Store).SetHook(func(mem.Request) mem.Answer {
			return mem.Answer{Wait: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
		})
		start := time.Now()
		if _, err := a.v.Read(always, f, make([]byte, 10), 1<<20); !errors.Is(err, backend.ErrAway) || time.Since(start) != opDeadline {
			t.Fatalf("after %v: %v", time.Since(start), err)
		}
		if s := a.v.Status(); s.Connected || s.AwayReason == "" {
			t.Fatalf("%+v", s)
		}
	})
}

// On a full disk deletions go on until only the record of a commit still fits; nothing
// breaks, and once there is room everything works again.
func TestFullDiskIsNotBroken(t *testing.T) {
	d := newDrive(t)
	a := d.machine("a")
	d.check(a.v.Close(always, true))
	a.disk.SetCapacity(a.disk.Used() + 6<<20)
	d.check(a.open())
	f := a.write(RootIno, "f", "")
	var err error
	for i := uint64(0); err == nil && i < 100; i++ {
		_, err = a.v.Write(always, f, []byte(rough(1<<20)), i<<20, WriteOpts{})
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	names := []string{"f", "g"}
	for err = nil; err == nil; names[0], names[1] = names[1], names[0] {
		err = a.v.Rename(always, RootIno, names[0], RootIno, names[1], 0)
	}
	if !errors.Is(err, syscall.ENOSPC) || a.v.Status().Failed != "" {
		t.Fatal(err, a.v.Status().Failed)
	}
	a.sync() // the record of the commit fits
	a.disk.SetCapacity(0)
	a.write(RootIno, "new", "x")
	a.sync()
}

// A deadline is kept while another commit waits for the store.
func TestSyncDeadlineWhileCommitHangs(t *testing.T) {
	d := newDrive(t)
	a := d.machine("a")
	a.write(RootIno, "f", "x")
	hang, inside := make(chan struct{}), make(chan struct{}, 100)
	a.store.(*mem.Store).SetHook(func(mem.Request) mem.Answer {
		return mem.Answer{Wait: func(context.Context) error {
			inside <- struct{}{}
			<-hang
			return nil
		}}
	})
	done := make(chan error, 1)
	go func() { done <- a.v.Commit(always) }()
	<-inside
	ctx, cancel := context.WithTimeout(always, 50*time.Millisecond)
	defer cancel()
	if err := a.v.Sync(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	close(hang)
	d.check(<-done)
}

// What is in the store no longer takes room on this disk.
func TestRoomComesBack(t *testing.T) {
	d := newDrive(t)
	a := d.machine("a")
	d.check(a.v.Close(always, true))
	a.disk.SetCapacity(a.disk.Used() + 28<<20)
	d.check(a.open())
	f := a.write(RootIno, "f", "")
	for range 3 {
		err := error(nil)
		for i := 0; err == nil; i++ {
			if i == 100 {
				t.Fatal("the disk never gets full")
			}
			_, err = a.v.Write(always, f, []byte(rough(1<<20)), 0, WriteOpts{})
		}
		a.sync()
		if _, err := a.v.Write(always, f, []byte(rough(1<<20)), 0, WriteOpts{}); err != nil {
			t.Fatal("all is in the store, still:", err)
		}
	}
}

// The journal's disk fails for good while somebody writes: an error, a mount that only
// reads, and nobody who waits for ever.
func TestJournalFailsUnderWrites(t *testing.T) {
	d := newDrive(t)
	a := d.machine("a")
	f := a.write(RootIno, "f", "x")
	d.check(a.v.Fsync(always, f))
	a.put(f, "y", 0)
	writes := 0
	a.disk.SetHook(func(op disktest.Op, _ string) error {
		if op != disktest.OpSync {
			return nil
		}
		if writes++; writes == 1 { // afterwards whoever writes waits for what we are in
			if _, err := a.v.Write(always, f, []byte("z"), uint64(10*writes), WriteOpts{}); err != nil {
				t.Errorf("write %d: %v", writes, err)
			}
		}
		return syscall.EIO
	})
	done := make(chan error, 1)
	go func() { done <- a.v.Fsync(always, f) }()
	select {
	case err := <-done:
		if !errors.Is(err, ErrBroken) {
			t.Errorf("fsync: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("fsync does not end")
	}
	if a.v.Status().Failed == "" {
		t.Error("status does not tell")
	}
	if _, err := a.v.Write(always, f, []byte("more"), 0, WriteOpts{}); !errors.Is(err, syscall.EROFS) {
		t.Errorf("a write afterwards: %v", err)
	}
}

// A folder that two machines made becomes one. Who holds the one that went must look its
// name up again: kept as a removed folder, it would refuse every new name with ENOENT.
func TestHeldFolderBecomesTheirs(t *testing.T) {
	d := newDrive(t)
	a, b := d.machine("a"), d.machine("b")
	a.do("mkdir d; sync")
	b.do("mkdir d")
	ours, err := b.at("d")
	d.check(err)
	b.sync()
	if _, err := b.v.Create(always, Cred{}, ours, "f", syscall.S_IFREG|0o644, 0); err != syscall.ESTALE {
		t.Errorf("a new name in the folder that went: %v", err)
	}
	b.write(RootIno, "k", "x")
	theirs, err := b.at("d")
	d.check(err)
	b.write(theirs, "f", "x")
	b.sync()
	a.do("follow")
	if got := a.read("d", "f"); got != "x" {
		t.Errorf("there it holds %q", got)
	}
}
