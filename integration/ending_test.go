//go:build linux

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// logged waits for a text in the daemon's log.
func (m *Machine) logged(text string) {
	m.w.t.Helper()
	eventually(m.w.t, stepLimit, "a line in the log", func() error {
		for _, path := range m.logs() {
			if raw, err := os.ReadFile(path); err == nil && strings.Contains(string(raw), text) {
				return nil
			}
		}
		return fmt.Errorf("no log says %q", text)
	})
}

// TestEndings ends a mount in all the ways that leave something in the journal,
// while the store is away; each time the next mount goes on.
func TestEndings(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onDir)
	a := w.first("a")
	want := ""
	for what, end := range map[string]func(){
		"two signals": func() {
			pid := a.daemon()
			w.ok(syscall.Kill(pid, syscall.SIGTERM))
			a.logged("ending on a signal")
			w.ok(syscall.Kill(pid, syscall.SIGTERM))
			a.daemonGone()
			a.logged("code=5")
		},
		"unmounted by others": func() {
			r := a.run(command{argv: []string{"fusermount3", "-u", a.mnt}, dir: a.dir, env: a.environment(), limit: stepLimit})
			if r.code != 0 {
				t.Error(r)
			}
			if r := a.kist("mount", a.mnt); r.code == exitInUse {
				t.Errorf("the daemon that still stores is in the way: %v", r)
			}
		},
		"a crash": func() {
			a.sh("sync endings")
			a.crash()
			if !a.mounted() {
				t.Error("nothing is left to be cleaned up")
			}
		},
		"without a drain": func() {
			if r := a.kist("umount", "--no-drain", a.mnt); r.code != 0 || !strings.Contains(r.err, "are in the journal") {
				t.Errorf("it must say what is left: %v", r)
			}
			a.daemonGone()
		},
	} {
		for _, path := range a.logs() {
			w.ok(os.Truncate(path, 0))
		}
		a.mount()
		a.sh("touch endings; cat endings") // what is needed below is here
		back := w.away()
		a.sh(fmt.Sprintf("echo '%s' >> endings; cat endings", what))
		want += what + "\n"
		end()
		back()
		if !a.mounted() || what == "a crash" {
			a.mount()
		}
		if got := a.sh("cat endings"); got != want {
			t.Errorf("after %s: %q, want %q", what, got, want)
		}
		a.umount()
	}
	if left, err := filepath.Glob(a.home + "/*/control"); err != nil || len(left) > 0 {
		t.Errorf("a socket is left: %v, %v", left, err)
	}
}
