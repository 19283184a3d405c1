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
	opDeadline   = time.Minute      // a call that needs the store fails with EIO after that
	awayDeadline = 10 * time.Second // or after that, where it is known not to answer
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
			kick := (<-chan struct{})(v.kick)
			if retry > 0 {
				kick = v.returned()
			}
			if !wait(ctx, due, kick) {
				return
			}
			if retry == 0 {
				continue
			}
		}
		err := v.Commit(ctx)
		if ctx.Err() == nil {
			v.outcome("storing", err)
		}
		if err != nil {
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
	if v.stats.gathered >= v.gatherAtMost() || len(v.ops) >= commitOps || v.pressure.waiting > 0 {
		return 0, true
	}
	at := min(v.stats.lastChange.Add(commitQuiet).Sub(now), v.stats.firstDirty.Add(commitLatest).Sub(now))
	return max(0, at), true
}

// gatherAtMost is how much content waits for more before it is committed: a small journal
// is not let grow full.
func (v *Vault) gatherAtMost() int64 {
	if v.opt.Budget > 0 {
		return min(commitBytes, v.opt.Budget/4)
	}
	return commitBytes
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
		err := v.Follow(ctx)
		if ctx.Err() != nil {
			continue
		}
		if v.outcome("looking for commits", err); err != nil {
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
	v.keepPages()
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
	away := unreachable(err)
	if err != nil && !away {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case !away && v.stats.away != nil:
		v.stats.away, v.stats.since = nil, v.opt.Now()
		close(v.back)
		v.back = make(chan struct{})
	case !away:
	case v.stats.away == nil:
		v.stats.away, v.stats.awaySince = err, v.opt.Now()
		v.log.Doubt()
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

// outcome keeps the error of what failed last until the same succeeds.
func (v *Vault) outcome(what string, err error) {
	v.count(func(s *counters) {
		switch {
		case err != nil:
			s.lastErr, s.lastErrOf, s.lastErrAt = what+": "+err.Error(), what, v.opt.Now()
		case s.lastErrOf == what:
			s.lastErr, s.lastErrOf, s.lastErrAt = "", "", time.Time{}
		}
	})
}

// logError takes no lock: it is called under mu, too. What lasts, Status tells.
func (v *Vault) logError(what string, err error) {
	v.opt.Logger.Error(what, "err", err)
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
	if !v.pendingWork() {
		return nil // without waiting for a follower that waits for the store
	}
	for {
		err := v.Commit(ctx)
		if err == nil || ctx.Err() != nil || !unreachable(err) || v.opt.Manual {
			return err
		}
		if !wait(ctx, jitter(retry), v.returned()) {
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
		if drain && err == nil && v.Away() == nil {
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
	Since        time.Time // the store answers since, if it does
	AwaySince    time.Time
	AwayReason   string
	AwayKind     string // AwayOutage, AwayDenied, AwayFull
	Head         log.Head
	PendingOps   int       // not yet in the store
	PendingBytes int64     // of content, gathered since the last commit began
	PendingFiles int       // files that they have made or changed and that have a name
	Oldest       time.Time // when the oldest of them was made
	Uploading    int64
	LastCommit   time.Time
	Journal      int64 // bytes on disk
	JournalMost  int64 // its budget; 0: none
	Memory       int64 // bytes in buffers
	MemoryMost   int64 // their budget
	Unsynced     int64 // bytes of it not yet synced
	ReadOnly     bool
	Failed       string
	LastError    string // why the last commit or look at the log failed, if it did
	LastErrorAt  time.Time
	Errors       []string // what waits for the user; first of all what the journal has lost
}

// The kinds of absence of a store.
const (
	AwayOutage = "outage" // not reached, or it does not serve
	AwayDenied = "denied" // it refuses our credentials
	AwayFull   = "full"   // it has no room
)

func awayKind(err error) string {
	switch {
	case errors.Is(err, backend.ErrDenied):
		return AwayDenied
	case errors.Is(err, backend.ErrFull):
		return AwayFull
	}
	return AwayOutage
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
	memory := v.memory()
	var problems []string
	for _, d := range v.jrn.Damage() {
		problems = append(problems, DamageText(d))
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	s := Status{Connected: v.stats.away == nil, Head: v.base.Head, PendingOps: len(v.ops), PendingBytes: contentOf(v.ops),
		PendingFiles: v.waits.files, Oldest: v.oldest(), Uploading: v.stats.uploading, LastCommit: v.stats.lastCommit, Journal: disk,
		JournalMost: v.opt.Budget, Memory: memory, MemoryMost: v.share.sum(),
		Unsynced: unsynced, ReadOnly: v.opt.ReadOnly, Errors: append(problems, v.stats.errs...)}
	s.Since, s.LastError, s.LastErrorAt = v.stats.since, v.stats.lastErr, v.stats.lastErrAt
	if v.stats.away != nil {
		s.Since, s.AwaySince, s.AwayReason, s.AwayKind = time.Time{}, v.stats.awaySince, v.stats.away.Error(), awayKind(v.stats.away)
	}
	if v.failed != nil {
		s.Failed = v.failed.Error()
	}
	return s
}
