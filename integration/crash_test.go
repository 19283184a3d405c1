//go:build linux

package integration

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"kist/integration/s3meter"

	"golang.org/x/sys/unix"
)

// acker runs ackChild and counts what it was acknowledged.
type acker struct {
	m    *Machine
	p    *process
	path string // its output
}

func (m *Machine) acker(dir string, count int) *acker {
	m.w.t.Helper()
	path := filepath.Join(m.w.dir, fmt.Sprint("acks-", time.Now().UnixNano()))
	c := m.childCommand(stepLimit, "ack", m.at(dir), fmt.Sprint(count), path)
	m.w.ok(os.WriteFile(path, nil, 0o666))
	m.w.ok(os.Chmod(path, 0o666))
	return &acker{m, m.background(c), path}
}

// count is how many numbers have been acknowledged by now.
func (a *acker) count() int {
	raw, err := os.ReadFile(a.path)
	a.m.w.ok(err)
	return bytes.Count(raw, []byte("\n"))
}

func (a *acker) await(n int) int {
	a.m.w.t.Helper()
	eventually(a.m.w.t, stepLimit, fmt.Sprint(n, " acknowledgements"), func() error {
		if got := a.count(); got < n {
			return fmt.Errorf("only %d", got)
		}
		return nil
	})
	return a.count()
}

// TestKill kills the daemon while a client is being acknowledged one thing
// after another, several times over; nothing acknowledged may be missing, here
// after a mount and elsewhere after a sync.
func TestKill(t *testing.T) {
	eachStore(t, func(t *testing.T, w *World) {
		a := w.first("a")
		a.mount()
		var counts []int
		for round, atLeast := range []int{1, 9, 40, 23} {
			dir := fmt.Sprint("round", round)
			a.sh("mkdir " + dir)
			acks := a.acker(dir, 100000)
			n := acks.await(atLeast)
			a.crash()
			r, err := acks.p.wait(stepLimit)
			if err != nil || r.code == 0 {
				t.Fatalf("the client of a dead daemon: %v, %v", r, err)
			}
			n = max(n, acks.count())
			if r := a.try(stepLimit, "ls"); r.code == 0 {
				t.Errorf("a dead mount answers: %v", r)
			}
			if round == 2 { // umount knows dead mounts, and so does mount
				a.must("umount", a.mnt)
			}
			a.mount()
			counts = append(counts, n)
			a.child(stepLimit, "acked", a.at(dir), fmt.Sprint(n))
		}
		a.sync()
		b := w.join("b")
		b.mount()
		for round, n := range counts {
			b.child(stepLimit, "acked", b.at(fmt.Sprint("round", round)), fmt.Sprint(n))
		}
		t.Logf("acknowledged before each kill: %v", counts)
	})
}

// TestUnasked writes without any fsync: it is in the journal within a second.
func TestUnasked(t *testing.T) {
	eachStore(t, func(t *testing.T, w *World) {
		a := w.first("a")
		a.mount()
		a.sh("mkdir d; echo unasked > d/file; ln d/file d/link; printf x >> d/file")
		// The second is the promise under test; half of one is for this machine.
		time.Sleep(1500 * time.Millisecond)
		a.crash()
		a.mount()
		if got := a.sh("cat d/file d/link"); got != "unasked\nxunasked\nx" {
			t.Errorf("a second later the journal must hold it: %q", got)
		}
	})
}

// TestFsyncStore mounts with --fsync=store: what was acknowledged is in a
// commit, and another machine sees it without this one's help.
func TestFsyncStore(t *testing.T) {
	eachStore(t, func(t *testing.T, w *World) {
		a := w.first("a")
		b := w.join("b")
		a.mount("--fsync=store")
		a.sh("mkdir d; echo before > d/other")
		acks := a.acker("d", 7)
		if r, err := acks.p.wait(2 * stepLimit); err != nil || r.code != 0 {
			t.Fatalf("%v, %v", r, err)
		}
		killPid(a.daemon())
		b.mount()
		b.child(stepLimit, "acked", b.at("d"), "7")
	})
}

// disk puts a machine's state folder on a file system of its own, whose image
// is what a power failure would leave.
type disk struct {
	m     *Machine
	image string
}

func (m *Machine) onDisk() *disk {
	m.w.t.Helper()
	d := &disk{m, filepath.Join(m.dir, "disk.img")}
	m.w.ok(os.WriteFile(d.image, nil, 0o600))
	m.w.ok(os.Truncate(d.image, 512<<20))
	d.command("mkfs.ext4", "-q", "-F", d.image)
	m.w.ok(os.MkdirAll(m.home, 0o700))
	d.attach(d.image)
	m.w.t.Cleanup(func() { unix.Unmount(m.home, 0) })
	return d
}

// attach mounts an image; nothing is written back unless something asks for it.
func (d *disk) attach(image string) {
	d.m.w.t.Helper()
	d.command("mount", "-o", "loop,commit=600", image, d.m.home)
}

func (d *disk) command(argv ...string) {
	d.m.w.t.Helper()
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		d.m.w.t.Fatalf("%q: %v: %s", argv, err, out)
	}
}

// photograph copies what is on the disk now. The daemon is stopped meanwhile,
// and two copies must be the same, so that none shows two moments.
func (d *disk) photograph() string {
	d.m.w.t.Helper()
	pid := d.m.daemon()
	d.m.w.ok(unix.Kill(pid, unix.SIGSTOP))
	first, second := d.image+".1", d.image+".2"
	eventually(d.m.w.t, stepLimit, "the disk stands still", func() error {
		for _, to := range []string{first, second} {
			if out, err := exec.Command("cp", "--sparse=always", d.image, to).CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
		}
		if err := exec.Command("cmp", "-s", first, second).Run(); err != nil {
			return errors.New("two copies differ")
		}
		return nil
	})
	return first
}

// TestPowerCut cuts the power: of the local disk only what was written through
// to it is left.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{onDir, onS3} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, kind)
			a := w.machine("a")
			d := a.onDisk()
			a.init()
			a.mount()
			a.sh("mkdir d e; echo in the store > e/file")
			a.sync()
			acks := a.acker("d", 100000)
			// What nobody synced is the proof that the power is really cut.
			w.ok(os.WriteFile(filepath.Join(a.home, "unsynced"), []byte("lost"), 0o600))
			n := acks.await(60)
			image := d.photograph()
			killPid(a.daemon())
			acks.p.wait(stepLimit)
			w.ok(unix.Unmount(a.mnt, 0))
			eventually(t, stepLimit, "detaching the disk", func() error { return unix.Unmount(a.home, 0) })
			d.attach(image)
			if raw, err := os.ReadFile(filepath.Join(a.home, "unsynced")); err == nil && len(raw) > 0 {
				t.Fatal("what was never synced is still there: this was no power failure")
			}
			a.mount()
			a.child(stepLimit, "acked", a.at("d"), strconv.Itoa(n))
			if got := a.sh("cat e/file"); got != "in the store\n" {
				t.Errorf("%q", got)
			}
			a.sh("echo on we go > f")
			a.sync()
			b := w.join("b")
			b.mount()
			b.child(stepLimit, "acked", b.at("d"), strconv.Itoa(n))
			if got := b.sh("cat f"); got != "on we go\n" {
				t.Errorf("%q", got)
			}
			a.umount()
			b.umount()
			w.check()
			w.ok(unix.Unmount(a.home, 0))
			w.machines = w.machines[1:] // its state folder is gone with the disk
		})
	}
}

// TestLostAnswer loses the answer to a commit, lets another machine commit on
// top of it, and kills the first: each operation has taken effect once.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onS3, metered)
	a, b := two(w)
	a.sh("echo begin > log; mkdir d; echo x > d/file")
	agree(w, a, b)
	for round := range 3 {
		lost := a.meter.Add(s3meter.Rule{Verb: "PUT", Class: s3meter.Log, Times: 1, Act: s3meter.Lose})
		after := a.meter.Add(s3meter.Rule{From: lost, Act: s3meter.Drop})
		a.sh(fmt.Sprintf("echo a%[1]d >> log; sync log; mv d/file d/moved; mv d/moved d/file; echo %[1]d > by-a%[1]d", round))
		eventually(t, stepLimit, "the lost answer", func() error {
			if a.meter.Hits(lost) == 0 {
				return errors.New("no commit was tried")
			}
			return nil
		})
		b.shows(seen, fmt.Sprintf("grep -c a%d log", round), "1")
		b.sh(fmt.Sprintf("echo b%d >> log", round))
		b.sync()
		if round > 0 {
			a.crash()
		}
		a.meter.Remove(after)
		a.meter.Remove(lost)
		if round > 0 {
			a.mount()
		}
		agree(w, a, b)
		lines := strings.Fields(a.sh("cat log"))
		if len(lines) != 1+2*(round+1) || !ordered(lines, "a") || !ordered(lines, "b") {
			t.Errorf("round %d: each line must be there once: %q", round, lines)
		}
		if odd := a.sh("find . -name '*conflict*'"); odd != "" {
			t.Errorf("round %d: conflicts with oneself: %q", round, odd)
		}
	}
}

// TestBadLine lets requests fail, answers get lost, and bodies arrive damaged
// or short, now and then, while two machines work: it costs time, nothing else.
func TestBadLine(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onS3, metered)
	a, b := two(w)
	a.sh("mkdir of-a of-b")
	agree(w, a, b)
	trouble := []s3meter.Rule{
		{Verb: "PUT", Class: s3meter.Pack, After: 1, Times: 2, Act: s3meter.Refuse},
		{Verb: "PUT", Class: s3meter.Pack, After: 3, Times: 1, Act: s3meter.Lose},
		{Verb: "PUT", Class: s3meter.Log, After: 1, Times: 1, Act: s3meter.Lose},
		{Verb: "PUT", Class: s3meter.Log, After: 4, Times: 1, Act: s3meter.Refuse},
		{Verb: "GET", Class: s3meter.Log, After: 6, Times: 1, Act: s3meter.Flip},
		{Verb: "GET", Class: s3meter.Log, After: 14, Times: 1, Act: s3meter.Shorten},
		{Verb: "GET", Class: s3meter.Pack, After: 2, Times: 1, Act: s3meter.Flip},
		{Verb: "GET", Class: s3meter.Pack, After: 4, Times: 1, Act: s3meter.Shorten},
		{Verb: "GET", Class: s3meter.Log, After: 20, Times: 1, Act: s3meter.Drop},
	}
	rules := map[*s3meter.Rule]*s3meter.Meter{}
	for _, r := range trouble {
		rules[a.meter.Add(r)], rules[b.meter.Add(r)] = a.meter, b.meter
	}
	for i := range 8 {
		a.sh(fmt.Sprintf("head -c 40000 /dev/urandom > of-a/%d; cat of-b/* > /dev/null 2>&1 || true", i))
		b.sh(fmt.Sprintf("head -c 40000 /dev/urandom > of-b/%d; cat of-a/* > /dev/null 2>&1 || true", i))
		a.sync()
		b.sync()
	}
	acted := 0
	for r, meter := range rules {
		acted += meter.Remove(r)
	}
	if acted < 8 {
		t.Errorf("only %d requests met trouble", acted)
	}
	agree(w, a, b)
	if n := strings.TrimSpace(a.sh("ls of-a of-b | grep -c '^[0-9]'")); n != "16" {
		t.Errorf("%s of 16 files", n)
	}
}

// TestLies lets every answer of one kind arrive with one bit turned, or short:
// what is read is right or an error, and afterwards everything is as it was.
func TestLies(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onS3, metered)
	a := w.first("a")
	a.mount()
	a.sh("mkdir d; for i in $(seq 40); do head -c $((i * 3000)) /dev/urandom > d/$i; done; sha256sum d/* > sums")
	a.umount()
	b := w.join("b")
	b.mount()
	b.umount()
	for _, act := range []s3meter.Act{s3meter.Flip, s3meter.Shorten} {
		for _, class := range []s3meter.Class{s3meter.Pack, s3meter.Log, s3meter.Identity, s3meter.Header} {
			caches, err := filepath.Glob(b.home + "/*/cache")
			w.ok(err)
			for _, dir := range caches {
				w.ok(os.RemoveAll(dir))
			}
			lie := b.meter.Add(s3meter.Rule{Verb: "GET", Class: class, Act: act})
			r := b.kist("mount", b.store(), b.mnt)
			if class == s3meter.Header && r.code == exitDone {
				t.Errorf("act %d on %s: mounted with a header that does not verify", act, class)
			}
			if r.code == exitDone {
				r := b.try(2*stepLimit, "sha256sum -c sums")
				if class == s3meter.Pack && r.code == 0 {
					t.Errorf("act %d on %s: everything reads well through a line that spoils everything", act, class)
				}
				if strings.Contains(r.out, "computed checksum did NOT match") || strings.Contains(r.out, ": FAILED\n") {
					t.Errorf("act %d on %s: wrong data: %v", act, class, r)
				}
			}
			t.Logf("act %d on %-8s: mount exits %d, %d answers spoiled", act, class, r.code, b.meter.Remove(lie))
			if r.code != exitDone {
				b.mount()
			}
			eventually(t, stepLimit, "everything reads well", func() error {
				if r := b.try(stepLimit, "sha256sum --quiet -c sums"); r.code != 0 {
					return errors.New(r.String())
				}
				return nil
			})
			b.umount()
		}
	}
}
