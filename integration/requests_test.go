//go:build linux

package integration

import (
	"fmt"
	"strings"
	"testing"

	"kist/integration/s3meter"
)

// counted runs something and checks how many requests of a machine it took;
// everything that reaches the server counts, whatever its outcome.
func (m *Machine) counted(what, verb string, most int, do func()) []s3meter.Request {
	m.w.t.Helper()
	m.meter.Reset()
	do()
	n := m.meter.Count(verb, "")
	m.w.t.Logf("%-48s %3d %s of at most %d (%s)", what, n, strings.TrimSpace(verb+" requests"), most, m.meter.Summary())
	if n > most {
		m.w.t.Errorf("%s: %d requests, at most %d are allowed: %s", what, n, most, m.meter.Summary())
		for _, r := range m.meter.Requests() {
			m.w.t.Logf("  %s %s %s %s: %d, %d up, %d down", r.Verb, r.Class, r.Path, r.Range, r.Status, r.Up, r.Down)
		}
	}
	return m.meter.Requests()
}

// TestRequests pins what the drive costs. It runs alone, so that nothing is
// slow enough to be polled for in between.
func TestRequests(t *testing.T) {
	w := newWorld(t, onS3, metered, unraced)
	source := w.dir + "/source"
	a := w.first("a")
	a.run(a.childCommand(stepLimit, "many", source, "1000"))
	b := w.join("b")
	a.mount()
	a.umount()

	a.counted("mount on a machine that knows the vault", "", 4, func() { a.mount() })
	a.sh("true")
	a.counted("rsync of 1,000 small files, and sync", "PUT", 12, func() {
		a.rsync(copyLimit, source+"/", a.at("tree")+"/")
		a.sync()
	})
	a.umount() // writes the hint; behind a stale one, each commit since costs a request or two
	a.mount()
	b.counted("mount on a new machine", "", 8, func() { b.mount() })
	b.counted("cold ls -lR on the second machine", "", 12, func() {
		if n := strings.Count(b.sh("ls -lR tree"), ".dat\n"); n != 1000 {
			t.Errorf("it lists %d files", n)
		}
	})
	b.quietly("warm ls -lR", func() {
		if n := strings.Count(b.sh("ls -lR tree"), ".dat\n"); n != 1000 {
			t.Errorf("it lists %d files", n)
		}
	})
	eventually(t, stepLimit, "a knows of b's device", func() error {
		if x, y := a.status()["head"], b.status()["head"]; x != y {
			return fmt.Errorf("a is at %v, b at %v", x, y)
		}
		return nil
	})
	a.quietCommits()
	b.umount()
	a.lostRace(b)
	b.mount()
	// Reading everything is a matter of packs, not of files.
	b.counted("cold reading of all 1,000 files", "", 40, func() { b.sh("cat $(find tree -type f) | wc -c") })
	b.quietly("warm reading of all 1,000 files", func() { b.sh("cat $(find tree -type f) | wc -c") })
	b.identical(copyLimit, source+"/", b.at("tree")+"/")
	a.umount()
	a.counted("mount of a tree of 1,000 files", "", 4, func() { a.mount() })
	b.umount()
	b.counted("mount again", "", 4, func() { b.mount() })
	b.quietly("ls -lR after mounting again, from the cache", func() { b.sh("ls -lR tree") })
}

// lostRace lets another machine take the slot that this one is about to write:
// beyond what a quiet commit costs, that is at most four requests.
func (m *Machine) lostRace(other *Machine) {
	m.w.t.Helper()
	m.sh("mkdir mine theirs")
	m.sync()
	other.mount()
	m.counted("a commit that loses a race", "", 3+4, func() {
		m.sh("echo x > mine/file")
		other.sh("echo x > theirs/file")
		other.sync()
		m.sync()
	})
	if n := m.meter.Count("PUT", s3meter.Log); n != 2 {
		m.w.t.Errorf("no race was lost: %d attempts at a slot", n)
	}
	other.umount()
}

// quietly allows no request but the asking for the next slot, which goes on
// all the time and has nothing to do with what is done.
func (m *Machine) quietly(what string, do func()) {
	m.w.t.Helper()
	m.meter.Reset()
	do()
	m.w.t.Logf("%-48s %s", what, m.meter.Summary())
	for _, r := range m.meter.Requests() {
		if r.Class != s3meter.Log || r.Verb != "GET" || r.Status != 404 {
			m.w.t.Errorf("%s: %s %s %s", what, r.Verb, r.Class, r.Path)
		}
	}
}

// quietCommits makes small changes and lets the committer's pause pass: each commit is
// one pack and one slot.
func (m *Machine) quietCommits() {
	m.w.t.Helper()
	for _, change := range []string{"echo x > small", "echo y >> small", "mkdir sub; echo z > sub/z", "rm small", "chmod 700 sub"} {
		m.counted("a quiet commit: "+change, "PUT", 2, func() {
			m.sh(change)
			m.sync()
		})
		puts := map[s3meter.Class]int{s3meter.Pack: m.meter.Count("PUT", s3meter.Pack), s3meter.Log: m.meter.Count("PUT", s3meter.Log)}
		if puts[s3meter.Pack] != 1 || puts[s3meter.Log] != 1 {
			m.w.t.Errorf("%s: a commit is one pack and one slot: %v", change, puts)
		}
	}
	m.counted("a sync with nothing to store", "PUT", 0, func() { m.sync() })
}
