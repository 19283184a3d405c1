package fs

import (
	"context"
	"errors"
	"fmt"

	"kist/backend"
	"kist/fs/journal"
	"kist/fs/log"
	"kist/fs/tree"
)

// How a vault gets by without the store: it opens on what this machine has, reads
// what is cached, keeps what is written in the journal, and goes on from there when
// the store is back, by the same code that follows and commits.

// errNoNumber: inode numbers begin with the device's own, which a commit gives.
var errNoNumber = fmt.Errorf("%w: this machine has no number in the vault yet; until the store has given it one, the drive can only be mounted with --read-only", backend.ErrAway)

// errLate: what was asked of the store took longer than a caller waits.
var errLate = fmt.Errorf("%w: it did not answer in time", backend.ErrAway)

// unreachable says that the store does not serve: later may work.
func unreachable(err error) bool {
	return errors.Is(err, backend.ErrAway) || errors.Is(err, backend.ErrDenied)
}

// openLog opens the log, on the head that is remembered if the store is away. The
// second result is why.
func openLog(ctx context.Context, cfg log.Config) (l *log.Log, away, err error) {
	l, err = log.Open(ctx, cfg)
	if !unreachable(err) {
		return l, nil, err
	}
	away = err
	l, err = log.Recall(ctx, cfg)
	return l, away, withoutStore(away, err)
}

// withoutStore is why a vault does not open while the store is away.
func withoutStore(away, err error) error {
	if away == nil || err == nil || !unreachable(err) && !errors.Is(err, log.ErrForgotten) {
		return err
	}
	if errors.Is(err, errNoNumber) {
		return err
	}
	return fmt.Errorf("%w; without it a drive can be mounted only from the cache of this machine, which does not hold what that takes: "+
		"the drive was never mounted here, the cache was deleted, or the last mount did not end in order; what is in the journal is kept", away)
}

// hasRoot makes sure that there is something to show: the top directory.
func (v *Vault) hasRoot(ctx context.Context) error {
	return v.locked(ctx, func() error {
		_, err := isEmpty(v.w.root)
		return err
	})
}

// holdCommit takes up a commit that was signed before a crash and may have been sent: its
// answer is waited for before anything else is signed.
func (v *Vault) holdCommit(raw []byte) error {
	p, c, err := v.log.Hold(raw)
	if err != nil {
		return err
	}
	if row := c.Row(v.opt.Session.Device); row != nil {
		v.pending = &pendingCommit{p: p, pos: journal.Pos{N: row.Op, Run: row.Run}}
	}
	return nil
}

// reread brings back what a commit that was held contains. It is in the log now.
func (v *Vault) reread(ctx context.Context, pc *pendingCommit) (*log.Commit, error) {
	c, err := v.log.At(ctx, pc.p.Seq)
	if err != nil {
		return nil, err
	}
	if c == nil || c.Hash != pc.p.Hash {
		return nil, fmt.Errorf("commit %s: %w", pc.p.Head, log.ErrLost)
	}
	if pc.state, err = tree.ParseState(c.Root); err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for pc.ops = 0; pc.ops < len(v.ops) && v.ops[pc.ops].N <= pc.pos.N; {
		pc.ops++
	}
	return c, nil
}

// settle is for a mount that sends nothing: the slot of the commit that was held has
// been read, and holds it or another.
func (v *Vault) settle(ctx context.Context, pc *pendingCommit) error {
	err := v.install(ctx, pc)
	if errors.Is(err, log.ErrLost) {
		v.pending = nil
		return nil
	}
	return err
}

// fetch brings a blob from the store.
func (v *Vault) fetch(ctx context.Context, p tree.Pointer) ([]byte, error) {
	ctx, cancel := v.within(ctx)
	defer cancel()
	plain, err := v.packs.Fetch(ctx, p)
	if err != nil && errors.Is(context.Cause(ctx), errLate) {
		err = errLate
	}
	if err != nil {
		return nil, v.observe(err)
	}
	return plain, nil
}

// within gives a request of a program the time that it may take.
func (v *Vault) within(ctx context.Context) (context.Context, context.CancelFunc) {
	limit := opDeadline
	if v.Away() != nil {
		limit = awayDeadline
	}
	return context.WithTimeoutCause(ctx, limit, errLate)
}

// pendingWork says whether there are operations that the store does not have.
func (v *Vault) pendingWork() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.ops) > 0
}

// Away is why the store does not answer, nil if it does.
func (v *Vault) Away() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.stats.away
}

// returned is closed when a store that is away answers again.
func (v *Vault) returned() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.back
}
