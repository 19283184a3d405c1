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

// gcPercent lets the heap grow by half of what is in use before it is swept: a
// daemon that is there all day should rather cost time than memory.
const gcPercent = 50

// daemon serves one mounted drive.
type daemon struct {
	cfg     MountConfig
	place   place
	store   *gauge
	session *keys.Session
	cache   *cache.Cache
	vault   *fs.Vault
	mount   *mount.Server
	logger  *slog.Logger
	service *service
	began   time.Time

	patience context.Context // of drains; ends with the reason to leave the rest to the journal
	hasten   context.CancelCauseFunc

	mu      sync.Mutex
	leaving bool  // an umount is under way
	noDrain bool  // what is not in the store stays in the journal
	why     error // and the reason, where nobody asked for it

	up     chan struct{} // closed when mount is set, or never will be
	gone   chan struct{} // closed when the mount is
	ended  chan struct{} // closed when the vault is, with left and endErr
	left   Left
	endErr error
}

// serve mounts, tells the host, and returns when the drive is unmounted. When
// ctx ends, it drains and unmounts.
func serve(ctx context.Context, o order, host Host) error {
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
	d := &daemon{cfg: o.Mount, place: p, service: host.service, began: time.Now(), up: make(chan struct{}), gone: make(chan struct{}), ended: make(chan struct{})}
	d.patience, d.hasten = context.WithCancelCause(context.Background())
	defer d.hasten(nil)
	file, err := openLog(p.home.LogPath(), host.background)
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
	defer d.hasten(errEnded) // no sync or check outlives the drive
	err = d.attach()
	close(d.up)
	if err != nil {
		return errors.Join(err, d.abandon())
	}
	d.logger.Info("mounted", "pid", os.Getpid())
	d.service.tell("READY=1", "STATUS=mounted")
	if err := host.Ready(d.note()); err != nil {
		d.logger.Warn("nobody waited for the mount")
	}
	return d.run(ctx, host)
}

// open opens what is mounted: keyfile, store, trust, cache and vault.
func (d *daemon) open(ctx context.Context, pass []byte) error {
	defer clear(pass)
	var err error
	if d.session, err = d.place.unlock(pass); err != nil {
		return err
	}
	d.store = &gauge{Store: newLate(d.place)}
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
		NoExec: d.cfg.NoExec, Source: d.cfg.Source, AsUser: owner(), Control: d.place.home.ControlPath(), Log: d.logger})
	if err != nil {
		return fmt.Errorf("%w; the file log in the state folder may say more", err)
	}
	if err := d.mount.WaitMount(); err != nil {
		d.detach()
		d.mount = nil
		return err
	}
	return nil
}

// abandon closes what open has opened, when nothing was mounted.
func (d *daemon) abandon() error {
	return errors.Join(d.vault.Close(context.Background(), false), d.cache.Close())
}

// handle carries out what a verb asks.
func (d *daemon) handle(ctx context.Context, req request, progress func(string)) (any, error) {
	if <-d.up; d.mount == nil { // who asks before it is mounted waits for that
		return nil, ErrNotMounted
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(d.patience, func() { cancel(context.Cause(d.patience)) })()
	switch req.Op {
	case "status":
		return d.status(), nil
	case "sync":
		return nil, d.sync(ctx, req.Timeout, progress)
	case "umount":
		return d.umount(ctx, req.NoDrain, progress)
	case "yield":
		return nil, d.yield()
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
	}
	err := d.watched(progress, func() {}, func() error { return d.vault.Sync(ctx) })
	if left := context.Cause(ctx); err != nil && errors.Is(left, ErrLeft) {
		return left
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: not everything is in the store after %v; the journal keeps what waits", backend.ErrAway, timeout)
	}
	return err
}
