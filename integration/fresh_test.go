//go:build linux

package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestRollback takes the newest commits away from a store that machines have
// seen further: every verb refuses, naming both sequences, and serves nothing.
func TestRollback(t *testing.T) {
	eachStore(t, func(t *testing.T, w *World) {
		w.lawless = true // the store ends rolled back behind the first machine
		a := w.first("a")
		a.mount()
		a.sh("echo old > file")
		a.umount()
		w.save("old")
		old := w.sequence()
		a.mount()
		a.sh("echo new > file")
		a.sync()
		a.sh("echo newer > file")
		a.umount()
		seen := w.sequence()
		w.save("new")
		if old >= seen {
			t.Fatalf("nothing was committed between %d and %d", old, seen)
		}
		// Only the newest slot, then all of the newer state.
		slots := w.slots()
		w.ok(os.Remove(w.path(slots[len(slots)-1])))
		a.refusesBack(seen-1, seen)
		w.restore("old")
		a.refusesBack(old, seen)
		b := w.machine("b") // a machine without memory can't know
		b.importFrom(a)
		b.mount()
		if got := b.sh("cat file"); got != "old\n" {
			t.Errorf("%q", got)
		}
		b.umount()
		// Back where it was, everything is in order.
		w.restore("new")
		a.mount()
		if got := a.sh("cat file"); got != "newer\n" {
			t.Errorf("%q", got)
		}
		a.umount()
		w.check()
		b.refused(exitRefused, nil, "mount", w.storeAt(""), b.mnt) // it was on a branch
	})
}

// refusesBack expects mount and check to refuse a store that shows one sequence
// where another was seen.
func (m *Machine) refusesBack(shown, seen uint64) {
	m.w.t.Helper()
	words := []string{fmt.Sprint(shown), fmt.Sprint(seen)}
	m.refused(exitRefused, words, "mount", m.w.storeAt(""), m.mnt)
	if r := m.kist("check", m.w.storeAt("")); r.code != exitRefused || !strings.Contains(r.err+r.out, words[0]) || !strings.Contains(r.err+r.out, words[1]) {
		m.w.t.Errorf("check must exit %d and name %v: %v", exitRefused, words, r)
	}
	if m.mounted() {
		m.w.t.Fatal("refused, yet mounted")
	}
}

// TestFork shows each of two machines another history.
func TestFork(t *testing.T) {
	eachStore(t, func(t *testing.T, w *World) {
		w.lawless = true
		a := w.first("a")
		b := w.join("b")
		a.mount()
		a.sh("echo common > file")
		a.umount()
		b.mount()
		b.sh("cat file")
		b.umount()
		w.save("common")
		a.mount()
		a.sh("echo by a > file")
		a.umount()
		w.save("a")
		w.restore("common")
		b.mount()
		b.sh("echo by b > file")
		b.umount()
		w.save("b")
		seq := fmt.Sprint(w.sequence())
		r := a.refused(exitRefused, []string{seq}, "mount", w.storeAt(""), a.mnt)
		if hashes := regexp.MustCompile(`\b[0-9a-f]{8,64}\b`).FindAllString(r.err, -1); len(hashes) < 2 || hashes[0] == hashes[1] {
			t.Errorf("a fork must be named by two hashes: %v", r)
		}
		w.restore("a")
		b.refused(exitRefused, []string{seq}, "mount", w.storeAt(""), b.mnt)
		a.mount() // its own branch
		if got := a.sh("cat file"); got != "by a\n" {
			t.Errorf("%q", got)
		}
	})
}

// TestForkWhileMounted swaps the branch under a mount: it stops following.
func TestForkWhileMounted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onDir)
	w.lawless = true
	a := w.first("a")
	b := w.join("b")
	a.mount()
	a.sh("echo common > file")
	a.sync()
	b.mount()
	b.shows(seen, "cat file", "common")
	b.umount()
	w.save("common")
	a.sh("echo by a > file")
	a.sync()
	w.restore("common")
	b.mount()
	for i := range 4 { // longer than a's branch
		b.sh(fmt.Sprintf("echo by b%d > file", i))
		b.sync()
	}
	// a asks for the slot after its own and gets one of the other branch.
	eventually(t, stepLimit, "the status of a names the trouble", func() error {
		if s := a.status(); fmt.Sprint(s["problems"]) == "[]" {
			return fmt.Errorf("it says %v", s)
		}
		return nil
	})
	if got := a.sh("cat file"); got != "by a\n" {
		t.Errorf("a shows another history: %q", got)
	}
	a.try(stepLimit, "echo more by a >> file") // taken or refused, but never b's
	a.refused(exitRefused, nil, "sync", "--timeout", "20s", a.mnt)
	if r := a.kist("umount", "--no-drain", a.mnt); r.code != exitDone && r.code != exitRefused || a.mounted() {
		t.Errorf("it must be possible to leave: %v", r)
	}
	a.refused(exitRefused, nil, "mount", w.storeAt(""), a.mnt)
}

// TestTrustFile deletes, damages and restores what a machine remembers.
func TestTrustFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onDir)
	a := w.first("a")
	a.mount()
	a.sh("echo one > file")
	a.umount()
	yesterday, then := a.trustFiles(), w.sequence()
	a.mount()
	a.sh("echo two > file")
	a.umount()
	today, now := a.trustFiles(), w.sequence()

	a.setTrust(nil)
	a.refused(exitRefused, []string{"kist trust reset"}, "mount", w.storeAt(""), a.mnt)
	a.setTrust(yesterday)
	for range 2 { // it is not brought up to date by being refused
		a.refused(exitRefused, []string{fmt.Sprint(then), fmt.Sprint(now), "kist trust reset"}, "mount", w.storeAt(""), a.mnt)
	}
	damaged := map[string][]byte{}
	for name, raw := range today {
		damaged[name] = flipped(raw, len(raw)/2)
	}
	a.setTrust(damaged)
	a.refused(exitRefused, nil, "mount", w.storeAt(""), a.mnt)
	// One copy of two is enough.
	half := map[string][]byte{}
	for name, raw := range today {
		if half[name] = raw; len(half) == 1 {
			half[name] = flipped(raw, len(raw)/2)
		}
	}
	a.setTrust(half)
	a.mount()
	a.umount()

	a.setTrust(yesterday)
	a.refused(exitRefused, nil, "mount", w.storeAt(""), a.mnt)

	// The way out needs a terminal or the head by name, and is on record.
	a.setTrust(nil)
	a.refused(exitUsage, nil, "trust", "reset", w.storeAt(""))
	a.refused(exitRefused, nil, "trust", "reset", "--head", strings.Repeat("0", 16), w.storeAt(""))
	a.refused(exitRefused, nil, "mount", w.storeAt(""), a.mnt)
	b := w.machine("b")
	b.importFrom(a)
	b.mount()
	before := w.sequence()
	head := b.head()
	b.umount()
	if after := w.sequence(); after != before {
		t.Fatalf("a quiet umount made commits: %d, %d", before, after)
	}
	a.must("trust", "reset", "--head", head, w.storeAt(""))
	a.mount()
	if got := a.sh("cat file"); got != "two\n" {
		t.Errorf("%q", got)
	}
	a.sync()
	if w.sequence() <= before {
		t.Error("the reset is not recorded in the log")
	}
}

// head is the hash of the newest commit that the mount knows.
func (m *Machine) head() string {
	m.w.t.Helper()
	said := fmt.Sprint(m.status()["head"])
	hash := regexp.MustCompile(`\(([0-9a-f]{8,64})\)`).FindStringSubmatch(said)
	if hash == nil {
		m.w.t.Fatalf("the status names no head: %q", said)
	}
	return hash[1]
}

// trustFiles reads the copies of what a machine remembers.
func (m *Machine) trustFiles() map[string][]byte {
	m.w.t.Helper()
	files := map[string][]byte{}
	paths, err := filepath.Glob(m.home + "/*/trust*")
	m.w.ok(err)
	for _, path := range paths {
		files[path], err = os.ReadFile(path)
		m.w.ok(err)
	}
	if len(files) != 2 {
		m.w.t.Fatalf("the trust file has %d copies, want 2", len(files))
	}
	return files
}

func (m *Machine) setTrust(files map[string][]byte) {
	m.w.t.Helper()
	paths, err := filepath.Glob(m.home + "/*/trust*")
	m.w.ok(err)
	for _, path := range paths {
		m.w.ok(os.Remove(path))
	}
	for path, raw := range files {
		m.w.ok(os.WriteFile(path, raw, 0o600))
	}
}

// TestRestoredHome brings a state folder back from yesterday's backup.
func TestRestoredHome(t *testing.T) {
	eachStore(t, func(t *testing.T, w *World) {
		a := w.first("a")
		a.mount()
		a.sh("echo one > file; echo l1 >> log")
		a.umount()
		w.copyTree(a.home, a.home+".yesterday")
		a.mount()
		a.sh("echo two > file; echo l2 >> log")
		a.umount()
		w.ok(os.RemoveAll(a.home))
		w.ok(os.Rename(a.home+".yesterday", a.home))
		a.refused(exitRefused, []string{"kist id device new"}, "mount", w.storeAt(""), a.mnt)
		a.must("id", "device", "new")
		a.mount()
		a.sh("echo l3 >> log")
		if got := a.sh("cat file log; ls"); got != "two\nl1\nl2\nl3\nfile\nlog\n" {
			t.Errorf("each line once, nothing lost: %q", got)
		}
		b := w.join("b")
		a.sync()
		b.mount()
		if got := b.sh("cat log; ls"); got != "l1\nl2\nl3\nfile\nlog\n" {
			t.Errorf("%q", got)
		}
	})
}

// TestClonedHome copies a state folder that holds work not yet in the store,
// and lets original and copy go on.
func TestClonedHome(t *testing.T) {
	eachStore(t, func(t *testing.T, w *World) {
		a := w.first("a")
		a.mount()
		a.sh("echo begin > log")
		a.sync()
		back := w.away()
		a.sh("echo waiting >> log; echo offline > offline; sync log")
		a.must("umount", "--no-drain", a.mnt)
		back()

		c := w.machine("c")
		w.copyTree(a.home, c.home)
		for _, verb := range [][]string{{"mount", c.store(), c.mnt}, {"mount", "--foreground", c.store(), c.mnt}} {
			c.refused(exitRefused, []string{"kist id device new"}, verb...)
		}
		a.mount() // the original is not harmed by having been copied
		a.sh("echo by a >> log")
		a.sync()
		c.must("id", "device", "new", c.store())
		c.mount()
		c.sh("echo by c >> log; echo c > of-c")
		agree(w, a, c)
		if got := a.sh("cat log offline of-c"); got != "begin\nwaiting\nby a\nby c\noffline\nc\n" {
			t.Errorf("each line once: %q", got)
		}
		if odd := c.sh("find . -name '*conflict*'"); odd != "" {
			t.Errorf("conflicts with oneself: %q", odd)
		}
	}, metered)
}

// TestCloneFirst lets the copy go first: what waited in both journals takes
// effect, and nothing is lost.
func TestCloneFirst(t *testing.T) {
	eachStore(t, func(t *testing.T, w *World) {
		a := w.first("a")
		a.mount()
		a.sh("echo begin > log; echo old > changed")
		a.sync()
		back := w.away()
		a.sh("echo offline > offline; echo new > changed; sync changed")
		a.must("umount", "--no-drain", a.mnt)
		back()
		c := w.machine("c")
		w.copyTree(a.home, c.home)
		c.must("id", "device", "new", c.store())
		c.mount()
		c.shows(seen, "cat offline changed", "offline\nnew")
		c.sync()
		a.mount()
		tree := agree(w, a, c)
		for _, m := range []*Machine{a, c} {
			if got := m.sh("cat offline changed log"); got != "offline\nnew\nbegin\n" {
				t.Errorf("machine %s: %q", m.name, got)
			}
		}
		t.Logf("they agreed on\n%s", tree)
	}, metered)
}

// TestSquattedSlot finds junk where the next commit belongs: it is stepped
// over, by everybody alike.
func TestSquattedSlot(t *testing.T) {
	eachStore(t, func(t *testing.T, w *World) {
		a := w.first("a")
		b := w.join("b")
		a.mount()
		a.sh("echo one > file")
		a.umount()
		next := w.sequence() + 1
		slot := filepath.Join(filepath.Dir(w.slots()[0]), fmt.Sprintf("%016x", next))
		junk := append([]byte("KIST"), noise(700, 5)...)
		w.ok(os.WriteFile(w.path(slot), junk, 0o644))
		a.mount()
		a.sh("echo two > file")
		a.sync()
		b.mount()
		b.shows(seen, "cat file", "two")
		if w.sequence() <= next {
			t.Errorf("nothing was written behind the junk at %d", next)
		}
		if raw, err := os.ReadFile(w.path(slot)); err != nil || string(raw) != string(junk) {
			t.Errorf("a slot was healed in place: %v", err)
		}
		agree(w, a, b)
	})
}

// TestWithheldSlot takes a slot out of the middle: check finds it, and no
// machine commits over it.
func TestWithheldSlot(t *testing.T) {
	eachStore(t, func(t *testing.T, w *World) {
		w.ends = exitDamage
		a := w.first("a")
		a.mount()
		for i := range 4 {
			a.sh(fmt.Sprintf("echo %d > file", i))
			a.sync()
		}
		a.umount()
		slots := w.slots()
		middle := w.path(slots[len(slots)-3])
		w.ok(os.Rename(middle, filepath.Join(w.dir, "withheld")))
		r := a.kist("check", w.storeAt(""))
		if r.code != exitDamage {
			t.Errorf("check must exit %d: %v", exitDamage, r)
		}
		b := w.machine("b")
		b.importFrom(a)
		if r := b.kist("mount", w.storeAt(""), b.mnt); r.code == 0 {
			b.sh("echo new > file")
			b.umount()
		}
		if _, err := os.Stat(middle); !errors.Is(err, os.ErrNotExist) {
			t.Error("the withheld slot was written anew")
		}
	})
}

// TestDamage turns one bit of a pack, and one of a commit; the drive says so,
// gives no wrong data, and check finds it.
func TestDamage(t *testing.T) {
	eachStore(t, func(t *testing.T, w *World) {
		a := w.first("a")
		a.mount()
		a.sh("mkdir d; head -c 3000000 /dev/urandom > d/big; echo fine > d/fine; sha256sum d/big > d/sum")
		a.umount()
		w.save("good")
		largest := ""
		objects := w.list()
		for name, raw := range objects {
			if strings.Contains(name, "/packs/") && len(raw) > len(objects[largest]) {
				largest = name
			}
		}
		w.ok(os.WriteFile(w.path(largest), flipped(objects[largest], 1_500_000), 0o644))
		r := a.kist("check", "--read-data", w.storeAt(""))
		if r.code != exitDamage {
			t.Errorf("check must exit %d: %v", exitDamage, r)
		}
		b := w.machine("b")
		b.importFrom(a)
		b.mount()
		if r := b.try(stepLimit, "cat d/fine; cat d/big | sha256sum -c d/sum"); r.code == 0 || !strings.Contains(r.err, "Input/output error") {
			t.Errorf("a damaged file must be an I/O error: %v", r)
		}
		// No error is sticky: repaired, it reads.
		w.ok(os.WriteFile(w.path(largest), objects[largest], 0o644))
		eventually(t, stepLimit, "the repaired file reads", func() error {
			if r := b.try(stepLimit, "sha256sum -c d/sum"); r.code != 0 {
				return errors.New(r.String())
			}
			return nil
		})
		b.umount()
		// The head itself: what was seen is not there any more.
		slots := w.slots()
		head := slots[len(slots)-1]
		w.ok(os.WriteFile(w.path(head), flipped(w.list()[head], 100), 0o644))
		if r := b.kist("mount", w.storeAt(""), b.mnt); r.code != exitRefused {
			t.Errorf("the head that b has seen is damaged: must exit %d: %v", exitRefused, r)
		}
		w.restore("good")
	})
}
