package drive

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"kist/backend"
	"kist/cache"
	"kist/crypto/keys"
	"kist/fs"
	"kist/fs/journal"
	"kist/fs/log"
	"kist/fs/mount"
)

// stalled is how long a drain may make no progress before it is given up: what
// waits is safe in the journal.
const stalled = time.Minute

// gcPercent lets the heap grow by half of what is in use before it is swept: a
// daemon that is there all day should rather cost time than memory.
const gcPercent = 50

// daemon serves one mounted drive.
type daemon struct {
	cfg     MountConfig
	place   place
	store   backend.Store
	session *keys.Session
	cache   *cache.Cache
	vault   *fs.Vault
	mount   *mount.Server
	logger  *slog.Logger
	began   time.Time

	mu      sync.Mutex
	leaving bool // an umount is under way
	noDrain bool // what is not in the store stays in the journal

	ended  chan struct{} // closed when the vault is, with endErr
	endErr error
}

// serve mounts, calls ready with what a person should know, and returns when the
// drive is unmounted. When ctx ends, it drains and unmounts.
func serve(ctx context.Context, o order, ready func(note string) error) error {
	Harden()
	debug.SetGCPercent(gcPercent)
	p, err := find(ctx, o.Root, o.Mount.Store)
	if err != nil {
		return err
	}
	lock, err := p.home.Lock()
	if err != nil {
		return err
	}
	defer lock.Release()
	if err := prepareDir(o.Mount.Dir); err != nil {
		return err
	}
	d := &daemon{cfg: o.Mount, place: p, began: time.Now(), ended: make(chan struct{})}
	file, err := openLog(p.home.LogPath())
	if err != nil {
		return err
	}
	defer file.Close()
	d.logger = slog.New(slog.NewTextHandler(file, nil))
	if err := d.open(ctx, o.Passphrase); err != nil {
		d.logger.Error("not mounted", "code", Code(err))
		return err
	}
	control, err := listen(p.home.ControlPath(), d.handle)
	if err != nil {
		return errors.Join(err, d.abandon())
	}
	defer os.Remove(p.home.ControlPath())
	defer control.close()
	if err := d.attach(); err != nil {
		return errors.Join(err, d.abandon())
	}
	d.logger.Info("mounted", "pid", os.Getpid())
	if err := ready(d.note()); err != nil {
		d.logger.Warn("nobody waited for the mount")
	}
	return d.run(ctx)
}

// open opens what is mounted: keyfile, store, trust, cache and vault.
func (d *daemon) open(ctx context.Context, pass []byte) error {
	defer clear(pass)
	var err error
	if d.session, err = d.place.unlock(pass); err != nil {
		return err
	}
	d.store = newLate(d.place)
	trust, err := d.place.openTrust(d.session)
	if err != nil {
		return err
	}
	if err := d.openCache(); err != nil {
		return err
	}
	if err := d.openVault(ctx, trust); err != nil {
		return errors.Join(err, d.cache.Close())
	}
	return nil
}

func (d *daemon) openCache() error {
	dir := d.place.home.CacheDir()
	err := os.MkdirAll(dir, 0o700)
	left := int64(0)
	if err == nil {
		left, err = floor(dir)
	}
	if err == nil {
		d.cache, err = cache.Open(dir, d.session.CacheKey(), cache.Options{Budget: d.cfg.CacheSize, FreeFloor: 2 * left, Memory: fs.CacheMemory(fs.DefaultMemory), Log: d.logger})
	}
	if err != nil {
		return fmt.Errorf("opening the cache: %w", err)
	}
	return nil
}

func (d *daemon) openVault(ctx context.Context, trust *log.Trust) error {
	dir := d.place.journalDir(d.session)
	disk, err := journal.OpenDisk(dir)
	if err != nil {
		return err
	}
	left, err := floor(dir)
	if err != nil {
		return errors.Join(err, disk.Close())
	}
	d.vault, err = fs.Open(ctx, fs.Options{Store: d.store, Vault: d.session.TopVault, Session: d.session, Trust: trust,
		Cache: d.cache, Disk: disk, Budget: d.cfg.JournalSize, Floor: left, Memory: fs.DefaultMemory, Now: time.Now, Logger: d.logger,
		ReadOnly: d.cfg.ReadOnly, FsyncStore: d.cfg.FsyncStore})
	return err
}

// note is what a person should know who has just mounted: that the store is away.
func (d *daemon) note() string {
	away := d.vault.Away()
	if away == nil {
		return ""
	}
	d.logger.Warn("mounted without the store", "err", away)
	why := "the store is away, since when is not known"
	if errors.Is(away, backend.ErrDenied) {
		why = "the store is there and refuses access: the credentials are wrong or have expired"
	}
	return fmt.Sprintf("%s; the drive shows the state of commit %s with what was changed here since, and goes on from there when it can (%v)",
		why, d.vault.Status().Head, away)
}

func (d *daemon) attach() (err error) {
	d.mount, err = mount.Mount(d.vault, d.cfg.Dir, mount.Options{ReadOnly: d.cfg.ReadOnly, AllowOther: d.cfg.AllowOther,
		AsUser: owner(), Control: d.place.home.ControlPath(), Log: d.logger})
	if err != nil {
		return fmt.Errorf("%w; the file log in the state folder may say more", err)
	}
	if err := d.mount.WaitMount(); err != nil {
		d.detach()
		return err
	}
	return nil
}

// abandon closes what open has opened, when nothing was mounted.
func (d *daemon) abandon() error {
	return errors.Join(d.vault.Close(context.Background(), false), d.cache.Close())
}

// run waits for the end of the mount, whoever brings it about.
func (d *daemon) run(ctx context.Context) error {
	gone := make(chan struct{})
	go func() { d.mount.Wait(); close(gone) }()
	select {
	case <-gone:
	case <-ctx.Done():
		d.logger.Info("ending on a signal")
		if err := d.drain(context.Background(), nil); err != nil {
			d.logger.Warn("not everything is in the store; the journal keeps it", "code", Code(err))
		}
		d.detach()
	}
	d.endErr = d.close()
	d.logger.Info("ended", "code", Code(d.endErr))
	close(d.ended)
	return d.endErr
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

// close ends the vault after the mount has ended. What was written between the
// drain and the unmount is stored if the store answers in time; if not, the
// journal keeps it.
func (d *daemon) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), stalled)
	defer cancel()
	d.mu.Lock()
	drain := !d.cfg.ReadOnly && !d.noDrain
	d.mu.Unlock()
	err := d.vault.Close(ctx, drain)
	return errors.Join(err, d.cache.Close())
}

// drain brings everything into the store, as long as that makes progress.
func (d *daemon) drain(ctx context.Context, progress func(string)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watched := make(chan struct{})
	defer func() { <-watched }()
	done := make(chan struct{})
	defer close(done)
	go func() {
		defer close(watched)
		d.watch(done, progress, func() { cancel(errStalled) })
	}()
	err := d.vault.Sync(ctx)
	if err != nil && errors.Is(context.Cause(ctx), errStalled) {
		return errStalled
	}
	return err
}

var errStalled = fmt.Errorf("%w: nothing could be stored for %v; the drive is still mounted and the journal keeps what waits; "+
	"try again, or leave it in the journal with kist umount --no-drain", backend.ErrAway, stalled)

// watch reports what still waits and calls stuck when that does not change for
// too long.
func (d *daemon) watch(done <-chan struct{}, progress func(string), stuck func()) {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	last, since := int64(-1), time.Now()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		s := d.vault.Status()
		if now := s.PendingBytes + int64(s.PendingOps); now != last {
			last, since = now, time.Now()
		}
		if time.Since(since) > stalled {
			stuck()
			return
		}
		if progress != nil {
			progress(fmt.Sprintf("%d changes, %s to store", s.PendingOps, size(s.PendingBytes)))
		}
	}
}

func size(n int64) string {
	for _, unit := range []string{"B", "KiB", "MiB"} {
		if n < 10<<10 {
			return fmt.Sprintf("%d %s", n, unit)
		}
		n >>= 10
	}
	return fmt.Sprintf("%d GiB", n)
}

// handle carries out what a verb asks.
func (d *daemon) handle(ctx context.Context, req request, progress func(string)) (any, error) {
	switch req.Op {
	case "status":
		return d.status(), nil
	case "sync":
		return nil, d.sync(ctx, req.Timeout, progress)
	case "umount":
		return nil, d.umount(ctx, req.NoDrain, progress)
	case "check":
		return d.check(ctx, req.ReadData, progress)
	}
	return nil, fmt.Errorf("%w: this daemon is of another version and does not know the verb", ErrUsage)
}

func (d *daemon) sync(ctx context.Context, timeout time.Duration, progress func(string)) error {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
		progress("storing")
	}
	err := d.vault.Sync(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: not everything is in the store after %v; the journal keeps what waits", backend.ErrAway, timeout)
	}
	return err
}

// umount drains, unmounts and waits for run to end the vault. Before the
// unmount, an error leaves everything as it was.
func (d *daemon) umount(ctx context.Context, noDrain bool, progress func(string)) error {
	if !d.leave(noDrain) {
		return fmt.Errorf("%w: another umount is under way", ErrBusy)
	}
	if err := d.unmount(ctx, noDrain, progress); err != nil {
		d.stay()
		return err
	}
	<-d.ended
	return d.endErr
}

func (d *daemon) leave(noDrain bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.leaving {
		return false
	}
	d.leaving, d.noDrain = true, noDrain
	return true
}

func (d *daemon) stay() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.leaving, d.noDrain = false, false
}

func (d *daemon) unmount(ctx context.Context, noDrain bool, progress func(string)) error {
	if err := d.checkBusy(); err != nil {
		return err
	}
	if !noDrain && !d.cfg.ReadOnly {
		if err := d.drain(ctx, progress); err != nil {
			return err
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
