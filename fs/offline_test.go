package fs

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"kist/backend"
	"kist/backend/mem"
	"kist/cache"
	"kist/crypto/seal"
	"kist/fs/log"
)

// caching gives a machine a cache, as every mount has one, and mounts again.
func (m *machine) caching() *machine {
	m.d.t.Helper()
	m.close()
	m.forget()
	m.d.check(m.open())
	return m
}

// forget empties the cache.
func (m *machine) forget() {
	m.d.t.Helper()
	c, err := cache.Open(m.d.t.(*testing.T).TempDir(), seal.Key{1}, cache.Options{Budget: 64 << 20})
	m.d.check(err)
	m.d.t.Cleanup(func() { c.Close() })
	m.cache = c
}

// away makes every request of a machine fail; nil brings the store back.
func (m *machine) away(err error) {
	view := m.store.(*mem.Store)
	if err == nil {
		view.SetHook(nil)
		return
	}
	view.SetHook(func(mem.Request) mem.Answer { return mem.Answer{Before: err} })
}

func (m *machine) add(ino Ino, line string) {
	m.d.t.Helper()
	_, err := m.v.Write(always, ino, []byte(line), 0, WriteOpts{Append: true})
	m.d.check(err)
}

func (m *machine) fsync() { m.d.t.Helper(); m.d.check(m.v.Fsync(always, RootIno)) }

// agrees brings everything into the store and compares with a machine that never saw
// anything but that.
func (m *machine) agrees() string {
	m.d.t.Helper()
	m.sync()
	m.follow()
	is, err := m.dump()
	m.d.check(err)
	want, err := m.d.machine("fresh").dump()
	m.d.check(err)
	if is != want {
		m.d.t.Fatalf("%s shows\n%s\nthe store holds\n%s", m.name, is, want)
	}
	return is
}

func TestOfflineMount(t *testing.T) {
	for _, why := range []error{backend.ErrAway, backend.ErrDenied} {
		t.Run(why.Error(), func(t *testing.T) {
			d := newDrive(t)
			a := d.machine("a").caching()
			dir := a.mkdir(RootIno, "dir")
			f := a.write(dir, "f", strings.Repeat("one", 500))
			a.sync()
			head := a.v.Status().Head
			a.close()
			b := d.machine("b")
			b.write(RootIno, "theirs", "while a was away")
			b.sync()
			a.away(why)
			for range 2 { // the second time with a journal to replay
				d.check(a.open())
				if err := a.v.Away(); !errors.Is(err, why) {
					t.Fatalf("away: %v", err)
				}
				if s := a.v.Status(); s.Connected || s.Head != head {
					t.Fatalf("status: %+v", s)
				}
				if got := fmt.Sprint(a.list(), a.list("dir")); !strings.HasPrefix(got, "[dir") || !strings.Contains(got, "f") {
					t.Fatal(got)
				}
				if got := a.read("dir", "f"); !strings.HasPrefix(got, "oneone") {
					t.Fatalf("%.20q", got)
				}
				a.add(f, "+")
				a.write(dir, fmt.Sprint("new", len(a.list("dir"))), "offline")
				a.fsync()
				if err := a.v.Commit(always); !errors.Is(err, why) {
					t.Fatalf("a commit without a store: %v", err)
				}
				a.disk.Crash(1)
			}
			d.check(a.open())
			a.away(nil)
			a.agrees()
			if s := a.v.Status(); !s.Connected || s.PendingOps != 0 {
				t.Fatalf("status: %+v", s)
			}
			if got := fmt.Sprint(a.list(), a.list("dir")); got != "[dir theirs] [f new1 new2]" {
				t.Fatal(got)
			}
			if got := a.read("dir", "f"); !strings.HasSuffix(got, "ne++") {
				t.Fatal(got[len(got)-9:])
			}
		})
	}
}

// An offline mount with nothing to store ends in order.
func TestOfflineMountEnds(t *testing.T) {
	d := newDrive(t)
	a := d.machine("a").caching()
	a.write(RootIno, "f", "x")
	a.close()
	a.away(backend.ErrAway)
	d.check(a.open())
	a.close()
}

// What is missing is told from what is wrong, and nothing is made up.
func TestOfflineMountRefused(t *testing.T) {
	d := newDrive(t)
	refused := func(m *machine, word string) {
		t.Helper()
		m.away(backend.ErrAway)
		defer m.away(nil)
		err := m.open()
		if !errors.Is(err, backend.ErrAway) || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v", word, err)
		}
	}
	refused(d.device("never mounted"), "never mounted here")
	a := d.machine("a").caching()
	a.write(RootIno, "f", "x")
	a.close()
	kept := a.cache
	a.forget()
	refused(a, "cache was deleted")
	d.check(a.open()) // the log comes into the new cache, the tree does not
	a.close()
	refused(a, "cache was deleted")
	a.cache = kept
	a.away(backend.ErrAway)
	d.check(a.open())
}

// A machine without a number can read offline. To write it needs the store.
func TestOfflineWithoutNumber(t *testing.T) {
	d := newDrive(t)
	a, b := d.machine("a"), d.device("b")
	a.write(RootIno, "f", "x")
	a.sync()
	b.frozen = true
	b.forget()
	d.check(b.open())
	b.list()
	b.close()
	b.away(backend.ErrAway)
	d.check(b.open())
	if got := fmt.Sprint(b.list()); got != "[f]" {
		t.Error(got)
	}
	b.close()
	b.frozen = false
	if err := b.open(); !errors.Is(err, backend.ErrAway) || !strings.Contains(err.Error(), "--read-only") {
		t.Error(err)
	}
	b.away(nil)
	d.check(b.open())
	b.write(RootIno, "g", "y")
	b.agrees()
}

// A commit was signed and sent and its answer is lost; then the power fails and the store
// is away. Whatever became of it, its operations take effect once, and no other bytes
// were ever sent for its slot.
func TestOfflineWithCommitUnderWay(t *testing.T) {
	for _, fate := range []string{"lost on the way", "arrived", "arrived, others followed", "another's took the slot"} {
		for _, how := range []string{"", "more work", "read-only"} {
			t.Run(fate+" "+how, func(t *testing.T) {
				d := newDrive(t)
				a, b := d.machine("a").caching(), d.machine("b")
				log := a.write(RootIno, "log", "begin\n")
				a.sync()
				b.follow()
				a.add(log, "once\n")
				a.write(RootIno, "once", "1")
				sent := a.cutOff(fate)
				if fate == "another's took the slot" || strings.Contains(fate, "others") {
					b.follow()
					b.write(RootIno, "theirs", "2")
					b.sync()
				}
				a.disk.Crash(1)
				a.frozen = how == "read-only"
				d.check(a.open())
				if got := a.read("log"); got != "begin\nonce\n" {
					t.Fatalf("%q", got)
				}
				if how == "more work" {
					a.add(log, "more\n")
					a.write(RootIno, "more", "3")
					a.fsync()
				}
				a.back(sent)
				a.follow()
				want := "begin\nonce\n"
				if a.frozen {
					if fate == "arrived, others followed" && fmt.Sprint(a.list()) != "[log once theirs]" {
						t.Fatal(a.list())
					}
					d.check(a.v.Close(always, false))
					a.frozen = false
					d.check(a.open())
				}
				if how == "more work" {
					want += "more\n"
				}
				tree := a.agrees()
				if got := a.read("log"); got != want || strings.Contains(tree, "conflict") {
					t.Fatalf("%q in\n%s", got, tree)
				}
			})
		}
	}
}

// cutOff lets a commit meet its fate without an answer, and takes the store away. It
// returns what was sent for which slot.
func (m *machine) cutOff(fate string) map[string][]byte {
	m.d.t.Helper()
	sent := map[string][]byte{}
	gone := false
	m.store.(*mem.Store).SetSerialHook(func(r mem.Request) mem.Answer {
		switch {
		case r.Verb == mem.Create && !gone:
			gone, sent[r.Key] = true, bytes.Clone(r.Body)
			if strings.HasPrefix(fate, "arrived") {
				return mem.Answer{After: backend.ErrAway}
			}
			return mem.Answer{Before: backend.ErrAway}
		case gone:
			return mem.Answer{Before: backend.ErrAway}
		}
		return mem.Answer{}
	})
	if err := m.v.Commit(always); !errors.Is(err, backend.ErrAway) || len(sent) != 1 {
		m.d.t.Fatalf("a commit without an answer: %v, %d sent", err, len(sent))
	}
	return sent
}

// back brings the store back and watches over the slots that something was sent for.
func (m *machine) back(sent map[string][]byte) {
	m.store.(*mem.Store).SetHook(func(r mem.Request) mem.Answer {
		if was := sent[r.Key]; r.Verb == mem.Create && was != nil && !bytes.Equal(was, r.Body) {
			m.d.t.Errorf("other bytes were sent for a slot")
		}
		return mem.Answer{}
	})
}

// The store that comes back is held against what is remembered before anything is
// written to it.
func TestOfflineThenAnotherStore(t *testing.T) {
	for _, lie := range []struct {
		name string
		want error
	}{{"rollback", log.ErrRollback}, {"fork", log.ErrFork}} {
		t.Run(lie.name, func(t *testing.T) {
			d := newDrive(t)
			a, b := d.machine("a").caching(), d.machine("b")
			b.close()
			a.follow()
			a.write(RootIno, "f", "x")
			a.sync()
			fork := d.store.Clone("fork")
			a.write(RootIno, "g", "y")
			a.sync()
			slot := d.keysOf("log")[a.v.Status().Head.Seq]
			a.close()
			truth := d.store.Peek(slot)
			d.store.Plant(slot, nil)
			if lie.name == "fork" {
				b.store = fork
				d.check(b.open())
				b.write(RootIno, "other", "z")
				b.sync()
				d.store.Plant(slot, fork.Peek(slot))
			}
			a.away(backend.ErrAway)
			d.check(a.open())
			a.write(RootIno, "h", "offline")
			a.fsync()
			a.away(nil)
			view := a.store.(*mem.Store)
			view.Forget()
			for _, call := range []func() error{
				func() error { return a.v.Follow(always) }, func() error { return a.v.Commit(always) }, func() error { return a.v.Follow(always) },
			} {
				if err := call(); !errors.Is(err, lie.want) {
					t.Fatalf("got %v, want %v", err, lie.want)
				}
			}
			if n := view.Counts(); n[mem.Put]+n[mem.Create] != 0 {
				t.Fatalf("it was written to: %v", n)
			}
			d.store.Plant(slot, truth)
			a.agrees()
		})
	}
}

// What comes back after an outage may be yesterday's disk: nothing is written on top of it.
func TestOutageThenOlderStore(t *testing.T) {
	d := newDrive(t)
	a := d.machine("a")
	f := a.write(RootIno, "f", "x")
	a.sync()
	head := fmt.Sprintf("/log/%016x", a.v.Status().Head.Seq)
	view := a.store.(*mem.Store)
	view.SetHook(func(mem.Request) mem.Answer { return mem.Answer{Before: backend.ErrAway} })
	a.put(f, "y", 0)
	if err := a.v.Commit(always); !errors.Is(err, backend.ErrAway) {
		t.Fatalf("while it is away: %v", err)
	}
	view.SetHook(func(r mem.Request) mem.Answer {
		return mem.Answer{Drop: r.Verb == mem.Get && strings.HasSuffix(r.Key, head)}
	})
	if err := a.v.Commit(always); !errors.Is(err, log.ErrRollback) && !errors.Is(err, log.ErrWithheld) {
		t.Errorf("an older store: %v", err)
	}
	for _, r := range view.Log() {
		if r.Verb == mem.Create && r.Err == nil && strings.HasSuffix(r.Key, fmt.Sprintf("/log/%016x", a.v.Status().Head.Seq+1)) {
			t.Error("a commit was written above a gap")
		}
	}
	view.SetHook(nil)
	a.sync()
	if got := a.read("f"); got != "y" {
		t.Errorf("in the end: %q", got)
	}
}
