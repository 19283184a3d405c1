package log

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"kist/backend"
	"kist/crypto/seal"
)

// Log is one vault's chain, open on this device.
type Log struct {
	cfg    Config
	vault  seal.VaultID
	people people

	// turn holds one token; who has it may ask the store and move the head. It
	// guards what follows up to mu.
	turn    chan struct{}
	rosters map[uint64]*Commit // membership commits that were verified
	known   map[uint64]Hash    // commits that this session verified
	ahead   *read              // a commit that Append found in its slot, judged, for Next
	idle    int                // polls that found nothing

	mu      sync.Mutex // taken after turn, never held across a request; guards what follows
	head    *Commit
	unmet   bool     // the head comes out of the cache and the store has not been asked: see Recall
	doubt   bool     // the store was away since it last showed the head: see Doubt
	roster  *Commit  // the membership commit in force
	voids   []Void   // slots behind the head that hold nothing
	sent    *Pending // handed to Append, its fate not known
	secrets secrets
	self    person // this identity, at the point that its next commit names
}

// read is a commit and the bytes it was read from.
type read struct {
	c   *Commit
	raw []byte
}

func newLog(cfg Config) *Log {
	if cfg.Cache == nil {
		cfg.Cache = noCache{}
	}
	if cfg.CheckRoot == nil {
		cfg.CheckRoot = func([]byte) error { return nil }
	}
	l := &Log{
		cfg: cfg, vault: cfg.Vault, turn: make(chan struct{}, 1),
		rosters: map[uint64]*Commit{}, known: map[uint64]Hash{}, secrets: secrets{},
		people: people{store: cfg.Store, cache: cfg.Cache, memo: map[IdentityHead]person{}},
	}
	l.turn <- struct{}{}
	return l
}

// Vault is the vault's id.
func (l *Log) Vault() seal.VaultID { return l.vault }

// Head is the newest commit seen.
func (l *Log) Head() *Commit {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head
}

// Role is this identity's role after the head; zero if it is no member.
func (l *Log) Role() Role { return l.Head().RoleOf(l.cfg.Session.Identity) }

// Voids are the slots behind the head that hold nothing valid.
func (l *Log) Voids() []Void {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.voids)
}

// Next asks for the next slot and returns the commit that stands there, nil if
// there is none yet. The trust file knows the commit before the caller does. After
// Recall, the first call moves the head to the newest that is there, and returns nil.
func (l *Log) Next(ctx context.Context) (*Commit, error) {
	if err := l.begin(ctx); err != nil {
		return nil, err
	}
	defer l.end()
	if l.Recalled() {
		return nil, l.meet(ctx)
	}
	for {
		found, err := l.ask(ctx)
		if errors.Is(err, backend.ErrNotExist) {
			return nil, l.nothing(ctx)
		}
		if err != nil {
			return nil, err
		}
		if found != nil {
			return found.c, l.take(ctx, found, true)
		}
	}
}

// ask reads and judges the next slot; nil: it is void.
func (l *Log) ask(ctx context.Context) (*read, error) {
	if l.ahead != nil {
		return l.ahead, nil
	}
	seq := l.slot()
	raw, err := l.get(ctx, seq)
	if err != nil {
		return nil, err
	}
	return l.step(ctx, seq, raw)
}

// nothing counts empty polls. A store that went back answers them as one where
// nothing happens, so that now and then the head is looked at again.
func (l *Log) nothing(ctx context.Context) error {
	l.idle++
	if l.idle%16 != 0 {
		return nil
	}
	return l.check(ctx)
}

// Check reads the head's slot again, and the one behind the next: does the
// store still show what it showed?
func (l *Log) Check(ctx context.Context) error {
	if err := l.begin(ctx); err != nil {
		return err
	}
	defer l.end()
	if l.Recalled() {
		return l.meet(ctx)
	}
	return l.check(ctx)
}

func (l *Log) check(ctx context.Context) error {
	head, slot := l.Head().Head, l.slot()
	got, err := l.readMany(ctx, []uint64{head.Seq, slot + 1})
	if err != nil {
		return err
	}
	if _, err := l.confirm(ctx, head, got[0]); err != nil {
		return err
	}
	if got[1] == nil {
		return nil
	}
	_, err = l.gap(ctx, slot, [][]byte{got[1]})
	return err
}

// begin waits for the turn.
func (l *Log) begin(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-l.turn:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *Log) end() { l.turn <- struct{}{} }

// slot is the one that the next commit goes into.
func (l *Log) slot() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next()
}

func (l *Log) next() uint64 { return l.head.Seq + 1 + uint64(len(l.voids)) }

// state is what the next commit is judged by.
func (l *Log) state() before {
	l.mu.Lock()
	defer l.mu.Unlock()
	return before{roster: l.roster, prev: l.head, voids: slices.Clone(l.voids)}
}

func (l *Log) secret(epoch uint32) (seal.Key, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	es, ok := l.secrets[epoch]
	return es, ok
}

// step judges the bytes of the next slot. nil without error: they are void, and
// the slot after is next.
func (l *Log) step(ctx context.Context, seq uint64, raw []byte) (*read, error) {
	state := l.state()
	found, err := l.settle(ctx, seq, raw, func(raw []byte) (*Commit, error) {
		return l.judge(ctx, raw, seq, state)
	})
	if !isBad(err) {
		return found, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.voids) >= MaxVoids {
		return nil, fmt.Errorf("more than %d slots in a row hold junk: %w", MaxVoids, ErrWithheld)
	}
	l.voids = append(l.voids, nameOf(seq, raw))
	if l.sent != nil && l.sent.Seq == seq {
		l.sent = nil
	}
	return nil, nil
}

// take makes a valid commit the head. Remembering comes first: what was shown
// must not be forgotten.
func (l *Log) take(ctx context.Context, r *read, remember bool) error {
	fresh, err := l.opened(r)
	if err != nil {
		return err
	}
	self, err := l.selfAfter(ctx, r.c)
	if err != nil {
		return err
	}
	if remember {
		if err := l.remember(r.c); err != nil {
			return err
		}
	}
	l.cfg.Cache.Put(l.key(r.c.Seq), r.raw)
	l.ahead, l.idle = nil, 0
	l.mu.Lock()
	defer l.mu.Unlock()
	l.head, l.voids, l.self = r.c, nil, self
	l.known[r.c.Seq] = r.c.Hash
	if r.c.Kind == Membership {
		l.roster, l.rosters[r.c.Seq] = r.c, r.c
	}
	maps.Copy(l.secrets, fresh)
	if l.sent != nil && l.sent.Seq <= r.c.Seq {
		l.sent = nil
	}
	return nil
}

// opened returns the secret of an epoch that the commit starts. Without a wrap
// for this identity there is none: the next commit will be ErrNotMember.
func (l *Log) opened(r *read) (secrets, error) {
	if r.c.Kind != Membership {
		return nil, nil
	}
	if _, ok := l.secret(r.c.Roster.Epoch); ok {
		return nil, nil
	}
	o, err := parseObject(r.raw, l.vault, r.c.Seq)
	if err != nil {
		return nil, err
	}
	sec := secrets{}
	err = learn(l.cfg.Session, sec, o)
	if errors.Is(err, errNoWrap) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("commit %s: its owner wrapped no usable key: %w", r.c.Head, ErrNotMember)
	}
	if err := sec.holds(l.vault, r.c.Roster); err != nil {
		return nil, fmt.Errorf("commit %s: %w", r.c.Head, err)
	}
	return secrets{r.c.Roster.Epoch: sec[r.c.Roster.Epoch]}, nil
}

func (l *Log) remember(c *Commit) error {
	if l.cfg.Trust == nil {
		return nil
	}
	return l.cfg.Trust.Advance(l.vault, c.Head, c.Identities)
}

// selfAfter finds this identity's object at the point that its next commit has
// to name: the newest that keyfile and log know.
func (l *Log) selfAfter(ctx context.Context, c *Commit) (person, error) {
	s := l.cfg.Session
	if c.RoleOf(s.Identity) < Writer || !s.HasDevice() {
		return person{}, nil
	}
	point, _ := findPoint(c.Identities, s.Identity)
	if s.Head.Seq > point.Seq {
		point = Head{s.Head.Seq, s.Head.Hash}
	}
	return l.people.find(ctx, IdentityHead{s.Identity, point})
}

// EpochKey derives a key of the vault from the secret of an epoch, up to that
// of the head. Older epochs may ask the store.
func (l *Log) EpochKey(ctx context.Context, epoch uint32, label seal.Label) (seal.Key, error) {
	es, ok := l.secret(epoch)
	if !ok {
		if err := l.begin(ctx); err != nil {
			return seal.Key{}, err
		}
		defer l.end()
		if err := l.loadPast(ctx); err != nil {
			return seal.Key{}, err
		}
		if es, ok = l.secret(epoch); !ok {
			return seal.Key{}, fmt.Errorf("epoch %d: %w", epoch, ErrNotMember)
		}
	}
	return seal.DeriveKey(es, label, epochContext(l.vault, epoch)), nil
}
