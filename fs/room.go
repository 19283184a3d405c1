package fs

import (
	"context"
	"errors"
	"time"

	"kist/fs/journal"
)

// A journal that is full, by its budget or by its disk, is answered in this order: the
// cache gives up space if it is short on the disk; the writer waits for a commit, which
// lets the journal go, as long as one is under way and gets on; then the writer gets
// ENOSPC, before anything is promised. Where the store is away it gets that at once.
// Nothing of this is remembered: the next writer finds what room there is then.

// pressure is what writers who wait for room and the committer tell each other. Guarded
// by Vault.mu.
type pressure struct {
	waiting  int           // writers; a commit is due at once
	ended    chan struct{} // closed when a commit has ended, well or not
	tried    int           // commits that have ended
	stored   int           // of these, so many are in the store
	uploaded int           // packs that are
}

// retryFull runs fn, and again when it found no room and there may be some now. What it
// runs has done nothing when it fails for want of room, or what may be done twice.
func (v *Vault) retryFull(ctx context.Context, fn func() error) error {
	for {
		before := v.pressed()
		err := fn()
		if !errors.Is(err, journal.ErrFull) || v.opt.Manual {
			return err
		}
		if v.opt.Cache != nil && v.opt.Cache.Yield() {
			continue
		}
		if more, stop := v.awaitRoom(ctx, before); stop != nil {
			return stop
		} else if !more {
			return err
		}
	}
}

func (v *Vault) pressed() pressure {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.pressure
}

// awaitRoom waits for a commit to reach the store, and says whether one did. It does not
// wait for a store that is away, nor where there is nothing to commit, nor for a commit
// that gets nowhere.
func (v *Vault) awaitRoom(ctx context.Context, before pressure) (bool, error) {
	v.press(+1)
	defer v.press(-1)
	last, since := before.uploaded, time.Now()
	for {
		now, helps := v.relief()
		switch {
		case now.stored != before.stored:
			return true, nil
		case !helps, now.tried != before.tried, time.Since(since) > pressStalled:
			return false, nil
		case now.uploaded != last:
			last, since = now.uploaded, time.Now()
		}
		v.wake()
		select {
		case <-now.ended:
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(pressEvery):
		}
	}
}

const (
	pressEvery   = time.Second // a writer who waits looks again
	pressStalled = time.Minute // and gives up when nothing was stored for so long
)

// relief says whether a commit could make room.
func (v *Vault) relief() (pressure, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.pressure, !v.closed && v.failed == nil && v.stats.away == nil && len(v.ops) > 0
}

func (v *Vault) press(n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.pressure.waiting += n
}

// commitEnded wakes writers who wait for room.
func (v *Vault) commitEnded(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.pressure.tried++
	if err == nil {
		v.pressure.stored++
	}
	close(v.pressure.ended)
	v.pressure.ended = make(chan struct{})
}
