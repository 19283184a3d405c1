package fs

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"kist/backend"
)

// What went wrong in the background is told once, with the time of the last time,
// and not what Status says anyway.
func TestLastErrors(t *testing.T) {
	now := time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	v := &Vault{opt: Options{Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { now = now.Add(time.Second); return now }}}
	v.logError("follow", errors.New("a bad page"))
	v.logError("follow", fmt.Errorf("reading: %w", backend.ErrAway))
	v.logError("follow", errors.New("a bad page"))
	v.logError("commit", errors.New("a bad page"))
	want := []string{"2026-11-22T08:00:02Z follow: a bad page", "2026-11-22T08:00:03Z commit: a bad page"}
	if got := fmt.Sprint(v.stats.errs); got != fmt.Sprint(want) {
		t.Errorf("kept: %s, want %s", got, want)
	}
	for n := range 2 * errorsToKeep {
		v.logError("commit", fmt.Errorf("number %d", n))
	}
	if n := len(v.stats.errs); n != errorsToKeep {
		t.Errorf("%d errors are kept", n)
	}
}
