//go:build linux

package integration

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"sort"
	"strings"
	"testing"
	"time"
)

// seen is within what time a machine shows what is in the store: it asks every
// two seconds while anything happens, and the race detector is slow.
const seen = 4 * time.Second

// two is a store with two machines, both mounted.
func two(w *World) (a, b *Machine) {
	w.t.Helper()
	a = w.first("a")
	b = w.join("b")
	a.mount()
	b.mount()
	return a, b
}

// shows waits until a script in the mount prints want, which must be within limit.
func (m *Machine) shows(limit time.Duration, script, want string) time.Duration {
	m.w.t.Helper()
	return eventually(m.w.t, limit, "machine "+m.name+": "+script, func() error {
		if r := m.try(stepLimit, script); strings.TrimSpace(r.out) != strings.TrimSpace(want) {
			return fmt.Errorf("it prints %q (%s), not %q", r.out, strings.TrimSpace(r.err), want)
		}
		return nil
	})
}

// agree brings both machines' changes into the store and waits until both
// show the same tree, which it returns as path → line.
func agree(w *World, a, b *Machine) string {
	w.t.Helper()
	a.sync()
	b.sync()
	a.sync() // what b's conflict made of a's is in the store, too
	const script = `find . -mindepth 1 -printf '%p %y %m %n %s %l %T@\n' | sort; find . -type f | sort | tr '\n' '\0' | xargs -0 -r sha256sum`
	tree := ""
	eventually(w.t, 3*seen, "both machines agree", func() error {
		x, y := a.try(stepLimit, script), b.try(stepLimit, script) // fails where a name goes while it looks
		if tree = x.out; x.out != y.out || x.code != 0 || y.code != 0 {
			return fmt.Errorf("a shows\n%s%s\nb shows\n%s%s", x.out, x.err, y.out, y.err)
		}
		return nil
	})
	return tree
}

// TestSeen changes every kind of thing on one machine and watches it change on
// the other, which has everything in its caches.
func TestSeen(t *testing.T) {
	eachStore(t, func(t *testing.T, w *World) {
		a, b := two(w)
		a.sh("mkdir d d/e; echo one > d/file; echo old > d/over; mkdir gone; echo x > d/e/x; ln -s file d/link")
		a.sync()
		const all = "cat d/file d/over 2>&1 || true; find . | sort; stat -c '%a %u' d/file; readlink d/link; getfattr -d --absolute-names d/file"
		b.shows(seen, "cat d/file d/over", "one\nold")
		for _, change := range []string{
			"echo two, and longer > d/file",
			"echo new > d/fresh; mv d/fresh d/over",
			"chmod 640 d/file; chown 7 d/file",
			"mv d/e d/f",
			"rmdir gone; rm d/over",
			"setfattr -n user.k -v v d/file",
			"ln -sfn f d/link",
			"ln d/file hard",
			"mkdir -p deep/er/still; echo x > deep/er/still/file",
			"rm -r deep",
			"truncate -s 3 d/file",
			"printf tw1 | dd of=d/file conv=notrunc status=none",
		} {
			b.sh(all)
			a.sh(change)
			a.sync()
			took := b.shows(seen, all, a.sh(all))
			t.Logf("%-60s seen after %v", change, took.Round(time.Millisecond))
		}
		// Without a sync the committer's pause comes on top.
		a.sh("echo unasked > d/unasked")
		b.shows(seen+3*time.Second, "cat d/unasked", "unasked")
		// A mapping made before the change shows it, too.
		b.sh("cat d/unasked >/dev/null")
		a.sh("echo UNASKED > d/unasked")
		a.sync()
		b.shows(seen, "cat d/unasked", "UNASKED")
		agree(w, a, b)
	})
}

// conflictName is the form under which a second version is kept.
var conflictName = regexp.MustCompile(`^name \(conflict, ann's [^,()/]+, [0-9]{4}-[0-9]{2}-[0-9]{2}[^()/]*\)\.ext$`)

// apart lets both machines do something without either having seen the other's:
// both are cut from the store until both have done it.
func apart(w *World, a, b *Machine, onA, onB string) {
	w.t.Helper()
	back := w.away()
	a.sh(onA)
	b.sh(onB)
	back()
}

// TestConflicts lets both machines do things that do not fit together.
func TestConflicts(t *testing.T) {
	eachStore(t, func(t *testing.T, w *World) {
		a, b := two(w)
		a.sh(`mkdir -p both changed deleted merged moved appended
			echo common > changed/name.ext; echo common > deleted/name.ext; echo common > moved/x; echo begin > appended/log`)
		agree(w, a, b)
		apart(w, a, b,
			`echo by a > both/name.ext; echo changed by a > changed/name.ext; rm deleted/name.ext; mkdir merged/d; echo a > merged/d/a; mv moved/x moved/by-a
			for i in 1 2 3; do echo a$i >> appended/log; done; echo only a > only-a`,
			`echo by b > both/name.ext; echo changed by b > changed/name.ext; echo kept by b > deleted/name.ext; mkdir merged/d; echo b > merged/d/b; mv moved/x moved/by-b
			for i in 1 2 3; do echo b$i >> appended/log; done; echo only b > only-b`)
		tree := agree(w, a, b)
		t.Logf("they agreed on\n%s", tree)
		w.bothKept(a, "both", "by a", "by b")
		w.bothKept(a, "changed", "changed by a", "changed by b")
		if got := b.sh("cat deleted/*"); !strings.Contains(got, "kept by b") {
			t.Errorf("what b changed while a removed it is gone: %q", got)
		}
		if got := a.sh("ls merged; ls merged/d"); got != "d\na\nb\n" {
			t.Errorf("a directory made twice must be one: %q", got)
		}
		if got := a.sh("cat moved/* | sort -u"); got != "common\n" {
			t.Errorf("what both moved: %q", got)
		}
		if got := a.sh("cat only-a only-b"); got != "only a\nonly b\n" {
			t.Errorf("%q", got)
		}
		lines := strings.Fields(a.sh("cat appended/log"))
		sorted := append([]string(nil), lines...)
		sort.Strings(sorted)
		if strings.Join(sorted, " ") != "a1 a2 a3 b1 b2 b3 begin" || lines[0] != "begin" || !ordered(lines, "a") || !ordered(lines, "b") {
			t.Errorf("appends of both sides must be there once each and in order: %q", lines)
		}
		if got := strings.TrimSpace(a.sh("ls appended")); got != "log" {
			t.Errorf("appends need no second version: %q", got)
		}
		// One version a file and device, updated in place: going on changes nothing else.
		before := a.sh("find . | sort")
		b.sh("echo more >> only-b")
		agree(w, a, b)
		if after := a.sh("find . | sort"); after != before {
			t.Errorf("new names appeared:\n%s", after)
		}
	}, metered)
}

// ordered says whether one side's numbered lines are in their order.
func ordered(lines []string, side string) bool {
	last := ""
	for _, l := range lines {
		if strings.HasPrefix(l, side) && l != "begin" {
			if l <= last {
				return false
			}
			last = l
		}
	}
	return true
}

// bothKept checks that a directory holds name.ext and one conflict version of
// it, and that together they say x and y.
func (w *World) bothKept(m *Machine, dir, x, y string) {
	w.t.Helper()
	names := strings.Split(strings.TrimSpace(m.sh("ls "+dir)), "\n")
	if len(names) != 2 {
		w.t.Errorf("%s: must hold two versions: %q", dir, names)
		return
	}
	plain, other := 0, 0
	for _, name := range names {
		if name == "name.ext" {
			plain++
		}
		if conflictName.MatchString(name) {
			other++
		}
	}
	if plain != 1 || other != 1 {
		w.t.Errorf("%s: not the agreed form of names: %q", dir, names)
	}
	if got := m.sh("cat " + dir + "/* | sort"); got != x+"\n"+y+"\n" {
		w.t.Errorf("%s: the versions say %q", dir, got)
	}
}

// TestBusyTogether lets both machines write as fast as they can, so that most
// commits are raced for, and finds everything of both.
func TestBusyTogether(t *testing.T) {
	eachStore(t, func(t *testing.T, w *World) {
		a, b := two(w)
		a.sh("mkdir shared of-a of-b; echo begin > shared/log")
		agree(w, a, b)
		work := func(side string) string {
			return fmt.Sprintf(`for i in $(seq 60); do echo %[1]s$i > of-%[1]s/$i; echo %[1]s$(printf %%03d $i) >> shared/log
				mkdir -p shared/d$((i %% 7)); echo %[1]s > shared/d$((i %% 7))/%[1]s$i; test $((i %% 20)) != 0 || sync of-%[1]s/$i; done`, side)
		}
		pa, pb := a.background(a.shell(2*stepLimit, work("a"))), b.background(b.shell(2*stepLimit, work("b")))
		for name, p := range map[string]*process{"a": pa, "b": pb} {
			for i := 0; ; i++ {
				// Syncing all the time makes commits meet.
				a.sync()
				b.sync()
				if r, err := p.wait(time.Millisecond); err == nil {
					if r.code != 0 {
						t.Fatalf("machine %s: %v", name, r)
					}
					break
				} else if !errors.Is(err, errDeadline) || i > 500 {
					a.question()
					b.question()
					t.Fatalf("machine %s: %v", name, err)
				}
			}
		}
		agree(w, a, b)
		if got := a.sh("ls of-a | wc -l; ls of-b | wc -l; cat of-a/* of-b/* | sort -u | wc -l; find shared -path 'shared/d*' -type f | wc -l"); strings.Join(strings.Fields(got), " ") != "60 60 120 120" {
			t.Errorf("files of both sides: %q", got)
		}
		lines := strings.Fields(b.sh("cat shared/log"))
		if len(lines) != 121 || !ordered(lines, "a") || !ordered(lines, "b") {
			t.Errorf("%d lines were appended, want 121 in order: %q", len(lines), lines)
		}
		if odd := a.sh("find . -name '*conflict*'"); odd != "" {
			t.Errorf("nothing here conflicts: %q", odd)
		}
	})
}

// TestOpenFiles keeps files open on one machine while the other removes,
// replaces and moves them.
func TestOpenFiles(t *testing.T) {
	eachStore(t, func(t *testing.T, w *World) {
		a, b := two(w)
		a.sh("mkdir d; echo original > d/kept; echo original > d/moved; echo x > d/own")
		agree(w, a, b)
		own, ownEnd := b.holding("d/own", "unlink")
		kept, keptEnd := b.holding("d/kept")
		// A script of its own keeps reading and writing through its descriptor.
		reader, readerEnd := b.reading("d/moved")
		a.sh("rm d/kept; mv d d2; echo another > d2/kept")
		a.sync()
		b.shows(seen, "cat d2/kept; ls", "another\nd2")
		for _, end := range []func(){ownEnd, keptEnd, readerEnd} {
			end()
		}
		for name, p := range map[string]*process{"own": own, "kept": kept, "reader": reader} {
			r, err := p.wait(stepLimit)
			if err != nil || r.code != 0 {
				t.Errorf("%s: %v, %v", name, r, err)
			}
			if name == "reader" && r.out != "ready\noriginal\n" {
				t.Errorf("the open file reads %q after it was moved elsewhere", r.out)
			}
		}
		agree(w, a, b)
	})
}

// holding keeps a file of the mount open until end is called.
func (m *Machine) holding(path string, how ...string) (p *process, end func()) {
	m.w.t.Helper()
	return m.fed(m.childCommand(stepLimit, "hold", append([]string{m.at(path)}, how...)...))
}

// reading opens a file and reads it only once end is called.
func (m *Machine) reading(path string) (p *process, end func()) {
	m.w.t.Helper()
	return m.fed(m.shell(stepLimit, "exec 3<'"+path+"'; echo ready; cat >/dev/null; cat <&3"))
}

// fed starts a command that opens a file of the mount and goes on until its
// input ends, which end brings about.
func (m *Machine) fed(c command) (p *process, end func()) {
	m.w.t.Helper()
	r, input, err := os.Pipe()
	m.w.ok(err)
	c.stdin = r
	p = m.background(c)
	m.w.ok(r.Close())
	eventually(m.w.t, stepLimit, "the start of a client", func() error {
		if !m.holds(p) {
			return errors.New("it has not opened its file")
		}
		return nil
	})
	return p, func() { input.Close() }
}

// holds says whether a process has a file of the mount open.
func (m *Machine) holds(p *process) bool {
	dir := fmt.Sprintf("/proc/%d/fd/", p.cmd.Process.Pid)
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		target, linkErr := os.Readlink(dir + e.Name())
		if err == nil && linkErr == nil && strings.HasPrefix(target, m.mnt+"/") {
			return true
		}
	}
	return false
}

// TestAway takes the store away while both machines go on, and mounts without it.
func TestAway(t *testing.T) {
	eachStore(t, func(t *testing.T, w *World) {
		a, b := two(w)
		c := w.join("c") // has never mounted
		a.sh("mkdir d; echo cached > d/file; head -c 300000 /dev/urandom > d/big")
		agree(w, a, b)
		want := a.sh("sha256sum d/big")
		b.sh("head -c 300000 /dev/urandom > unread")
		b.sync()
		a.shows(seen, "ls", "d\nunread")
		back := w.away()
		a.sh("echo offline > d/offline; sync d/offline; mv d/file d/renamed; rm d/big; echo line >> d/renamed; mkdir e; echo deep > e/file")
		if got := a.sh("cat d/offline d/renamed e/file"); got != "offline\ncached\nline\ndeep\n" {
			t.Errorf("offline: %q", got)
		}
		r := a.refused(5, nil, "sync", "--timeout", "2s", a.mnt)
		if r.code == 5 && strings.TrimSpace(r.err) == "" {
			t.Error("a sync that gives up must say so")
		}
		a.mustBeAway()
		a.must("umount", "--no-drain", a.mnt)
		c.refused(5, []string{"away"}, "mount", c.store(), c.mnt)
		if r := a.kist("mount", a.store(), a.mnt); r.code != 0 || !strings.Contains(r.err, "the store is away") {
			t.Fatalf("a mount without a store must succeed here and say so: %v", r)
		}
		a.mustBeAway()
		if got := a.sh("cat d/offline d/renamed e/file; ls"); got != "offline\ncached\nline\ndeep\nd\ne\nunread\n" {
			t.Errorf("mounted offline: %q", got)
		}
		if r := a.try(stepLimit, "cat unread"); r.code == 0 || !strings.Contains(r.err, "Input/output error") {
			t.Errorf("reading what is not here: %v", r)
		}
		a.sh("echo again > e/again; sync e/again")
		b.sh("echo theirs > theirs")
		back()
		a.sync()
		b.shows(seen, "cat d/offline d/renamed e/file e/again; ls d", "offline\ncached\nline\ndeep\nagain\noffline\nrenamed")
		b.sync()
		a.shows(seen, "cat theirs; wc -c < unread", "theirs\n300000")
		if s := a.status(); s["store_away"] != nil {
			t.Errorf("back again, and status says %v", s)
		}
		if got := b.try(stepLimit, "sha256sum d/big"); got.out == want {
			t.Error("a file removed offline is back")
		}
		agree(w, a, b)
	}, metered)
}

// mustBeAway expects the status to say that the store does not answer.
func (m *Machine) mustBeAway() {
	m.w.t.Helper()
	eventually(m.w.t, stepLimit, "the status says that the store is away", func() error {
		if s := m.status(); s["store_away"] == nil {
			return fmt.Errorf("it says %v", s)
		}
		return nil
	})
}
