package log

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"

	"kist/crypto/seal"
)

// Create makes a new vault with this identity as its only owner: genesis in
// slot 0, root as the tree's state. The identity's object must be in the store.
// The vault's id is random, so an error leaves at most a stranger behind, and
// calling again makes another vault.
func Create(ctx context.Context, cfg Config, root []byte) (*Log, error) {
	l := newLog(cfg)
	s := cfg.Session
	who, err := l.people.find(ctx, IdentityHead{s.Identity, Head{s.Head.Seq, s.Head.Hash}})
	if err != nil {
		return nil, err
	}
	if _, ok := who.state.DeviceKey(s.Device); !ok {
		return nil, fmt.Errorf("%w: the device is not certified, or was revoked", ErrRole)
	}
	es := seal.NewKey()
	bd := firstBody(cfg, who, es, root)
	l.vault = vaultID(bd.encode())
	l.cfg.Vault = l.vault
	clear, err := makeClear(l.vault, bd.author, bd.roster, []NewMember{{who.state, Owner}}, es, nil)
	if err != nil {
		return nil, err
	}
	h := header{vault: l.vault, clear: sha256.Sum256(clear)}
	l.secrets[0] = es
	raw := sealCommit(s, commitKey(es, l.vault, 0), h, clear, bd.encode())
	c, err := l.judgeGenesis(ctx, raw)
	if err != nil {
		return nil, fmt.Errorf("first commit: %w (%w)", ErrBody, err)
	}
	created := cfg.Store.Create(ctx, l.key(0), raw)
	back, err := l.get(ctx, 0)
	if err != nil || !bytes.Equal(back, raw) {
		return nil, fmt.Errorf("first commit: %w: %w", ErrUnknown, errOr(created, err))
	}
	l.self = who
	l.roster = c
	return l, l.take(ctx, &read{c, raw}, true)
}

func firstBody(cfg Config, who person, es seal.Key, root []byte) *body {
	s := cfg.Session
	point := Head{who.state.Head.Seq, who.state.Head.Hash}
	r := &Roster{
		Members:  []Member{{s.Identity, Owner, point}},
		ESCommit: commitment(es, seal.VaultID{}, 0),
	}
	rand.Read(r.Nonce[:])
	g := &genesis{store: s.Store}
	copy(g.master[:], who.state.Master)
	return &body{
		kind: Membership, author: s.Identity, device: s.Device, point: point, identity: who.raw,
		time: cfg.Now().UnixNano(), root: root, points: r.pins(), roster: r, genesis: g,
	}
}

func errOr(first, second error) error {
	if first != nil {
		return first
	}
	if second != nil {
		return second
	}
	return fmt.Errorf("the store returned other bytes: %w", ErrWithheld)
}
