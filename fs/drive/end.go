package drive

import (
	"context"
	"errors"
	"fmt"

	"kist/fs/home"
	"kist/fs/journal"
)

// Left is what a mount that has ended leaves in the journal.
type Left struct {
	Ops   int   `json:"ops"`
	Bytes int64 `json:"bytes"` // of their content
}

func (l Left) String() string {
	return fmt.Sprintf("%d changes, %s, are in the journal and not yet in the store; the next mount on this machine goes on with them",
		l.Ops, size(l.Bytes))
}

// run waits for the end of the mount, whoever brings it about.
func (d *daemon) run(ctx context.Context, host Host) error {
	go d.service.guard(d.ended, d.alive)
	go func() { d.mount.Wait(); close(d.gone) }()
	stop := d.listenFor(host.Hurry)
	defer stop()
	progress := func(line string) {
		d.service.tell("STATUS=" + line)
		if host.Progress != nil {
			host.Progress(line)
		}
	}
	select {
	case <-d.gone:
		d.service.tell("STOPPING=1")
	case <-ctx.Done():
		d.service.tell("STOPPING=1")
		d.endOnSignal(progress)
	}
	d.endErr = d.close(progress)
	d.logger.Info("ended", "code", Code(d.endErr), "changes", d.left.Ops, "bytes", d.left.Bytes)
	if d.left.Ops > 0 {
		d.service.tell("STATUS=" + d.left.String())
	}
	close(d.ended)
	return d.endErr
}

// listenFor ends the patience of drains when hurry is closed.
func (d *daemon) listenFor(hurry <-chan struct{}) (stop func()) {
	done := make(chan struct{})
	go func() {
		select {
		case <-hurry:
			d.hasten(errHurried)
		case <-done:
		}
	}()
	return func() { close(done) }
}

func (d *daemon) endOnSignal(progress func(string)) {
	w := d.vault.Status()
	d.logger.Info("ending on a signal", "changes", w.PendingOps, "bytes", w.PendingBytes)
	d.leave(false)
	d.settle(progress)
	d.detach()
}

// settle stores what waits, unless that is to stay in the journal. If it can't,
// that is where it stays.
func (d *daemon) settle(progress func(string)) {
	if !d.drains() {
		return
	}
	if err := d.drain(context.Background(), progress); err != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.noDrain, d.why = true, err
	}
}

func (d *daemon) drains() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.cfg.ReadOnly && !d.noDrain
}

// detach unmounts, in use or not.
func (d *daemon) detach() {
	if err := d.mount.Unmount(); err == nil {
		return
	}
	if err := detach(d.cfg.Dir); err != nil {
		d.logger.Error("could not unmount", "err", withoutPath(err))
	}
}

// close ends the vault after the mount has ended. First it stores what is not in
// the store: all of it, if others than us have unmounted; else what was written
// between the drain and the unmount.
func (d *daemon) close(progress func(string)) error {
	d.settle(progress)
	ctx, cancel := context.WithTimeout(d.patience, stalled)
	defer cancel()
	err := errors.Join(d.why, d.vault.Close(ctx, d.drains()))
	w := d.vault.Status()
	d.left = Left{Ops: w.PendingOps, Bytes: w.PendingBytes}
	switch {
	case err != nil && w.Unsynced > 0:
		err = fmt.Errorf("%w; the journal did not take the last %s, which no fsync had acknowledged: they are lost", err, size(w.Unsynced))
	case err != nil && d.left.Ops > 0:
		err = fmt.Errorf("%w; %v", err, d.left)
	}
	return errors.Join(err, d.cache.Close())
}

// umount drains, unmounts and waits for run to end the vault. Before the
// unmount, an error leaves everything as it was.
func (d *daemon) umount(ctx context.Context, noDrain bool, progress func(string)) (any, error) {
	if !d.leave(noDrain) {
		return nil, fmt.Errorf("%w: another umount is under way", ErrBusy)
	}
	if err := d.unmount(ctx, noDrain, progress); err != nil {
		d.stay()
		return nil, err
	}
	<-d.ended
	return d.left, d.endErr
}

func (d *daemon) leave(noDrain bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.leaving {
		return false
	}
	d.leaving = true
	d.noDrain = d.noDrain || noDrain
	return true
}

func (d *daemon) stay() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.leaving = false
	d.noDrain = d.why != nil
}

func (d *daemon) unmount(ctx context.Context, noDrain bool, progress func(string)) error {
	if err := d.checkBusy(); err != nil {
		return err
	}
	if !noDrain && !d.cfg.ReadOnly {
		err := d.drain(ctx, progress)
		if errors.Is(err, errStalled) {
			return fmt.Errorf("%w; the drive is still mounted and the journal keeps what waits; "+
				"try again, or leave it in the journal with kist umount --no-drain", err)
		}
		if err != nil {
			return err
		}
	}
	if noDrain && !d.cfg.ReadOnly {
		if err := d.vault.FlushJournal(); errors.Is(err, journal.ErrFull) { // while the drive is there, room can be made
			return fmt.Errorf("%w; the drive is still mounted", err)
		}
	}
	err := d.mount.Unmount()
	if err == nil {
		return nil
	}
	if found := d.checkBusy(); found != nil {
		return found
	}
	return fmt.Errorf("%w: %w; the drive is still mounted", ErrBusy, err)
}

// yield makes room for the next mount: where the drive is unmounted and only the
// storing goes on, the next mount can do that.
func (d *daemon) yield() error {
	select {
	case <-d.gone:
	default:
		return fmt.Errorf("%w: this store is mounted on this machine already; nothing was changed", home.ErrInUse)
	}
	d.hasten(errYielded)
	<-d.ended
	return nil
}
