package drive

import (
	"context"
	"fmt"

	"kist/backend"
	"kist/crypto/keys"
	"kist/fs/home"
	"kist/fs/log"
)

// NewDevice makes the state folder a device of its own: with a new key,
// certified there and then, a new journal and a new state. What the old journal
// holds is set aside with the keyfile that opens it. The old device stays certified: it may be alive elsewhere.
func NewDevice(ctx context.Context, root home.Root, store string, ask Asker) error {
	p, err := find(ctx, root, store)
	if err != nil {
		return err
	}
	lock, err := p.home.Lock()
	if err != nil {
		return err
	}
	defer lock.Release()
	k, err := p.keyfile()
	if err != nil {
		return err
	}
	st, err := p.connect(ctx)
	if err != nil {
		return err
	}
	run, pass, err := unlock(ask)
	if err != nil {
		return err
	}
	defer clear(pass)
	master, s, err := k.OpenMaster(run, pass)
	if err != nil {
		return err
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

// do is ordered so that a failure at any point can be answered by calling it
// again: the keyfile comes last, and what is set aside twice is there twice.
func (r renewal) do(ctx context.Context) error {
	seen, known := r.remembered()
	return r.home.Renew(func(_ []byte, mark [32]byte) ([]byte, [16]byte, error) {
		if err := r.home.SetAside(log.TrustNames[:]...); err != nil {
			return nil, [16]byte{}, fmt.Errorf("setting the journal aside: %w", withoutPath(err))
		}
		raw, err := newDevice(ctx, r.store, r.home, r.stretch, r.cost, r.pass, r.master, r.session, mark)
		if err != nil || !known {
			return raw, r.session.State, err
		}
		// What the store has shown to the old device, it must show to the new one.
		trust, err := r.openTrust(r.session)
		if err == nil {
			err = trust.Reset(r.session.TopVault, seen)
		}
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
