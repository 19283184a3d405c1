//go:build linux

package integration

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestTruth asks a drive where things are: stored, waiting while the store is
// away, and put aside because they were damaged.
func TestTruth(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onDir)
	a := w.first("a")
	state := func(path, want string) {
		t.Helper()
		if got := a.sh("getfattr --only-values -n user.kist.state " + path); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
	a.mount()
	a.sh("mkdir d; echo stored > d/f")
	a.sync()
	state("d/f", "stored")
	state("d", "stored")
	if got := a.sh("getfattr -d -m - d/f"); strings.Contains(got, "kist") {
		t.Errorf("the attribute is listed: %q", got)
	}
	back := w.away()
	a.sh("for i in $(seq 20); do echo $i > d/$i; sync d/$i; done")
	state("d/20", "journal")
	state("d", "journal")
	state("d/f", "stored")
	eventually(t, stepLimit, "status says that the store is away", func() error {
		s := a.status()
		if s["connected"] != false || s["store_away_kind"] != "outage" || s["store_away_since"] == nil || s["pending_files"] != float64(20) || s["oldest_pending"] == nil {
			return fmt.Errorf("it says %v", s)
		}
		return nil
	})
	if out := a.must("journal", "inspect", a.store()); strings.Count(out, "create  /d/") != 20 || strings.Contains(out, "/d/f") {
		t.Errorf("what waits: %s", out)
	}
	a.crash()
	path, raw := a.largest("journal")
	w.ok(os.WriteFile(path, flipped(raw, len(raw)/2), 0o600))
	back()
	told := func(want bool) {
		t.Helper()
		if got := strings.Contains(fmt.Sprint(a.status()["problems"]), "kist journal inspect"); got != want {
			t.Errorf("status tells of damage: %v, want %v", got, want)
		}
	}
	a.mount()
	told(true)
	a.sync()
	a.remount()
	told(true)
	if out := a.must("journal", "inspect", a.store()); !strings.Contains(out, "DAMAGE") || !strings.Contains(out, "aside") || !strings.Contains(out, "verify") {
		t.Errorf("what was damaged: %s", out)
	}
	a.refused(exitInUse, nil, "journal", "forget", a.store())
	a.umount()
	a.must("journal", "forget", a.store())
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	a.mount()
	told(false)
	a.sh("cat d/f d/1")
}
