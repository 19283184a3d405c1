package drive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"kist/backend"
	"kist/crypto/keys"
	engine "kist/fs"
	"kist/fs/home"
	"kist/fs/journal"
	"kist/fs/log"
)

// Renewed is what NewDevice has done.
type Renewed struct {
	Carried int  // changes of the former device that were not in the store and are now
	Left    int  // former journals that can't be carried over
	Went    bool // no new device: an earlier call has made it, this one has brought it to its end
}

// NewDevice makes the state folder a device of its own: with a new key,
// certified there and then, a new journal and a new memory. What the old journal
// holds and the log does not is carried over; the journal itself is kept. If
// that fails, the new device is there and what was not carried over waits:
// calling again goes on with it. The old device stays certified: it may be
// alive elsewhere.
func NewDevice(ctx context.Context, root home.Root, store string, ask Asker) (*Renewed, error) {
	p, err := find(ctx, root, store)
	if err != nil {
		return nil, err
	}
	lock, err := p.home.Lock()
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	k, err := p.keyfile()
	if err != nil {
		return nil, err
	}
	st, err := p.connect(ctx)
	if err != nil {
		return nil, err
	}
	run, pass, err := unlock(ask)
	if err != nil {
		return nil, err
	}
	defer clear(pass)
	master, s, err := k.OpenMaster(run, pass)
	if err != nil {
		return nil, err
	}
	defer master.Wipe()
	defer s.Wipe()
	return renewal{p, st, run, k.Params(), pass, master, s}.do(ctx)
}

type renewal struct {
	place
	store   backend.Store
	stretch keys.Stretcher
	cost    keys.Params
	pass    []byte
	master  *keys.Master
	session *keys.Session
}

func (r renewal) do(ctx context.Context) (*Renewed, error) {
	wait, err := r.waiting()
	if err != nil {
		return nil, err
	}
	if len(wait) > 0 && r.session.HasDevice() && r.home.CheckAgainst(r.session.State, r.session.Machine) == nil {
		done, err := r.adopt(ctx, wait)
		if !errors.Is(err, engine.ErrCloned) {
			done.Went = true
			return done, err
		}
	}
	if err := r.renew(ctx); err != nil {
		return nil, err
	}
	if wait, err = r.waiting(); err != nil {
		return nil, err
	}
	return r.adopt(ctx, wait)
}

func (r renewal) waiting() (wait []home.Former, err error) {
	all, err := r.home.Formers()
	for _, f := range all {
		if f.End() == "" {
			wait = append(wait, f)
		}
	}
	return wait, err
}

// renew is ordered so that a failure at any point can be answered by calling it
// again: the keyfile comes last, and what is set aside twice is there twice.
func (r renewal) renew(ctx context.Context) error {
	seen, known := r.remembered()
	return r.home.Renew(func(_ []byte, mark [32]byte) ([]byte, [16]byte, error) {
		none := [16]byte{}
		if err := enlist(ctx, r.store, r.master, r.session, mark); err != nil {
			return nil, none, err
		}
		if err := r.home.SetAside(log.TrustNames[:]...); err != nil {
			return nil, none, fmt.Errorf("setting the journal aside: %w", withoutPath(err))
		}
		trust, err := newTrust(r.home, r.session)
		if err == nil && known {
			// What the store has shown to the old device, it must show to the new one.
			err = trust.Reset(r.session.TopVault, seen)
		}
		if err != nil {
			return nil, none, err
		}
		raw, err := sealed(r.stretch, r.cost, r.pass, r.master, r.session)
		return raw, r.session.State, err
	})
}

// remembered is the head that the old device has seen, if its memory opens.
func (r renewal) remembered() (log.Head, bool) {
	if !r.session.HasDevice() {
		return log.Head{}, false
	}
	trust, err := r.openTrust(r.session)
	if err != nil {
		return log.Head{}, false
	}
	return trust.Vault(r.session.TopVault)
}

// adopt carries over what former devices of this folder had not stored.
func (r renewal) adopt(ctx context.Context, wait []home.Former) (*Renewed, error) {
	done := &Renewed{}
	if len(wait) == 0 {
		return done, nil
	}
	trust, err := r.openTrust(r.session)
	if err != nil {
		return done, err
	}
	disk, err := journal.OpenDisk(r.journalDir(r.session))
	if err != nil {
		return done, withoutPath(err)
	}
	v, err := engine.Open(ctx, engine.Options{Store: r.store, Vault: r.session.TopVault, Session: r.session, Trust: trust,
		Disk: disk, Now: time.Now, Manual: true})
	if err != nil {
		return done, unfinished(err)
	}
	for _, f := range wait {
		n, err := r.adoptOne(ctx, v, f)
		end := home.Adopted
		if hopeless(err) {
			end, err = home.Left, nil
			done.Left++
		}
		if err == nil {
			err = withoutPath(f.SetEnd(end))
		}
		if err != nil {
			_ = v.Close(ctx, false) // it failed already, and holds nothing of its own
			return done, unfinished(err)
		}
		done.Carried += n
	}
	return done, v.Close(ctx, false)
}

func unfinished(err error) error {
	return fmt.Errorf("%w; this machine is a device of its own now, but what the former one had not stored is not yet carried over: "+
		"nothing of it is lost, run kist id device new again", err)
}

// hopeless reports whether trying again can't help.
func hopeless(err error) bool {
	for _, kind := range []error{engine.ErrUnrelated, journal.ErrKey, keys.ErrKeyfile, keys.ErrPassphrase} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

func (r renewal) adoptOne(ctx context.Context, v *engine.Vault, f home.Former) (int, error) {
	dir := filepath.Join(f.JournalDir(), filepath.Base(r.journalDir(r.session)))
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return 0, nil // it never was mounted
	}
	raw, err := f.Keyfile()
	if err != nil {
		return 0, withoutPath(err)
	}
	k, err := parseKeyfile(raw, r.home.ID())
	if err != nil {
		return 0, err
	}
	s, err := k.OpenMain(r.stretch, r.pass)
	if err != nil {
		return 0, err
	}
	defer s.Wipe()
	if !s.HasDevice() {
		return 0, nil
	}
	disk, err := journal.OpenDisk(dir)
	if err != nil {
		return 0, withoutPath(err)
	}
	return v.Adopt(ctx, disk, s.JournalKey(), s.Device)
}
