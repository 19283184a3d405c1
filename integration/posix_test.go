//go:build linux

package integration

import (
	"strings"
	"testing"
)

func TestPosix(t *testing.T) {
	eachStore(t, func(t *testing.T, w *World) {
		a := w.first("a")
		a.mount()
		out := a.child(3*stepLimit, "posix", a.mnt)
		if !strings.Contains(out, "--- PASS: RenameOpenDir") || strings.Contains(out, "--- SKIP") {
			t.Errorf("the list did not run as it should:\n%s", out)
		}
		// What the tests left behind must survive the journal and the store.
		before := a.sh("find . -printf '%p %y %m %n %s %l\\n' | sort")
		a.remount()
		if after := a.sh("find . -printf '%p %y %m %n %s %l\\n' | sort"); after != before {
			t.Errorf("before the remount:\n%s\nafter it:\n%s", before, after)
		}
	})
}
