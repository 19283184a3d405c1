package drive

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"kist/crypto/keys"
	"kist/fs/home"
	"kist/fs/log"
)

// MountConfig says what is mounted and how.
type MountConfig struct {
	Store       string // "": the only one known
	Dir         string
	ReadOnly    bool
	AllowOther  bool
	NoExec      bool
	FsyncStore  bool   // fsync waits for the commit
	CacheSize   int64  // bytes on disk
	JournalSize int64  // bytes on disk, at least MinJournal
	Source      string // shown in the kernel's table of mounts, where root mounts; "": kist
}

// Host is the process that serves a mount.
type Host struct {
	Ready    func(note string) error // called when the mount is usable, with what Mount would say
	Progress func(string)            // how far the storing before the end is; may be nil
	Hurry    <-chan struct{}         // closed when the rest is to be left to the journal

	service    *service
	background bool // standard error is the log
}

// Mount returns when the drive is mounted and usable, or with the reason why
// not; the drive is then served by a process of its own. What can be refused
// without the passphrase is refused before it is asked for. note is not empty if
// the store is away: the drive shows what this machine has of it.
func Mount(ctx context.Context, root home.Root, cfg MountConfig, ask Asker) (note string, err error) {
	o, p, err := prepare(ctx, root, cfg, ask)
	if err != nil {
		return "", err
	}
	defer clear(o.Passphrase)
	return launch(ctx, o, p.home.LogPath())
}

// Serve mounts and serves in this very process, which may be a service of
// systemd. When ctx ends, it stores everything and unmounts.
func Serve(ctx context.Context, root home.Root, cfg MountConfig, ask Asker, host Host) error {
	o, _, err := prepare(ctx, root, cfg, ask)
	if err != nil {
		return err
	}
	host.service = theService()
	return serve(ctx, o, host)
}

func prepare(ctx context.Context, root home.Root, cfg MountConfig, ask Asker) (order, place, error) {
	none := order{}
	var err error
	if cfg.Dir, err = absolute(cfg.Dir); err != nil {
		return none, place{}, err
	}
	p, err := find(ctx, root, cfg.Store)
	if err != nil {
		return none, p, err
	}
	cfg.Store = p.spec.String()
	held, err := p.home.Held(p.answers)
	if err == nil && held {
		err = p.takeOver(ctx)
	}
	if err != nil {
		return none, p, err
	}
	if err := prepareDir(cfg.Dir); err != nil {
		return none, p, err
	}
	if _, err := p.home.Check(); err != nil {
		return none, p, err
	}
	if err := p.finished(); err != nil {
		return none, p, err
	}
	if _, err := p.keyfile(); err != nil {
		return none, p, err
	}
	pass, err := ask()
	return order{cfg, root, pass}, p, err
}

// takeOver lets the daemon of a drive that is unmounted, and still being stored,
// leave the rest to us.
func (p place) takeOver(ctx context.Context) error {
	c, err := call(ctx, p.home.ControlPath(), request{Op: "yield"}, nil, nil)
	if c != nil {
		defer c.Close()
	}
	var told *Told
	if errors.As(err, &told) || ctx.Err() != nil {
		return err
	}
	return home.Free(p.home.Dir(), gone) // where it has ended meanwhile, too
}

// answers says whether a daemon listens for this state folder.
func (p place) answers() bool {
	c, err := dialUnix(p.home.ControlPath())
	if err != nil {
		return false
	}
	c.Close()
	return true
}

var errNoDevice = fmt.Errorf("%w: it is an export without a device; run kist id device new", keys.ErrKeyfile)

// unlock opens the keyfile and makes sure that it belongs to this folder on
// this machine.
func (p place) unlock(pass []byte) (*keys.Session, error) {
	k, err := p.keyfile()
	if err != nil {
		return nil, err
	}
	run, err := stretch()
	if err != nil {
		return nil, err
	}
	s, err := k.OpenMain(run, pass)
	if err != nil {
		return nil, err
	}
	if !s.HasDevice() {
		return nil, errNoDevice
	}
	return s, p.home.CheckAgainst(s.State, s.Machine)
}

// openTrust reads the device's memory, for verbs that work beside a mount.
func (p place) openTrust(s *keys.Session) (*log.Trust, error) {
	return log.OpenTrust(p.home.Files(), s.TrustKey(), s.Store)
}

// journalDir is the folder of the top vault's journal.
func (p place) journalDir(s *keys.Session) string {
	return filepath.Join(p.home.JournalDir(), fmt.Sprintf("%x", s.TopVault))
}

// gone is how long a daemon that has unmounted may take to end.
const gone = 10 * time.Second

// Umount brings everything into the store, unmounts, and returns when the
// daemon has gone and its lock is free, with what is left in the journal. An
// error before the unmount leaves the drive mounted. A mount whose daemon has
// died is taken away.
func Umount(ctx context.Context, dir string, noDrain bool, progress func(string)) (Left, error) {
	var left Left
	socket, err := controlOf(ctx, dir)
	if errors.Is(err, ErrDead) {
		return left, clearDead(dir)
	}
	if err != nil {
		return left, err
	}
	c, err := call(ctx, socket, request{Op: "umount", NoDrain: noDrain}, &left, progress)
	if c == nil {
		return left, err
	}
	defer c.Close()
	if ctx.Err() != nil {
		return left, errors.New("interrupted; unless that was too late, the drive is still mounted; kist umount --no-drain leaves what waits in the journal")
	}
	if err != nil {
		return left, err
	}
	if err := home.Free(filepath.Dir(socket), gone); err != nil {
		return left, err
	}
	awaitEnd(c)
	return left, nil
}

// reaped is how long a process that has freed everything may still be listed: its
// parent may not look after it at once, or at all.
const reaped = 2 * time.Second

// awaitEnd waits until the process at the other end is no longer there.
func awaitEnd(c net.Conn) {
	pid, ok := peer(c)
	for end := time.Now().Add(reaped); ok && time.Now().Before(end); {
		if unix.Kill(pid, 0) == unix.ESRCH {
			return
		}
		time.Sleep(2 * time.Millisecond) // there is no call that waits for the child of another
	}
}
