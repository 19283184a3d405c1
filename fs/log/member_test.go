package log

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"testing"

	"kist/backend"
	"kist/backend/mem"
	"kist/crypto/keys"
	"kist/crypto/seal"
)

// D5: the role table, and what each kind may not change.
func TestRoles(t *testing.T) {
	for role := Reader; role <= Owner; role++ {
		for kind := Ordinary; kind <= Numbering; kind++ {
			t.Run(fmt.Sprint(role, kind), func(t *testing.T) {
				w, ann, bob := team(t, role)
				may := allowed(role, kind)
				forged := bob.forgeKind(kind, role)
				w.plant(bob.slot(), forged)
				c, err := ann.Next(ctx)
				if err != nil || (c != nil) != may {
					t.Fatalf("accepted: %v (%v), want %v", c != nil, err, may)
				}
				_, err = bob.Prepare(Body{Kind: kind})
				if errors.Is(err, ErrRole) == may {
					t.Fatalf("prepared: %v", err)
				}
			})
		}
	}
	if allowed(0, Ordinary) || allowed(Owner, 0) || allowed(Owner, 4) {
		t.Fatal("the table has holes")
	}
}

// forgeKind makes a commit of a kind that is right but for the role.
func (a *actor) forgeKind(kind Kind, role Role) []byte {
	l := a.Log
	if role == Reader { // has no number, and its log does not load it
		who, err := l.people.find(ctx, IdentityHead{a.state.ID, Head{a.state.Head.Seq, a.state.Head.Hash}})
		must(a.t, err)
		l.self = who
	}
	return a.forge(func(f *forgery) {
		f.body.kind = kind
		switch kind {
		case Numbering:
			f.body.root = l.head.Root
			f.body.devices = slices.DeleteFunc(slices.Clone(f.body.devices), func(d DeviceRow) bool { return d.Device == a.session.Device })
			if role > Reader { // it has one: a second device's would be needed
				f.body.devices = l.head.Devices
				f.forgeSecondDevice(a)
				return
			}
			f.body.devices = withRow(f.body.devices, DeviceRow{Number: 77}, a.session.Device)
		case Membership:
			f.body.root = l.head.Root
			bd := *f.body
			members := []NewMember{{a.state, Owner}}
			clear, err := l.membership(&bd, Body{Members: members, Rotate: true}, l.secrets[f.epoch])
			must(a.t, err)
			f.clear, f.body = clear, &bd
		}
	})
}

// forgeSecondDevice certifies another device of the actor and numbers that.
func (f *forgery) forgeSecondDevice(a *actor) {
	second := *a.session
	second.SetDevice("second", [32]byte{2})
	a.certify(a.store, a.state, keys.Change{Devices: []keys.NewDevice{{Public: second.DevicePublic(), Name: "second"}}})
	raw, st, err := FetchIdentity(ctx, a.store, a.state.ID, a.state.Head.Seq)
	must(a.t, err)
	f.body.device, f.body.identity = second.Device, raw
	f.body.point = Head{st.Head.Seq, st.Head.Hash}
	f.body.points = raise(f.body.points, a.state.ID, f.body.point)
	f.body.devices = withRow(f.body.devices, DeviceRow{Number: 78}, second.Device)
	f.sign = func(m []byte) []byte { return second.Sign(seal.LabelSigCommit, m) }
}

// C7, A3: after a removal the old epoch is dead, and the removed have no key.
func TestRemoval(t *testing.T) {
	w, ann, bob := team(t, Writer)
	old, self := bob.secrets[0], bob.self
	ann.put(Body{Kind: Membership, Members: []NewMember{{ann.state, Owner}}})
	if ann.Head().Roster.Epoch != 1 {
		t.Fatal("no new epoch")
	}
	if es, _ := ann.secret(1); es == old {
		t.Fatal("the old secret")
	}
	c, err := bob.Next(ctx)
	must(t, err)
	if c.RoleOf(bob.state.ID) != 0 {
		t.Fatal("still a member")
	}
	// Bob and the store: a commit under the old epoch, by its old rights.
	bob.self, bob.secrets[1] = self, seal.NewKey()
	w.plant(ann.slot(), bob.forge(func(f *forgery) {
		f.epoch, f.roster, f.key = 0, 2, commitKey(old, w.vault, 0)
	}))
	delete(bob.secrets, 1)
	mustVoid(t, w, ann)
	if _, err := bob.Next(ctx); !errors.Is(err, ErrNotMember) {
		t.Fatal(err)
	}
	if err := bob.tryOpen(w); !errors.Is(err, ErrNotMember) {
		t.Fatal(err)
	}
	key0, err := ann.EpochKey(ctx, 0, seal.LabelFooterKey)
	must(t, err)
	if want := seal.DeriveKey(old, seal.LabelFooterKey, epochContext(w.vault, 0)); !key0.Equal(want) {
		t.Fatal("the history opened another secret")
	}
	// One who joins now sees the past through the histories.
	eve := w.actor("eve")
	ann.put(Body{Kind: Membership, Members: []NewMember{{ann.state, Owner}, {eve.state, Reader}}})
	eve.Log = eve.invited(w, ann.Head().Head)
	c, err = eve.At(ctx, 1)
	must(t, err)
	if c.Author != ann.state.ID {
		t.Fatal("not ann's")
	}
}

// A3: the store wraps a secret of its own to the victim.
func TestStoreWrapsItsOwnSecret(t *testing.T) {
	w, ann, bob := team(t, Writer)
	evil := seal.NewKey()
	r := *ann.Head().Roster
	r.Nonce[0]++
	r.ESCommit = commitment(evil, w.vault, 0)
	clear, err := makeClear(w.vault, ann.state.ID, &r, []NewMember{{bob.state, Writer}}, evil, nil)
	must(t, err)
	h := header{vault: w.vault, seq: bob.slot(), roster: bob.roster.Seq, prev: bob.Head().Hash, clear: sha256.Sum256(clear)}
	raw := assemble(commitKey(evil, w.vault, 0), h.encode(), clear, (&body{kind: Membership, roster: &r}).encode(), make([]byte, 64))
	w.plant(bob.slot(), raw)
	for _, move := range []bool{false, true} {
		if move {
			bob.move(w)
			w.store.Plant(bob.hintKey(), []byte{0, 0, 0, 0, 0, 0, 0, byte(h.seq)})
			bob.Log = bob.invited(w, ann.Head().Head)
		}
		bob.follow()
		if es, _ := bob.secret(0); es == evil {
			t.Fatal("took the store's secret")
		}
	}
	bob.put(bob.ordinary("on"))
	ann.follow()
	if ann.Head().Head != bob.Head().Head {
		t.Fatal("they do not agree")
	}
}

// A10: a revoked device, and an identity that went back.
func TestRevokedDevice(t *testing.T) {
	w, ann, bob := team(t, Writer)
	second := *bob.session
	second.SetDevice("second", [32]byte{2})
	lost := *bob.session
	bob.certify(bob.store, bob.state, keys.Change{
		Devices: []keys.NewDevice{{Public: second.DevicePublic(), Name: "second"}}, Revoke: []keys.DeviceID{lost.Device},
	})
	second.Head = bob.session.Head
	lostLog := bob.Log
	other := &actor{t: t, name: "bob", master: bob.master, session: &second, state: bob.state}
	other.move(w)
	other.open(w)
	other.number() // carries the new statement into the log
	if len(other.Head().Identities) != 2 {
		t.Fatal("points")
	}
	stolen := &actor{Log: lostLog, t: t, session: &lost, store: lostLog.cfg.Store.(*mem.Store)}
	stolen.follow()
	lostLog.self.state = bob.state
	w.plant(stolen.slot(), stolen.forge(func(f *forgery) {})) // the old statement
	ann.follow()
	mustVoidAgain := func() {
		t.Helper()
		if len(ann.Voids()) != 1 {
			t.Fatalf("%d void slots", len(ann.Voids()))
		}
		ann.put(ann.ordinary("on"))
		stolen.follow()
	}
	mustVoidAgain()
	old, _, err := FetchIdentity(ctx, w.store, bob.state.ID, 0)
	must(t, err)
	w.plant(stolen.slot(), stolen.forge(func(f *forgery) {
		f.body.identity, f.body.point = old, Head{0, sha256.Sum256(old)}
		f.body.points = raise(f.body.points, f.body.author, f.body.point)
	}))
	ann.follow()
	mustVoidAgain()
	if _, err := stolen.Prepare(stolen.ordinary("x")); !errors.Is(err, ErrRole) {
		t.Fatal(err)
	}
}

// D4: strangers in the store change nothing.
func TestStrangers(t *testing.T) {
	w, ann, _ := team(t, Writer)
	for i := range 50 {
		w.plant(ann.slot()+2+uint64(i), []byte("stranger"))
	}
	ann.open(w)
	ann.move(w)
	ann.open(w)
	ann.write("on")
}

func TestPublishIdentity(t *testing.T) {
	w := newWorld(t)
	m := keys.NewMaster()
	s := keys.NewSession(w.id, "zoe", m)
	_, public := s.UserPublic()
	raw, st, err := m.Certify(nil, keys.Change{UserKey: public})
	must(t, err)
	for _, hook := range []mem.Hook{
		func(r mem.Request) mem.Answer { return mem.Answer{Before: backend.ErrAway} },
		func(r mem.Request) mem.Answer {
			if r.Verb == mem.Create {
				return mem.Answer{Before: backend.ErrAway}
			}
			return mem.Answer{}
		},
	} {
		w.store.SetHook(hook)
		if err := PublishIdentity(ctx, w.store, st.ID, 0, raw); !errors.Is(err, ErrUnknown) {
			t.Fatal(err)
		}
	}
	w.store.SetHook(func(r mem.Request) mem.Answer {
		if r.Verb == mem.Create {
			return mem.Answer{After: backend.ErrAway}
		}
		return mem.Answer{}
	})
	must(t, PublishIdentity(ctx, w.store, st.ID, 0, raw))
	must(t, PublishIdentity(ctx, w.store, st.ID, 0, raw)) // again: one's own
	raw2, _, err := m.Certify(nil, keys.Change{UserKey: public, Devices: []keys.NewDevice{{Public: keys.NewMaster().PublicKey(), Name: "x"}}})
	must(t, err)
	if err := PublishIdentity(ctx, w.store, st.ID, 0, raw2); !errors.Is(err, ErrLost) {
		t.Fatal(err)
	}
	got, _, err := FetchIdentity(ctx, w.store, st.ID, 0)
	must(t, err)
	if !bytes.Equal(got, raw) {
		t.Fatal("other bytes")
	}
}
