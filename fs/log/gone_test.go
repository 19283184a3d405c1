package log

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"kist/backend"
	"kist/backend/mem"
	"kist/crypto/keys"
	"kist/crypto/seal"
)

// mustMiss: err is the stop that names the slot whose commit is gone, and
// neither store nor memory changed.
func mustMiss(t *testing.T, err error, slot uint64) {
	t.Helper()
	if !errors.Is(err, ErrWithheld) || !strings.Contains(err.Error(), fmt.Sprintf("in slot %d ", slot)) ||
		!strings.Contains(err.Error(), "nothing was changed") {
		t.Fatalf("got %v, want a stop for slot %d", err, slot)
	}
}

// B1, C2: a damaged slot below commits that members signed stops a machine
// without memory, wherever the damage is and whatever kind of commit it was.
func TestDamagedSlotStopsNewcomers(t *testing.T) {
	w, ann, bob := team(t, Writer) // 1: ann's number, 2: bob joins, 3: bob's number
	for i := range 4 {
		ann.write(fmt.Sprint(i))
	}
	head := ann.Head().Head
	ann.move(w)
	keys := w.store.Keys()
	for slot := uint64(1); slot < head.Seq; slot++ {
		good := w.raw(slot)
		for _, bit := range []int{0, 8 * 20, 8 * 60, 8*headerLen + 3, 8 * (len(good) - 1)} {
			w.plant(slot, mem.Flip(bit)(slices.Clone(good)))
			told := slot
			if slot == 2 {
				told = 3 // bob's, of whom nobody knows without 2
			}
			mustMiss(t, ann.tryOpen(w), told)
			if _, ok := ann.config(w).Trust.Vault(w.vault); ok || !slices.Equal(keys, w.store.Keys()) {
				t.Fatal("something was changed")
			}
			if _, err := Newest(ctx, ann.config(w)); err == nil {
				t.Fatal("Newest believed it")
			}
		}
		w.plant(slot, good)
	}
	ann.open(w)
	bob.follow()
	if ann.Head().Head != head || bob.Head().Head != head {
		t.Fatal("repaired, and not found")
	}
}

// Who went on where the head itself was damaged is stopped by the next commit of
// those who saw it.
func TestDamagedHeadIsNoticed(t *testing.T) {
	w, ann, bob := team(t, Writer)
	ann.write("a")
	lost := ann.Head().Head
	w.plant(lost.Seq, mem.Flip(8*700)(w.raw(lost.Seq)))
	bob.move(w)
	bob.open(w)
	bob.put(bob.ordinary("beside it"))
	beside := bob.Head().Head
	ann.write("above it") // names bob's as void
	_, err := bob.Next(ctx)
	mustMiss(t, err, lost.Seq)
	if bob.Head().Head != beside || ann.Head().Head.Seq != beside.Seq+1 {
		t.Fatal("somebody moved")
	}
}

// A void slot whose bytes changed after they were named: the commit that names
// them falls, and the one above it tells.
func TestDamagedVoidIsNoticed(t *testing.T) {
	w, ann, bob := team(t, Writer)
	junk := ann.slot()
	w.plant(junk, []byte("junk"))
	ann.write("past it")
	ann.write("on")
	w.plant(junk, []byte("other junk"))
	_, err := bob.Next(ctx)
	mustMiss(t, err, junk+1)
}

// With memory, following: damage on the way stops, as often as one asks; a
// machine that starts again when the slot is shown finds everything.
func TestDamagedSlotStopsFollowers(t *testing.T) {
	w, ann, bob := team(t, Writer)
	base := bob.Head().Head
	for i := range 3 {
		ann.write(fmt.Sprint(i))
	}
	bob.store.SetHook(func(r mem.Request) mem.Answer {
		if r.Key == w.key(base.Seq+1) {
			return mem.Answer{Bend: mem.Flip(8 * 300)}
		}
		return mem.Answer{}
	})
	for range 3 {
		_, err := bob.Next(ctx)
		mustMiss(t, err, base.Seq+1)
	}
	p, err := bob.Prepare(bob.ordinary("x"))
	must(t, err)
	mustMiss(t, bob.Append(ctx, p), base.Seq+1)
	mustMiss(t, bob.tryOpen(w), base.Seq+1)
	if seen, _ := bob.config(w).Trust.Vault(w.vault); seen != base || w.raw(ann.slot()) != nil {
		t.Fatal("something was changed")
	}
	bob.store.SetHook(nil)
	bob.open(w)
	if bob.Head().Head != ann.Head().Head {
		t.Fatal("did not catch up")
	}
}

// A membership commit is gone, and with it the roster that later ones name.
func TestDamagedRosterStops(t *testing.T) {
	w, ann, bob := team(t, Writer)
	eve := w.actor("eve")
	members := []NewMember{{ann.state, Owner}, {bob.state, Writer}, {eve.state, Writer}}
	ann.put(Body{Kind: Membership, Members: members})
	lost := ann.Head().Seq
	eve.Log = eve.invited(w, ann.Head().Head)
	eve.number() // by one of whom bob has never heard
	ann.write("on")
	w.plant(lost, mem.Flip(8*(headerLen+40))(w.raw(lost)))
	_, err := bob.Next(ctx)
	mustMiss(t, err, lost+1)
}

// The commit that is gone brought an identity's new point, which later ones
// take for known.
func TestDamagedPointStops(t *testing.T) {
	w, ann, bob := team(t, Writer)
	second := *ann.session
	second.SetDevice("second", [32]byte{2})
	ann.certify(ann.store, ann.state, keys.Change{Devices: []keys.NewDevice{{Public: second.DevicePublic(), Name: "second"}}})
	ann.open(w)
	ann.write("with the new point")
	lost := ann.Head().Seq
	ann.write("on")
	w.plant(lost, []byte("junk"))
	_, err := bob.Next(ctx)
	mustMiss(t, err, lost)

	w.store.SetHook(nil)
	bob.store.SetHook(func(r mem.Request) mem.Answer {
		if strings.HasPrefix(r.Key, "ids/") {
			return mem.Answer{Before: backend.ErrAway}
		}
		return mem.Answer{}
	})
	bob.cache.data = map[string][]byte{}
	bob.people.memo = map[IdentityHead]person{}
	if _, err := bob.Next(ctx); !errors.Is(err, backend.ErrAway) || len(bob.Voids()) != 1 {
		t.Fatalf("a verdict without an answer: %v", err)
	}
}

// C4: whoever has no current writer's device can't cause the stop. Below the
// forged commit lies junk, which it claims to follow.
func TestOnlyWritersStop(t *testing.T) {
	claim := func(f *forgery) { f.body.voids, f.prev = nil, Hash{9} }
	byBob := func(bob *actor) func([]byte) []byte {
		return func(m []byte) []byte { return bob.session.Sign(seal.LabelSigCommit, m) }
	}
	stranger := func(f *forgery, seq uint64) {
		f.body.point = Head{seq, Hash{8}}
		f.body.points = raise(f.body.points, f.body.author, f.body.point)
	}
	tests := map[string]func(w *world, f *forgery, bob *actor){
		"a reader in the owner's name": func(_ *world, f *forgery, bob *actor) { f.sign = byBob(bob) },
		"a reader in its own name": func(_ *world, f *forgery, bob *actor) {
			f.sign = byBob(bob)
			f.body.author, f.body.device = bob.state.ID, bob.session.Device
			f.body.point = Head{bob.state.Head.Seq, bob.state.Head.Hash}
		},
		"a reader's device for the owner": func(_ *world, f *forgery, bob *actor) {
			f.sign, f.body.device = byBob(bob), bob.session.Device
		},
		"a point that is not there": func(_ *world, f *forgery, bob *actor) { stranger(f, 70) },
		"a point that is junk": func(w *world, f *forgery, bob *actor) {
			w.store.Plant(identityKey(f.body.author, 71), []byte("junk"))
			stranger(f, 71)
		},
		"a point that is huge": func(w *world, f *forgery, bob *actor) {
			w.store.Plant(identityKey(f.body.author, 72), make([]byte, keys.MaxIdentity+1))
			stranger(f, 72)
		},
		"a roster in the junk":          func(_ *world, f *forgery, bob *actor) { f.sign, f.roster = byBob(bob), f.seq-1 },
		"an epoch that nobody knows":    func(_ *world, f *forgery, bob *actor) { f.sign, f.epoch = byBob(bob), 1 },
		"nothing else to follow":        func(_ *world, f *forgery, bob *actor) { f.prev = bob.Head().Hash },
		"void slots that are not there": func(_ *world, f *forgery, bob *actor) { f.body.voids = []Void{{f.seq - 2, Hash{}}} },
		"another slot's":                func(_ *world, f *forgery, bob *actor) { f.seq-- },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			w, ann, bob := team(t, Reader)
			ann.write("a")
			bob.follow()
			w.plant(ann.slot(), []byte("junk"))
			ann.follow()
			w.plant(ann.slot(), ann.forge(func(f *forgery) { claim(f); change(w, f, bob) }))
			mustVoid(t, w, ann, bob)
		})
	}
	w, ann, bob := team(t, Reader)
	w.plant(ann.slot(), []byte("junk"))
	ann.follow()
	w.plant(ann.slot(), ann.forge(claim)) // ann's own: a signed contradiction
	for _, a := range []*actor{ann, bob} {
		_, err := a.Next(ctx)
		mustMiss(t, err, a.slot()-1)
	}
}

// A10: nor can a writer's revoked device, by the statement from before.
func TestRevokedDeviceStopsNobody(t *testing.T) {
	w, ann, bob := team(t, Writer)
	stolen, before := *bob.session, bob.state.Head
	second := *bob.session
	second.SetDevice("second", [32]byte{2})
	bob.certify(bob.store, bob.state, keys.Change{
		Devices: []keys.NewDevice{{Public: second.DevicePublic(), Name: "second"}}, Revoke: []keys.DeviceID{stolen.Device},
	})
	second.Head = bob.session.Head
	other := &actor{t: t, name: "bob", master: bob.master, session: &second, state: bob.state}
	other.move(w)
	other.open(w)
	other.number() // carries the new statement into the log
	ann.follow()
	old, _, err := FetchIdentity(ctx, w.store, bob.state.ID, 0)
	must(t, err)
	for _, object := range [][]byte{nil, old} {
		w.plant(ann.slot(), []byte("junk"))
		ann.follow()
		w.plant(ann.slot(), ann.forge(func(f *forgery) {
			f.body.voids, f.prev = nil, Hash{9}
			f.body.author, f.body.device = bob.state.ID, stolen.Device
			f.body.point, f.body.identity = Head{before.Seq, sha256.Sum256(old)}, object
			f.sign = func(m []byte) []byte { return stolen.Sign(seal.LabelSigCommit, m) }
		}))
		mustVoid(t, w, ann, other)
	}
}

// Roster bytes that nothing vouches for can't tell a member that it is none.
func TestDamagedRosterIsNoDismissal(t *testing.T) {
	w := newWorld(t)
	ann := w.actor("ann")
	ann.create(w)
	ann.number()
	ann.write("a")
	good := w.raw(0)
	for at := 0; at < len(good); at += 1 + at/headerLen*30 {
		w.plant(0, mem.Flip(8*at)(slices.Clone(good)))
		ann.cache.data = map[string][]byte{}
		err := ann.tryOpen(w)
		if err == nil || errors.Is(err, ErrNotMember) || !errors.Is(err, ErrWithheld) {
			t.Fatalf("byte %d: %v", at, err)
		}
	}
	w.plant(0, good)
	ann.open(w)
	ann.move(w)
	for at := 50; at < 54; at++ {
		w.plant(0, mem.Flip(8*at)(slices.Clone(good)))
		if err := ann.tryOpen(w); !errors.Is(err, ErrVault) || errors.Is(err, ErrNotMember) {
			t.Fatalf("without memory, byte %d: %v", at, err)
		}
	}
}
