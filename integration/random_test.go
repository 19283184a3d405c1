//go:build linux

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestTwin does random things to a drive and to a local directory, unmounts,
// crashes or just goes on between the rounds, and compares all the time; see
// twin_test.go. KIST_CAMPAIGN makes it long.
func TestTwin(t *testing.T) {
	long, seed, err := campaign()
	if err != nil {
		t.Fatal(err)
	}
	eachStore(t, func(t *testing.T, w *World) {
		t.Logf("KIST_SEED=%d", seed)
		model := filepath.Join(w.dir, "model")
		w.ok(os.Mkdir(model, 0o755))
		a := w.first("a")
		a.mount()
		a.sh("mkdir real; chmod 755 real")
		round := uint64(0)
		for begun := time.Now(); round < 4 || time.Since(begun) < long; round++ {
			last := "leave"
			if round%4 == 1 {
				last = "fsync"
			}
			a.child(2*stepLimit, "twin", model, a.at("real"), fmt.Sprint(seed+round), "250", last)
			switch round % 4 {
			case 0:
				a.remount()
			case 1:
				a.crash()
				a.mount()
			case 2:
				a.sync()
			}
			a.child(stepLimit, "compare", model, a.at("real"), "dense")
		}
		a.sync()
		b := w.join("b")
		b.mount()
		b.child(stepLimit, "compare", model, b.at("real"), "dense")
		t.Logf("%d rounds", round)
	})
}

// TestTwinNotices shows, on plain directories, that like directories pass a
// twin run and that a difference in content, name or behaviour ends it.
func TestTwinNotices(t *testing.T) {
	t.Parallel()
	if err := requireMachine(); err != nil {
		t.Fatal(err)
	}
	const seed = "42"
	run := func(model, real string) error {
		c := exec.Command(suite.self, model, real, seed, "400", "fsync")
		c.Env = append(os.Environ(), childVar+"=twin")
		out, err := c.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	pair := func() (string, string) {
		model, real := t.TempDir(), t.TempDir()
		if err := run(model, real); err != nil {
			t.Fatalf("two plain directories: %v", err)
		}
		return model, real
	}
	for what, change := range map[string]func(real string) error{
		"before the first step": func(real string) error {
			return anyFile(real, func(p string) error { return keepTimes(p, flipMiddle) })
		},
		"only in the first": func(real string) error { return anyFile(real, os.Remove) },
		"the drive says":    func(real string) error { return os.Chmod(real, os.ModeSetgid|0o755) },
	} {
		model, real := pair()
		if what == "the drive says" { // a group that passes on changes what steps say
			if err := os.Chown(real, -1, 4711); err != nil {
				t.Fatal(err)
			}
			model, real = emptied(t, model), emptied(t, real)
		}
		if err := change(real); err != nil {
			t.Fatal(err)
		}
		if err := run(model, real); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("must be noticed with %q: %v", what, err)
		}
	}
}

func emptied(t *testing.T, dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// anyFile applies a change to the first file of a tree that has content.
func anyFile(root string, change func(path string) error) error {
	tree, err := snapshot(root)
	if err != nil {
		return err
	}
	for path, r := range tree {
		if r.size > 0 && r.target == "" {
			return change(filepath.Join(root, path))
		}
	}
	return fmt.Errorf("no file in %d names", len(tree))
}

func flipMiddle(path string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	raw[len(raw)/2] ^= 1
	return os.WriteFile(path, raw, 0)
}
