package fs

import (
	"errors"
	"maps"
	"testing"

	"kist/fs/journal/disktest"
	"kist/fs/log"
)

// remembering is a machine with its own copy of a disk and with another trust file.
func (m *machine) remembering(files map[string][]byte) *machine {
	n := m.reopened(m.d.store.View("again"))
	n.files.m = maps.Clone(files)
	return n
}

// C8: yesterday's trust file over today's is refused on a machine that writes, on one
// that only follows, and on one that only reads; a reset is believed.
func TestTrustPutBack(t *testing.T) {
	for _, readOnly := range []bool{false, true} {
		d := newDrive(t)
		a, b := d.machine("a"), d.machine("b")
		d.check(b.v.Close(always, false))
		b.frozen = readOnly
		d.check(b.open())
		yesterday, then := maps.Clone(b.files.m), b.v.Status().Head
		for _, name := range []string{"1", "2", "3"} {
			a.write(RootIno, name, name)
			a.sync()
			if !readOnly {
				b.follow()
			}
		}
		if readOnly { // finds them when it is mounted, and the power fails
			b.disk.Crash(1)
			d.check(b.open())
			b.disk.Crash(2)
		} else {
			d.check(b.v.Close(always, false)) // b has made no commit
		}
		now := a.v.Status().Head
		asked := d.store.Clone("asked")
		old := b.remembering(yesterday)
		old.store, old.frozen = asked.View("old"), readOnly
		for range 2 { // the second time it is no newer
			named(t, old.open(), log.ErrOldTrust, then, now)
		}
		trust, err := log.OpenTrust(old.files, b.session.TrustKey(), b.session.Store)
		d.check(err)
		d.check(trust.Reset(d.vault, then)) // older than what the journal knows
		d.check(AcceptTrust(old.disk, b.session.JournalKey(), d.vault, trust))
		d.check(old.open())
		if got := old.read("3"); got != "3" {
			t.Error(got)
		}
	}
}

// One copy of two is enough, whichever it is and although it may be the older one; what
// the journal knows is not forgotten with the other. Two steps back is too far.
func TestTrustOneCopy(t *testing.T) {
	d := newDrive(t)
	a := d.machine("a")
	old := maps.Clone(a.files.m)
	a.write(RootIno, "f", "x")
	a.sync()
	back := d.store.Clone("back")
	a.write(RootIno, "g", "x")
	a.sync()
	d.check(a.v.Close(always, false))
	for name := range a.files.m {
		left := maps.Clone(a.files.m)
		delete(left, name)
		b := a.remembering(left)
		b.store = back.View("back")
		if err := b.open(); !errors.Is(err, log.ErrRollback) && !errors.Is(err, log.ErrFork) {
			t.Errorf("without %s an older store is believed: %v", name, err)
		}
		d.check(a.remembering(left).open())
		left = map[string][]byte{name: old[name]}
		if err := a.remembering(left).open(); !errors.Is(err, log.ErrOldTrust) {
			t.Errorf("more than one step back, in %s: %v", name, err)
		}
	}
}

// A crash anywhere leaves the trust file no older than the journal, and no trimming
// takes the journal's word away.
func TestTrustOutlivesTrim(t *testing.T) {
	d := newDrive(t)
	a := d.machine("a")
	a.smallSegments()
	yesterday := maps.Clone(a.files.m)
	for _, step := range []string{StepFreeze, StepSign, StepAppend, StepInstall, ""} {
		f, err := a.at("f")
		if err != nil {
			f = a.write(RootIno, "f", "")
		}
		a.put(f, rough(5<<20), 0) // worth a segment of its own
		a.sync()
		a.put(f, rough(5<<20), 0)
		a.step = func(s string) error {
			if s == step {
				return errGone
			}
			return nil
		}
		if err := a.v.Sync(always); (err != nil) != (step != "") {
			t.Fatal(step, err)
		}
		a.step = nil
		a.disk.Crash(uint64(len(step)))
		// Before the next mount has renewed the journal's word.
		if err := a.remembering(yesterday).open(); !errors.Is(err, log.ErrOldTrust) {
			t.Errorf("after a crash at %q: %v", step, err)
		}
		d.check(a.openSmall())
	}
	if a.disk.Count(disktest.OpRemove) < 5 {
		t.Error("the journal let nothing go")
	}
}
