package fs

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"kist/backend"
	"kist/backend/mem"
)

// states shows where the newest state of some inodes is.
func (m *machine) states(inos ...Ino) string {
	m.d.t.Helper()
	var out []string
	for _, ino := range inos {
		s, err := m.v.State(always, ino)
		m.d.check(err)
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

// A file is in memory until it is synced, in the journal until a commit has landed and
// the live tree stands on it, and its folder with it; others are not concerned.
func TestState(t *testing.T) {
	d := newDrive(t)
	a, b := d.machine("a"), d.machine("b")
	dir := a.mkdir(RootIno, "dir")
	f, g := a.write(dir, "f", "x"), a.write(RootIno, "g", "x")
	want := func(s string) {
		t.Helper()
		if got := a.states(RootIno, dir, f, g); got != s {
			t.Errorf("top, dir, f, g: %s, not %s", got, s)
		}
	}
	want("memory memory memory memory")
	d.check(a.v.Fsync(always, f))
	want("journal journal journal journal")
	a.sync()
	want("stored stored stored stored")
	a.put(f, "y", 0)
	want("stored stored memory stored")
	d.check(a.v.Fsync(always, f))
	want("stored stored journal stored")

	// While a commit is under way, and when it has failed.
	a.during(StepAppend, func() { want("stored stored journal stored"); a.put(g, "z", 0) })
	a.sync()
	want("stored stored stored memory")
	a.sync()
	want("stored stored stored stored")
	a.put(f, "w", 0)
	a.write(dir, "h", "")
	a.step = func(string) error { return errGone }
	if a.v.Sync(always) == nil {
		t.Fatal("no failure")
	}
	a.step = nil
	want("stored journal journal stored")

	// Across a rebase and a crash.
	b.follow()
	b.write(RootIno, "of b", "x")
	b.sync()
	a.follow()
	d.check(a.v.Fsync(always, f))
	want("stored journal journal stored")
	d.check(a.crash(3))
	for _, path := range [][]string{{"dir", "f"}, {"g"}} {
		_, err := a.at(path...)
		d.check(err)
	}
	want("stored journal journal stored")
	a.sync()
	want("stored stored stored stored")
	ro := a.reopened(d.store.View("ro"))
	d.check(a.v.Close(always, true))
	ro.frozen = true
	d.check(ro.open())
	if _, err := ro.at("dir", "f"); err != nil || ro.states(dir, f) != "stored stored" {
		t.Error(err, ro.states(dir, f))
	}
}

// What two machines changed is kept twice: neither the copy nor the file says stored
// before it is. A file without a name never is.
func TestStateOfCopies(t *testing.T) {
	d := newDrive(t)
	a, b := d.machine("a"), d.machine("b")
	f := a.write(RootIno, "f", "x")
	a.sync()
	b.follow()
	a.put(f, "by a", 0)
	b.put(f, "by b", 0)
	b.sync()
	d.check(a.v.Fsync(always, f))
	a.follow()
	names := a.list()
	if len(names) != 2 {
		t.Fatal(names)
	}
	copied := slices.IndexFunc(names, func(n string) bool { return n != "f" })
	c, err := a.at(names[copied])
	d.check(err)
	if got := a.states(f, c); strings.Contains(got, "memory") != (a.v.jrn.Durable() != a.v.jrn.Pos()) || !strings.HasPrefix(got, InStore) || strings.Contains(got[len(InStore):], InStore) {
		t.Error("file and copy:", got)
	}
	d.check(a.v.Fsync(always, c))
	if got := a.states(f, c); got != "stored journal" {
		t.Error("file and copy, synced:", got)
	}
	a.sync()
	if got := a.states(f, c); got != "stored stored" {
		t.Error("file and copy, committed:", got)
	}
	d.check(a.v.Open(always, f))
	d.check(a.v.Unlink(always, RootIno, "f"))
	a.sync()
	if got := a.states(f); got != InJournal {
		t.Error("unlinked and open:", got)
	}
}

// Status counts files once and not what was taken away again, dates the oldest change
// also across a mount, and says why the store is away and since when it is back.
func TestStatusTells(t *testing.T) {
	d := newDrive(t)
	a := d.machine("a")
	a.sync()
	start := d.clock.now()
	dir := a.mkdir(RootIno, "dir")
	f := a.write(dir, "f", "12345")
	d.clock.add(time.Minute)
	a.put(f, "678", 5)
	a.write(RootIno, "temporary", "x")
	d.check(a.v.Unlink(always, RootIno, "temporary"))
	d.check(a.v.Rename(always, dir, "f", RootIno, "g", 0))
	d.check(a.v.Fsync(always, f))
	for _, what := range []string{"live", "mounted again"} {
		s := a.v.Status()
		if s.PendingFiles != 1 || s.PendingBytes != 9 || !s.Oldest.Equal(start) || !s.Connected || s.Since.IsZero() || s.LastCommit.IsZero() {
			t.Errorf("%s: %+v", what, s)
		}
		d.check(a.crash(1))
	}
	store := a.store.(*mem.Store)
	for _, c := range []struct {
		err  error
		kind string
	}{{backend.ErrAway, AwayOutage}, {backend.ErrDenied, AwayDenied}, {backend.ErrFull, AwayFull}} {
		store.SetHook(func(mem.Request) mem.Answer { return mem.Answer{Before: fmt.Errorf("%w: played", c.err)} })
		d.clock.add(time.Minute)
		went := d.clock.now()
		for range 2 {
			if a.v.Commit(always) == nil {
				t.Fatal("no failure")
			}
			d.clock.add(time.Minute)
		}
		s := a.v.Status()
		if s.Connected || s.AwayKind != c.kind || !s.AwaySince.Equal(went) || !s.Since.IsZero() || s.PendingFiles != 1 {
			t.Errorf("%v: %+v", c.err, s)
		}
		store.SetHook(nil)
		d.check(a.v.Follow(always))
		if s := a.v.Status(); !s.Connected || !s.Since.Equal(d.clock.now()) || s.AwayKind != "" {
			t.Errorf("back after %v: %+v", c.err, s)
		}
	}
	a.sync()
	if s := a.v.Status(); s.PendingFiles != 0 || s.PendingOps != 0 || !s.Oldest.IsZero() || !s.LastCommit.Equal(d.clock.now()) {
		t.Errorf("stored: %+v", s)
	}
}

// The journal shows what waits in it, by name, live and after a crash, with a record of
// what was lost; and only that.
func TestInspectJournal(t *testing.T) {
	d := newDrive(t)
	a := d.machine("a")
	a.mkdir(RootIno, "stored")
	a.sync()
	dir := a.mkdir(RootIno, "dir")
	a.write(dir, "f", "12345")
	d.check(a.v.Fsync(always, RootIno))
	d.check(a.v.Rename(always, dir, "f", RootIno, "g", 0))
	d.check(a.v.Fsync(always, RootIno)) // the later record proves that the earlier were synced
	show := func() (r *JournalReport, lines string) {
		t.Helper()
		r, err := InspectJournal(a.disk.Clone(), a.session.JournalKey(), d.vault)
		d.check(err)
		for _, o := range r.Pending {
			lines += fmt.Sprint(o.Kind, " ", o.Bytes, " ", o.Path, " ", o.To, "\n")
		}
		return r, lines
	}
	const all = "create 0 /dir \ncreate 0 /dir/f \nwrite 5 /dir/f \nrename 0 /dir/f /g\n"
	if r, got := show(); got != all || len(r.Damage)+len(r.Aside) != 0 || r.Seen != a.v.Status().Head.String() {
		t.Errorf("%+v\n%s", r, got)
	}
	a.disk.Crash(1)
	name := a.disk.Names()[0]
	raw := a.disk.Bytes(name)
	raw[len(raw)-500] ^= 1
	a.disk.SetBytes(name, raw)
	lost := 0
	for _, when := range []string{"before the next mount", "mounted", "mounted again"} {
		r, got := show()
		if !strings.HasPrefix(all, got) || got == all || len(r.Damage) != 1 || !strings.Contains(r.Damage[0], "is missing") && !strings.Contains(r.Damage[0], "are missing") {
			t.Errorf("%s: %+v\n%s", when, r, got)
		}
		if lost > 0 && (len(r.Aside) != 1 || r.Aside[0].Records == 0 || a.v.Status().Errors[0] != r.Damage[0]) {
			t.Errorf("%s: %+v, status %q", when, r.Aside, a.v.Status().Errors)
		}
		lost++
		if a.v != nil {
			_ = a.v.Close(always, false)
		}
		d.check(a.open())
	}
}
