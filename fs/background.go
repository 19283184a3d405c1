package fs

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"kist/backend"
	"kist/fs/journal"
	"kist/fs/log"
	"kist/fs/tree"
)

// The pace of a mount. See DESIGN.md, section 6.
const (
	flushEvery   = time.Second             // unasked, what was written is on this disk after that
	commitQuiet  = 2 * time.Second         // after the last change
	commitLatest = 10 * time.Second        // after the first
	commitBytes  = 64 << 20                // or as soon as this much is gathered
	commitOps    = 50_000                  // or this many operations
	pollBusy     = 1700 * time.Millisecond // while the vault was touched: seen within 2 s, jitter included
	pollIdle     = 30 * time.Second
	touchedFor   = 10 * time.Minute
	retryFirst   = time.Second // after a failure, doubled up to
	retryLast    = time.Minute
	errorsToKeep = 20
	opDeadline   = time.Minute // a call that needs the store fails with EIO after that
	hintAtMost   = 5 * time.Second
)

// background holds the goroutines of a live mount; all they do is to call flush, Commit
// and Follow at the right time.
type background struct {
	life   context.Context // of the goroutines: until Close
	cancel context.CancelFunc
	done   sync.WaitGroup
	kick   chan struct{} // something was changed
	look   chan struct{} // somebody wants to know what others did
}

func (v *Vault) startBackground() {
	v.kick, v.look = make(chan struct{}, 1), make(chan struct{}, 1)
	if v.opt.Manual {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	v.life, v.cancel = ctx, cancel
	if !v.opt.ReadOnly {
		v.done.Go(func() { v.flushLoop(ctx) })
		v.done.Go(func() { v.commitLoop(ctx) })
	}
	v.done.Go(func() { v.followLoop(ctx) })
}

func (v *Vault) stopBackground() {
	if v.cancel != nil {
		v.cancel()
		v.done.Wait()
		v.cancel = nil
	}
}

// wake tells the committer that there may be something to do.
func (v *Vault) wake() {
	select {
	case v.kick <- struct{}{}:
	default:
	}
}

// probe makes the follower look now, if nobody has looked for a while. It never waits.
func (v *Vault) probe() {
	v.mu.Lock()
	stale := v.opt.Now().Sub(v.stats.probed) > pollBusy
	v.stats.touched = v.opt.Now()
	v.mu.Unlock()
	if stale {
		select {
		case v.look <- struct{}{}:
		default:
		}
	}
}

func wait(ctx context.Context, d time.Duration, c <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-c:
	case <-t.C:
	}
	return true
}

func (v *Vault) flushLoop(ctx context.Context) {
	for wait(ctx, flushEvery*3/4, nil) {
		v.mu.Lock()
		tail := v.tail != nil
		v.mu.Unlock()
		if unsynced, _ := v.jrn.Usage(); tail || unsynced > 0 {
			_ = v.flush() // an error stands in v.failed and meets the next caller
		}
	}
}

func (v *Vault) commitLoop(ctx context.Context) {
	retry := time.Duration(0)
	for {
		due, any := v.due()
		switch {
		case retry > 0:
			due = max(due, jitter(retry))
		case !any:
			due = time.Hour
		}
		if due > 0 {
			var kick <-chan struct{}
			if retry == 0 {
				kick = v.kick
			}
			if !wait(ctx, due, kick) {
				return
			}
			if retry == 0 {
				continue
			}
		}
		if err := v.Commit(ctx); err != nil {
			if ctx.Err() != nil {
				return
			}
			v.logError("commit", err)
			if refused(err) {
				v.fail(err)
			}
			retry = min(max(retryFirst, retry*2), retryLast)
			continue
		}
		retry = 0
	}
}

// due says how long the next commit may still wait, and whether there is one to make.
func (v *Vault) due() (time.Duration, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.ops) == 0 || v.failed != nil {
		return 0, false
	}
	now := v.opt.Now()
	if v.stats.gathered >= commitBytes || len(v.ops) >= commitOps {
		return 0, true
	}
	at := min(v.stats.lastChange.Add(commitQuiet).Sub(now), v.stats.firstDirty.Add(commitLatest).Sub(now))
	return max(0, at), true
}

func (v *Vault) followLoop(ctx context.Context) {
	for {
		v.mu.Lock()
		every := pollIdle
		if v.opt.Now().Sub(v.stats.touched) < touchedFor {
			every = pollBusy
		}
		v.mu.Unlock()
		if !wait(ctx, jitter(every), v.look) {
			return
		}
		v.evict()
		if err := v.Follow(ctx); err != nil && ctx.Err() == nil {
			v.logError("follow", err)
			if refused(err) {
				v.fail(err)
			}
		}
	}
}

// evict keeps the pages in memory within their budget. Under turn, because a sealing
// must not lose pages under its hands.
func (v *Vault) evict() {
	if !v.turn.TryLock() {
		return // a commit is under way; it evicts when it is done
	}
	defer v.turn.Unlock()
	v.mu.Lock()
	defer v.mu.Unlock()
	tree.Evict(tree.State{Root: v.w.root, Table: v.w.table}, pageBytes)
}

// refused says that the store shows what must not be: nothing is written on top of it.
func refused(err error) bool {
	return errors.Is(err, log.ErrRollback) || errors.Is(err, log.ErrFork) || errors.Is(err, log.ErrNewer) || errors.Is(err, ErrCloned)
}

// fail makes the mount read-only for a reason that meets everybody who writes.
func (v *Vault) fail(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.failed == nil {
		_ = v.closeTail() // what was written before is kept if the journal takes it
		v.failed = err
	}
}

func (v *Vault) journalFailed(err error) error {
	if errors.Is(err, journal.ErrFull) {
		return err
	}
	err = errors.Join(ErrBroken, err)
	v.fail(err)
	return err
}

func (v *Vault) count(fn func(*counters)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	fn(&v.stats)
}

// observe notes whether the store answers, and returns the error as it is.
func (v *Vault) observe(err error) error {
	away := errors.Is(err, backend.ErrAway) || errors.Is(err, backend.ErrDenied)
	if err != nil && !away {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case !away:
		v.stats.away = nil
	case v.stats.away == nil:
		v.stats.away, v.stats.awaySince = err, v.opt.Now()
	}
	return err
}

// complain puts a line before the user that waits in status.
func (v *Vault) complain(msg string) {
	v.opt.Logger.Warn(msg)
	v.count(func(s *counters) { s.note(v.opt.Now(), msg) })
}

// note keeps the last errors; one that comes again and again stands there once.
func (s *counters) note(now time.Time, msg string) {
	if n := len(s.errs); n > 0 && strings.HasSuffix(s.errs[n-1], "Z "+msg) {
		s.errs = s.errs[:n-1]
	}
	s.errs = append(s.errs, now.UTC().Format(time.RFC3339)+" "+msg)
	if len(s.errs) > errorsToKeep {
		s.errs = s.errs[1:]
	}
}

func (v *Vault) logError(what string, err error) {
	v.opt.Logger.Error(what, "err", err)
	if errors.Is(err, backend.ErrAway) || errors.Is(err, backend.ErrDenied) {
		return // Status says so as long as it lasts
	}
	v.count(func(s *counters) { s.note(v.opt.Now(), what+": "+err.Error()) })
}

// Sync returns when everything done before the call is in the store. While the store
// is away it goes on trying until ctx ends.
func (v *Vault) Sync(ctx context.Context) error {
	if v.opt.ReadOnly {
		return nil
	}
	if err := v.flush(); err != nil {
		return err
	}
	retry := retryFirst
	for {
		err := v.Commit(ctx)
		if err == nil || ctx.Err() != nil || !errors.Is(err, backend.ErrAway) || v.opt.Manual {
			return err
		}
		if !wait(ctx, jitter(retry), nil) {
			return err
		}
		retry = min(retry*2, retryLast)
	}
}

// Close ends the mount's work. With drain everything is in the store when it returns
// nil; without, or on an error, it is in the journal for the next mount. The journal is
// closed in any case.
func (v *Vault) Close(ctx context.Context, drain bool) error {
	v.mu.Lock()
	if v.closed {
		v.mu.Unlock()
		return ErrClosed
	}
	v.closed = true
	v.mu.Unlock()
	v.stopBackground()
	var err error
	if !v.opt.ReadOnly {
		err = v.flush()
		if drain && err == nil {
			err = v.Sync(ctx)
		}
		if drain && err == nil {
			hint, cancel := context.WithTimeout(ctx, hintAtMost)
			_ = v.log.WriteHint(hint) // a convenience for the next machine
			cancel()
		}
	}
	return errors.Join(err, v.jrn.Close())
}

// Status is what a mount tells about itself.
type Status struct {
	Connected    bool
	AwaySince    time.Time
	AwayReason   string
	Head         log.Head
	PendingOps   int       // not yet in the store
	PendingBytes int64     // of content, gathered since the last commit began
	Oldest       time.Time // when the oldest of them was made
	Uploading    int64
	LastCommit   time.Time
	Journal      int64 // bytes on disk
	Unsynced     int64 // bytes of it not yet synced
	ReadOnly     bool
	Failed       string
	Errors       []string
}

func contentOf(ops []*op) (n int64) {
	for _, o := range ops {
		if o.Kind == opWrite {
			n += int64(o.Len)
		}
	}
	return n
}

// Status tells how things stand, from memory.
func (v *Vault) Status() Status {
	unsynced, disk := v.jrn.Usage()
	v.mu.Lock()
	defer v.mu.Unlock()
	s := Status{Connected: v.stats.away == nil, Head: v.base.Head, PendingOps: len(v.ops), PendingBytes: contentOf(v.ops),
		Oldest: v.stats.firstDirty, Uploading: v.stats.uploading, LastCommit: v.stats.lastCommit, Journal: disk,
		Unsynced: unsynced, ReadOnly: v.opt.ReadOnly, Errors: append([]string(nil), v.stats.errs...)}
	if v.stats.away != nil {
		s.AwaySince, s.AwayReason = v.stats.awaySince, v.stats.away.Error()
	}
	if v.failed != nil {
		s.Failed = v.failed.Error()
	}
	return s
}
