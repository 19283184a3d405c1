package drive

import (
	"context"
	"strings"
	"time"

	"kist/backend"
	"kist/crypto/keys"
	"kist/fs"
	"kist/fs/check"
	"kist/fs/home"
	"kist/fs/log"
)

// Report is what a check has found.
type Report = check.Report

// Check verifies what is in a store, named as STORE or by the folder where it
// is mounted. In the second case the daemon does it, which has the keys. A
// report with damage comes with ErrDamage; with another error it goes as far as
// the check got, and is nil if that did not begin.
func Check(ctx context.Context, root home.Root, target string, readData bool, pass Asker, progress func(string)) (*Report, error) {
	if !strings.HasPrefix(target, "dir:") && !strings.HasPrefix(target, "s3:") {
		r := new(Report)
		err := ask(ctx, target, request{Op: "check", ReadData: readData}, r, progress)
		if r.Scope == nil { // the daemon has sent none
			r = nil
		}
		return r, err
	}
	p, err := find(ctx, root, target)
	if err != nil {
		return nil, err
	}
	st, err := p.connect(ctx)
	if err != nil {
		return nil, err
	}
	s, err := p.reader(pass)
	if err != nil {
		return nil, err
	}
	defer s.Wipe()
	trust, err := log.OpenTrust(frozen{p.home.Files()}, s.TrustKey(), s.Store)
	if err != nil {
		return nil, err
	}
	return runCheck(ctx, st, s, trust, readData, progress)
}

// reader opens the keyfile for reading alone: also in a folder that is a copy.
func (p place) reader(pass Asker) (*keys.Session, error) {
	k, err := p.keyfile()
	if err != nil {
		return nil, err
	}
	run, secret, err := unlock(pass)
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	s, err := k.OpenMain(run, secret)
	if err == nil && !s.HasDevice() {
		return nil, errNoDevice
	}
	return s, err
}

func (d *daemon) check(ctx context.Context, readData bool, progress func(string)) (*Report, error) {
	trust, err := log.OpenTrust(frozen{d.place.home.Files()}, d.session.TrustKey(), d.session.Store)
	if err != nil {
		return nil, err
	}
	return runCheck(ctx, d.store, d.session, trust, readData, progress)
}

// frozen is the memory of this device as a check uses it: compared with, never
// written, since a mount may be using it.
type frozen struct{ home.Files }

func (frozen) WriteFileDurable(string, []byte) error { return nil }

func runCheck(ctx context.Context, st backend.Store, s *keys.Session, trust *log.Trust, readData bool, progress func(string)) (*Report, error) {
	r, err := check.Run(ctx, check.Config{Store: st, Vault: s.TopVault, Session: s, Trust: trust, FooterKey: fs.FooterKey, Now: time.Now,
		ReadData: readData, Progress: progress})
	if err == nil && r.Damaged() {
		err = ErrDamage
	}
	return r, err
}
