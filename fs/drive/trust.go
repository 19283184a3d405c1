package drive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"kist/crypto/keys"
	engine "kist/fs"
	"kist/fs/home"
	"kist/fs/journal"
	"kist/fs/log"
)

// resetName is the file of a reset that has been decided and is not yet
// recorded in the log. While it is there, nothing is mounted.
const resetName = "reset"

var errUnfinished = fmt.Errorf("%w: a trust reset was decided here and is not yet recorded in the log; run kist trust reset again", home.ErrInUse)

// decision is what the file holds.
type decision struct {
	Remembered log.Head
	Accept     log.Head
	Pending    []byte // the commit that records it, once it is signed
}

// Confirm is shown what is remembered and what the store shows, and agrees by
// returning nil.
type Confirm func(remembered, found string) error

// ResetTrust makes this device accept the head that the store shows, after
// confirm has agreed, and records that in the log. If want is not empty, it is
// the only head that is accepted.
func ResetTrust(ctx context.Context, root home.Root, store, want string, confirm Confirm, ask Asker) error {
	p, err := find(ctx, root, store)
	if err != nil {
		return err
	}
	lock, err := p.home.Lock()
	if err != nil {
		return err
	}
	defer lock.Release()
	pass, err := ask()
	if err != nil {
		return err
	}
	defer clear(pass)
	s, err := p.unlock(pass)
	if err != nil {
		return err
	}
	defer s.Wipe()
	st, err := p.connect(ctx)
	if err != nil {
		return err
	}
	r := resetting{p, log.Config{Store: st, Vault: s.TopVault, Session: s, Now: time.Now, CheckRoot: checkRoot}}
	d, err := r.decided()
	if errors.Is(err, fs.ErrNotExist) {
		d, err = r.decide(ctx, want, confirm)
	}
	if err != nil {
		return err
	}
	return r.carryOut(ctx, d)
}

type resetting struct {
	place
	cfg log.Config
}

func (r resetting) decided() (d decision, err error) {
	raw, err := os.ReadFile(r.home.Path(resetName))
	if err != nil {
		return d, err
	}
	return d, json.Unmarshal(raw, &d)
}

func (r resetting) save(d decision) error {
	raw, err := json.Marshal(d)
	if err != nil {
		return err
	}
	return home.WriteFile(r.home.Path(resetName), raw)
}

func (r resetting) decide(ctx context.Context, want string, confirm Confirm) (decision, error) {
	found, err := log.Newest(ctx, r.cfg)
	if err != nil {
		return decision{}, err
	}
	d := decision{Accept: found.Head}
	said, err := r.remembered(&d)
	if err != nil {
		return d, err
	}
	if want != "" && !isHead(want, found.Head) {
		return d, fmt.Errorf("%w: the store shows %s, not the head that was named; nothing was changed", log.ErrFork, found.Head)
	}
	if err := confirm(said, found.Head.String()); err != nil {
		return d, err
	}
	return d, r.save(d)
}

// remembered says what this device remembers, if that can be read.
func (r resetting) remembered(d *decision) (string, error) {
	trust, err := r.openTrust(r.cfg.Session)
	if errors.Is(err, log.ErrNoTrust) {
		return "nothing that can be read", nil
	}
	if err != nil {
		return "", err
	}
	head, ok := trust.Vault(r.cfg.Vault)
	if !ok {
		return "nothing", nil
	}
	d.Remembered = head
	return head.String(), nil
}

// isHead accepts the forms in which a head is shown: «sequence (hash)», or the
// hash or at least eight digits of it.
func isHead(want string, h log.Head) bool {
	full := fmt.Sprintf("%x", h.Hash)
	return want == h.String() || len(want) >= 8 && strings.HasPrefix(full, strings.ToLower(want))
}

// carryOut makes the memory what was decided, and records it in the log. It may
// be cut short anywhere and called again.
func (r resetting) carryOut(ctx context.Context, d decision) error {
	trust, err := r.freshTrust()
	if err != nil {
		return err
	}
	r.cfg.Trust = trust
	if d.Pending == nil {
		if err := trust.Reset(r.cfg.Vault, d.Accept); err != nil {
			return err
		}
		if err := r.tellJournal(trust); err != nil {
			return err
		}
	}
	l, err := log.Open(ctx, r.cfg)
	if err != nil {
		return err
	}
	if d.Pending != nil {
		err = l.Resume(ctx, d.Pending)
	} else {
		err = log.ErrLost
	}
	for errors.Is(err, log.ErrLost) {
		err = r.record(ctx, l, d)
	}
	if err != nil {
		return err
	}
	return withoutPath(os.Remove(r.home.Path(resetName)))
}

// tellJournal lets the journal know, which knows as much as the trust file and would
// contradict it.
func (r resetting) tellJournal(trust *log.Trust) error {
	dir := r.journalDir(r.cfg.Session)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil // it never was mounted
	}
	disk, err := journal.OpenDisk(dir)
	if err != nil {
		return withoutPath(err)
	}
	return engine.AcceptTrust(disk, r.cfg.Session.JournalKey(), r.cfg.Vault, trust)
}

// freshTrust opens the memory, or makes a new one in place of one that does not
// open.
func (r resetting) freshTrust() (*log.Trust, error) {
	trust, err := r.openTrust(r.cfg.Session)
	if !errors.Is(err, log.ErrNoTrust) {
		return trust, err
	}
	for _, name := range log.TrustNames {
		if err := os.Remove(r.home.Path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, withoutPath(err)
		}
	}
	return newTrust(r.home, r.cfg.Session)
}

// record appends a commit that changes nothing and says what was decided.
func (r resetting) record(ctx context.Context, l *log.Log, d decision) error {
	for {
		c, err := l.Next(ctx)
		if err != nil {
			return err
		}
		if c == nil {
			break
		}
	}
	p, err := l.Prepare(log.Body{Kind: log.Ordinary, Root: l.Head().Root,
		Override: &log.Override{Vault: r.cfg.Vault, Remembered: d.Remembered, Accept: d.Accept}})
	if err != nil {
		return err
	}
	d.Pending = p.Bytes
	if err := r.save(d); err != nil {
		return err
	}
	return l.Append(ctx, p)
}

func newTrust(h *home.Home, s *keys.Session) (*log.Trust, error) {
	return log.NewTrust(h.Files(), s.TrustKey(), s.Store)
}

// finished refuses a folder in which a reset waits to be recorded.
func (p place) finished() error {
	if _, err := os.Stat(p.home.Path(resetName)); err == nil {
		return errUnfinished
	}
	return nil
}
