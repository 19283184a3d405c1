package log

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"kist/crypto/seal"
)

// Prepare signs and seals a commit for the next slot. It asks nothing of the
// network. The caller makes Pending.Bytes durable before Append.
func (l *Log) Prepare(b Body) (*Pending, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	seq := l.next()
	if l.sent != nil && l.sent.Seq == seq {
		return nil, fmt.Errorf("commit %d: %w", seq, ErrPending)
	}
	if err := l.mayAppend(b.Kind); err != nil {
		return nil, err
	}
	bd, err := l.body(b)
	if err != nil {
		return nil, err
	}
	es, ok := l.secrets[l.roster.Roster.Epoch]
	if !ok {
		return nil, fmt.Errorf("epoch %d: %w", l.roster.Roster.Epoch, ErrNotMember)
	}
	var clear []byte
	if b.Kind == Membership {
		if clear, err = l.membership(bd, b, es); err != nil {
			return nil, err
		}
	}
	h := header{
		vault: l.vault, seq: seq, epoch: l.roster.Roster.Epoch, roster: l.roster.Seq,
		prev: l.head.Hash, clear: sha256.Sum256(clear),
	}
	raw := sealCommit(l.cfg.Session, commitKey(es, l.vault, h.epoch), h, clear, bd.encode())
	if err := l.checkOwn(raw, seq, bd); err != nil {
		return nil, fmt.Errorf("commit %d: %w (%w)", seq, ErrBody, err)
	}
	return &Pending{Head: Head{seq, hashObject(raw)}, Bytes: raw}, nil
}

func (l *Log) mayAppend(k Kind) error {
	s := l.cfg.Session
	if !allowed(l.roster.Roster.role(s.Identity), k) {
		return fmt.Errorf("%w: the role is too low", ErrRole)
	}
	if l.self.state == nil {
		return fmt.Errorf("%w: this keyfile has no device", ErrRole)
	}
	if _, ok := l.self.state.DeviceKey(s.Device); !ok {
		return fmt.Errorf("%w: the device is not certified, or was revoked", ErrRole)
	}
	return nil
}

// body fills in what the log knows.
func (l *Log) body(b Body) (*body, error) {
	s := l.cfg.Session
	point := Head{l.self.state.Head.Seq, l.self.state.Head.Hash}
	bd := &body{
		kind: b.Kind, author: s.Identity, device: s.Device, point: point,
		time: l.cfg.Now().UnixNano(), rosterAt: l.roster.Head,
		root: l.head.Root, devices: l.head.Devices, voids: l.voids,
		points: raise(l.head.Identities, s.Identity, point),
		heads:  b.Heads, summary: b.Summary, override: b.Override,
	}
	if known, _ := findPoint(l.head.Identities, s.Identity); known != point {
		bd.identity = l.self.raw
	}
	if b.Kind == Ordinary {
		bd.root, bd.nodes = b.Root, b.Nodes
	} else if b.Root != nil || b.Nodes != nil {
		return nil, fmt.Errorf("%w: this kind of commit changes no tree", ErrBody)
	}
	if b.Row != nil {
		bd.devices = withRow(l.head.Devices, *b.Row, s.Device)
	}
	return bd, nil
}

// withRow replaces the device's row, or adds it in its place.
func withRow(rows []DeviceRow, row DeviceRow, device [32]byte) []DeviceRow {
	row.Device = device
	rows = slices.DeleteFunc(slices.Clone(rows), func(d DeviceRow) bool { return d.Device == row.Device })
	at, _ := slices.BinarySearchFunc(rows, row.Number, func(d DeviceRow, n uint16) int { return int(d.Number) - int(n) })
	return slices.Insert(rows, at, row)
}

// membership writes the roster into the body and returns the clear part.
func (l *Log) membership(bd *body, b Body, es seal.Key) ([]byte, error) {
	old := l.roster.Roster
	r := &Roster{
		Epoch: old.Epoch, ESCommit: old.ESCommit,
		Past: append(slices.Clone(old.Past), l.roster.Head),
	}
	rand.Read(r.Nonce[:])
	for _, m := range b.Members {
		if m.State == nil {
			return nil, fmt.Errorf("%w: a member without an identity", ErrBody)
		}
		pin := Head{m.State.Head.Seq, m.State.Head.Hash}
		r.Members = append(r.Members, Member{m.State.ID, m.Role, pin})
	}
	slices.SortFunc(r.Members, func(a, z Member) int { return slices.Compare(a.Identity[:], z.Identity[:]) })
	var before *seal.Key
	if b.Rotate || leaves(old, r) {
		was := es
		before, es = &was, seal.NewKey()
		r.Epoch++
		r.ESCommit = commitment(es, l.vault, r.Epoch)
	}
	bd.roster, bd.points = r, r.pins()
	if len(r.Members) > MaxMembers {
		return nil, fmt.Errorf("%w: more than %d members", ErrBody, MaxMembers)
	}
	return makeClear(l.vault, bd.author, r, b.Members, es, before)
}

// checkOwn holds a prepared commit against the rules that need no network.
func (l *Log) checkOwn(raw []byte, seq uint64, bd *body) error {
	state := before{roster: l.roster, prev: l.head, voids: l.voids}
	o, err := parseObject(raw, l.vault, seq)
	if err != nil {
		return err
	}
	if _, err := parseBody(bd.encode()); err != nil {
		return err
	}
	return errors.Join(state.checkPoint(bd), state.checkChain(o, bd), state.checkState(o, bd), l.cfg.CheckRoot(bd.root))
}
