package fs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"kist/backend"
	"kist/backend/mem"
	"kist/fs/log"
)

// These tests play a store that goes back or forks, and homes that were restored or
// copied. An operation takes effect once, or its author is told to stop.

// named: the error is of this kind and says both places, as two people would compare them.
func named(t *testing.T, err, kind error, heads ...log.Head) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("got %v, want %v", err, kind)
	}
	for _, h := range heads {
		if !strings.Contains(err.Error(), h.String()) {
			t.Errorf("%q does not name %s", err, h)
		}
	}
}

// C1: the whole store goes back, under a mount and between two.
func TestRolledBack(t *testing.T) {
	d := newDrive(t)
	a := d.machine("a")
	a.write(RootIno, "old", "old")
	a.sync()
	then, past := a.v.Status().Head, d.store.Clone("past")
	ino, err := a.at("old")
	d.check(err)
	a.put(ino, "new", 0)
	a.sync()
	now := a.v.Status().Head
	b := a.reopened(past.View("b"))
	named(t, b.open(), log.ErrRollback, now, then)

	live := a.reopened(d.store.View("live"))
	d.check(live.open())
	truth := survey(live.v, nil)
	store := live.store.(*mem.Store)
	store.SetHook(func(r mem.Request) mem.Answer { // shows no commit above then
		return mem.Answer{Drop: strings.HasSuffix(r.Key, fmt.Sprintf("/log/%016x", now.Seq)) || strings.HasSuffix(r.Key, fmt.Sprintf("/log/%016x", now.Seq+1))}
	})
	for range 20 {
		if err = live.v.Follow(t.Context()); err != nil {
			break
		}
	}
	named(t, err, log.ErrRollback, now, then)
	if got := live.read("old"); got != "new" || truth.hold(t, survey(live.v, truth), "live") != 0 {
		t.Errorf("the mount shows %q after the store went back", got)
	}
}

// C2: two machines on two branches. They stop as soon as one object of the one branch
// comes before the eyes of the other, and neither builds on what it was shown.
func TestForked(t *testing.T) {
	d := newDrive(t)
	a, b := d.machine("a"), d.machine("b")
	a.write(RootIno, "common", "x")
	a.sync()
	b.follow()
	other := d.store.Clone("other")
	c := b.reopened(other.View("b"))
	d.check(c.open())
	a.write(RootIno, "of a", "a")
	a.sync()
	c.write(RootIno, "of b", "b")
	c.sync()
	atA, atB := a.v.Status().Head, c.v.Status().Head
	if atA.Seq != atB.Seq || atA.Hash == atB.Hash {
		t.Fatal("no fork")
	}
	c.write(RootIno, "more of b", "b")
	c.sync()
	next := c.v.Status().Head
	key := d.keysOf("log")[0][:len(d.keysOf("log")[0])-16] + fmt.Sprintf("%016x", next.Seq)
	d.store.Plant(key, other.Peek(key))
	named(t, a.v.Follow(t.Context()), log.ErrFork, atA, next)
	if fmt.Sprint(a.list()) != "[common of a]" {
		t.Error("a shows", a.list())
	}
	a.write(RootIno, "on top", "x")
	named(t, a.v.Sync(t.Context()), log.ErrFork, atA, next)
	if got := d.store.Versions(key[:len(key)-16] + fmt.Sprintf("%016x", next.Seq+1)); got != 0 {
		t.Error("something was written on top of a fork")
	}
	// And between two mounts: each is shown the branch of the other.
	d.store.Plant(key, nil)
	onward := a.reopened(d.store.View("a"))
	d.check(onward.open())
	onward.write(RootIno, "more of a", "a")
	onward.sync()
	there, err := onward.v.log.At(t.Context(), next.Seq)
	d.check(err)
	named(t, c.reopened(d.store.View("b")).open(), log.ErrFork, next, there.Head)
	moved := a.reopened(other.View("a"))
	named(t, moved.open(), log.ErrFork, atA, atB)
}

// log appends a line to a shared file, as a program with O_APPEND does.
func (m *machine) line(ino Ino, s string) {
	m.d.t.Helper()
	_, err := m.v.Write(context.Background(), ino, []byte(s), 0, WriteOpts{Append: true})
	m.d.check(err)
}

// once: the file has each line exactly once, and there is no conflict copy.
func (m *machine) once(t *testing.T, lines ...string) {
	t.Helper()
	got := m.read("log")
	for _, l := range lines {
		if strings.Count(got, l) != 1 {
			t.Errorf("%s: %q stands %d times in %q", m.name, l, strings.Count(got, l), got)
		}
	}
	for _, name := range m.list() {
		if strings.Contains(name, "conflict") {
			t.Errorf("%s: a conflict copy: %q", m.name, name)
		}
	}
}

var errGone = fmt.Errorf("played: %w", backend.ErrAway)

// C11, C3: an answer is lost, somebody else goes on, and the power fails. The slot is
// only ever offered the same bytes, and every append is there once.
func TestLostAnswerForeignCommitCrash(t *testing.T) {
	for _, carriedOut := range []bool{true, false} {
		for _, stop := range []string{"", StepSign, StepAppend} {
			for _, foreign := range []bool{true, false} {
				t.Run(fmt.Sprint(carriedOut, stop, foreign), func(t *testing.T) { lostAnswer(t, carriedOut, stop, foreign) })
			}
		}
	}
}

func lostAnswer(t *testing.T, carriedOut bool, stop string, foreign bool) {
	d := newDrive(t)
	a, b := d.machine("a"), d.machine("b")
	f := a.write(RootIno, "log", "start\n")
	a.sync()
	b.follow()
	bodies := map[string]map[string]bool{}
	deaf := true
	a.store.(*mem.Store).SetSerialHook(func(r mem.Request) mem.Answer {
		if r.Verb == mem.Create {
			if bodies[r.Key] == nil {
				bodies[r.Key] = map[string]bool{}
			}
			bodies[r.Key][string(r.Body)] = true
			if deaf && carriedOut {
				return mem.Answer{After: errGone}
			}
		}
		if deaf && (r.Verb == mem.Create || len(bodies) > 0) {
			return mem.Answer{Before: errGone}
		}
		return mem.Answer{}
	})
	a.step = func(name string) error {
		if name == stop {
			return errGone
		}
		return nil
	}
	a.line(f, "from a\n")
	if err := a.v.Sync(t.Context()); !errors.Is(err, backend.ErrAway) {
		t.Fatal("sync:", err)
	}
	lines := []string{"start\n", "from a\n", "again a\n"}
	if foreign {
		lines = append(lines, "from b\n")
		b.follow()
		at, err := b.at("log")
		d.check(err)
		b.line(at, "from b\n")
		b.sync()
	}
	deaf, a.step = false, nil
	d.check(a.crash(7))
	f, err := a.at("log")
	d.check(err)
	a.line(f, "again a\n")
	a.sync()
	b.follow()
	for _, m := range []*machine{a, b, d.machine("fresh")} {
		m.once(t, lines...)
	}
	for key, sent := range bodies {
		if len(sent) != 1 {
			t.Errorf("%d different commits were signed for %s", len(sent), key)
		}
	}
}

// C11: yesterday's home comes back: journal and trust file, each alone and both.
func TestRestoredHome(t *testing.T) {
	for _, what := range []string{"all", "journal", "trust"} {
		t.Run(what, func(t *testing.T) {
			d := newDrive(t)
			a, b := d.machine("a"), d.machine("b")
			f := a.write(RootIno, "log", "start\n")
			a.sync()
			then := a.v.Status().Head
			a.line(f, "waited yesterday\n") // in yesterday's journal, in today's store
			d.check(a.v.Fsync(t.Context(), f))
			yesterday := a.reopened(d.store.View("restored"))
			a.sync()
			a.line(f, "today\n")
			a.sync()
			d.check(a.v.Fsync(t.Context(), f))
			now := a.v.Status().Head
			b.follow()
			switch what {
			case "journal":
				yesterday.files = a.files
			case "trust":
				yesterday.disk = a.disk.Clone()
			}
			err := yesterday.open()
			if what == "trust" { // the store is in order, but the journal knows more
				named(t, err, log.ErrOldTrust, then, now)
			} else if !errors.Is(err, ErrCloned) {
				t.Fatal("used:", err)
			}
			b.follow()
			b.once(t, "start\n", "waited yesterday\n", "today\n")
		})
	}
}

// C11: the home was copied, with something waiting in it, and both run. One of them goes
// on, the other is told; what waited is done once.
func TestClonedHome(t *testing.T) {
	for _, first := range []string{"original", "clone"} {
		for _, remount := range []bool{false, true} {
			t.Run(fmt.Sprint(first, remount), func(t *testing.T) {
				d := newDrive(t)
				a := d.machine("a")
				f := a.write(RootIno, "log", "start\n")
				a.sync()
				a.line(f, "waits in both\n")
				d.check(a.v.Fsync(t.Context(), f))
				winner, loser := a.reopened(d.store.View("a")), a.reopened(d.store.View("clone"))
				if first == "clone" {
					winner, loser = loser, winner
				}
				d.check(winner.open())
				d.check(loser.open())
				loser.line(f, "of the loser\n") // stays in its journal
				winner.line(f, "of the winner\n")
				winner.sync()
				if err := loser.v.Sync(t.Context()); !errors.Is(err, ErrCloned) {
					t.Fatal("both copies write:", err)
				}
				if _, err := loser.v.Write(t.Context(), f, []byte("x"), 0, WriteOpts{}); !errors.Is(err, ErrCloned) {
					t.Error("the copy takes writes:", err)
				}
				if remount {
					if err := loser.crash(5); !errors.Is(err, ErrCloned) {
						t.Fatal("mounted again:", err)
					}
				}
				winner.line(f, "and on\n")
				winner.sync()
				d.machine("fresh").once(t, "start\n", "waits in both\n", "of the winner\n", "and on\n")
			})
		}
	}
}
