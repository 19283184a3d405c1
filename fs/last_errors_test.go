package fs

import (
	"fmt"
	"log/slog"
	"testing"
	"time"
)

// What waits for the user is told once, with the time of the last time.
func TestLastErrors(t *testing.T) {
	now := time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	v := &Vault{opt: Options{Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { now = now.Add(time.Second); return now }}}
	for _, msg := range []string{"a bad page", "a bad page", "a full disk"} {
		v.complain(msg)
	}
	want := []string{"2026-11-22T08:00:02Z a bad page", "2026-11-22T08:00:03Z a full disk"}
	if got := fmt.Sprint(v.stats.errs); got != fmt.Sprint(want) {
		t.Errorf("kept: %s, want %s", got, want)
	}
	for n := range 2 * errorsToKeep {
		v.complain(fmt.Sprintf("number %d", n))
	}
	if n := len(v.stats.errs); n != errorsToKeep {
		t.Errorf("%d errors are kept", n)
	}
}
