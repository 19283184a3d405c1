//go:build linux

package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// copyLimit is the deadline of copying a source tree.
const copyLimit = 5 * time.Minute

// identical lets rsync find a difference between two directories; both must
// end with a slash.
func (m *Machine) identical(limit time.Duration, from, to string) {
	m.w.t.Helper()
	r := m.run(m.shell(limit, "cd / && rsync -aHAXnic --delete '"+from+"' '"+to+"'"))
	if r.code != 0 || r.out != "" {
		m.w.t.Fatalf("machine %s: rsync finds %s and %s different: %v", m.name, from, to, r)
	}
}

func (m *Machine) rsync(limit time.Duration, from, to string) {
	m.w.t.Helper()
	if r := m.run(m.shell(limit, "cd / && rsync -aHAX '"+from+"' '"+to+"'")); r.code != 0 {
		m.w.t.Fatalf("machine %s: %v", m.name, r)
	}
}

// TestCopyNotices shows that identical can fail, on plain directories.
func TestCopyNotices(t *testing.T) {
	t.Parallel()
	if err := requireMachine(); err != nil {
		t.Fatal(err)
	}
	a, b := t.TempDir(), t.TempDir()
	if err := makeTree(a); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("rsync", "-aHAX", a+"/", b+"/").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	dry := func() string {
		out, err := exec.Command("rsync", "-aHAXnic", "--delete", a+"/", b+"/").CombinedOutput()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	if out := dry(); out != "" {
		t.Errorf("a copy by rsync itself differs: %s", out)
	}
	for _, change := range []func() error{
		func() error {
			return keepTimes(filepath.Join(b, "plain"), func(p string) error { return os.WriteFile(p, []byte("PLAIN\n"), 0) })
		},
		func() error { return os.Remove(filepath.Join(b, longName)) },
		func() error { return os.Mkdir(filepath.Join(b, "more"), 0o755) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if dry() == "" {
			t.Error("rsync did not notice")
		}
		exec.Command("rsync", "-aHAXc", "--delete", a+"/", b+"/").Run()
	}
}

// TestManyEntries makes a directory of 100,000 entries and lists it elsewhere.
func TestManyEntries(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onDir, unraced)
	a := w.first("a")
	a.mount()
	a.sh("mkdir d")
	a.child(copyLimit, "entries", a.at("d"), "100000")
	const script = "ls -U d | wc -l; ls d | sort | sha256sum; test -e d/entry-099999; test ! -e d/entry-100000"
	want := a.sh(script)
	if !strings.HasPrefix(strings.TrimSpace(want), "100000\n") {
		t.Errorf("the listing is %q", want)
	}
	a.sync()
	b := w.join("b")
	b.mount()
	if got := b.sh(script); got != want {
		t.Errorf("elsewhere %q, here %q", got, want)
	}
	b.sh("rm d/entry-050000; mv d/entry-000001 d/entry-100000; ls -l d | tail -1 > /dev/null")
	b.sync()
	a.shows(2*seen, "ls d | wc -l; ls d | tail -1; test ! -e d/entry-000001; test ! -e d/entry-050000 && echo gone", "99999\nentry-100000\ngone")
	a.sh("rm -r d")
}

// TestCopyMadeTree carries the tree made for it in by rsync, makes it a second
// time in the mount itself, and reads both on another machine.
func TestCopyMadeTree(t *testing.T) {
	eachStore(t, func(t *testing.T, w *World) {
		source := filepath.Join(w.dir, "source")
		w.ok(os.Mkdir(source, 0o755))
		w.ok(makeTree(source))
		a := w.first("a")
		a.mount()
		a.rsync(copyLimit, source+"/", a.at("copied")+"/")
		a.identical(copyLimit, source+"/", a.at("copied")+"/")
		a.child(stepLimit, "compare", source, a.at("copied"), "dense")
		a.sh("mkdir made")
		a.child(stepLimit, "make-tree", a.at("made"))
		a.child(stepLimit, "compare", source, a.at("made"))
		a.sync()

		b := w.join("b")
		b.mount()
		for dir, how := range map[string]string{"copied": "dense", "made": "exact"} {
			b.identical(copyLimit, source+"/", b.at(dir)+"/")
			b.child(stepLimit, "compare", source, b.at(dir), how)
		}
		out := filepath.Join(w.dir, "out")
		w.ok(os.Mkdir(out, 0o755))
		b.rsync(copyLimit, b.at("copied")+"/", out+"/")
		if err := compareWith(source, out, false); err != nil {
			t.Errorf("carried out again: %v", err)
		}
		// In a second pass rsync finds nothing to do, and in a mount made anew
		// everything is as it was.
		b.remount()
		b.child(stepLimit, "compare", source, b.at("copied"), "dense")
		a.sh("rm -rf made")
		a.remount()
		a.child(stepLimit, "compare", source, a.at("copied"), "dense")
	})
}

// goRoot is where the Go toolchain that runs the tests keeps its source.
func goRoot(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// TestCopyGoTree carries Go's own source: on a directory a part of it, on S3
// all of it.
func TestCopyGoTree(t *testing.T) {
	eachStore(t, func(t *testing.T, w *World) {
		source := filepath.Join(goRoot(t), "src")
		if w.kind == onDir {
			source = filepath.Join(source, "crypto")
		}
		a := w.first("a")
		a.mount()
		a.rsync(copyLimit, source+"/", a.at("src")+"/")
		a.sync()
		b := w.join("b")
		b.mount("--cache-size", "24M") // less than there is to read
		b.identical(copyLimit, source+"/", b.at("src")+"/")
		out := filepath.Join(w.dir, "out")
		b.rsync(copyLimit, b.at("src")+"/", out+"/")
		if err := compareWith(source, out, false); err != nil {
			t.Errorf("carried out again: %v", err)
		}
		if n := strings.Count(b.sh("find src -type f"), "\n"); n < 200 {
			t.Errorf("only %d files: this was no source tree", n)
		}
	}, unraced)
}
