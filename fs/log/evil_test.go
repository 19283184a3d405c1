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

// forgery is a commit with nothing yet sealed: what a member with keys and
// without scruples can make.
type forgery struct {
	header
	clear []byte
	body  *body
	key   seal.Key
	sign  func(transcript []byte) []byte
}

// forge starts from what the actor could honestly append next.
func (a *actor) forge(change func(*forgery)) []byte {
	a.t.Helper()
	l := a.Log
	b := Body{Kind: Ordinary, Root: []byte("forged")}
	bd, err := l.body(b)
	must(a.t, err)
	epoch := l.roster.Roster.Epoch
	f := &forgery{
		header: header{vault: l.vault, seq: l.next(), epoch: epoch, roster: l.roster.Seq, prev: l.head.Hash},
		body:   bd, key: commitKey(l.secrets[epoch], l.vault, epoch),
		sign: func(m []byte) []byte { return a.session.Sign(seal.LabelSigCommit, m) },
	}
	change(f)
	f.header.clear = sha256.Sum256(f.clear)
	raw := f.body.encode()
	head := f.header.encode()
	return assemble(f.key, head, f.clear, raw, f.sign(transcript(head, raw)))
}

// mustVoid: a.Next skips what stands in its next slot, the next commit names it,
// and everybody agrees.
func mustVoid(t *testing.T, w *world, a *actor, others ...*actor) {
	t.Helper()
	seq, raw := a.slot(), w.raw(a.slot())
	c, err := a.Next(ctx)
	if err != nil || c != nil {
		t.Fatalf("got %v, %v; want a void slot", c, err)
	}
	if !slices.Contains(a.Voids(), nameOf(seq, raw)) {
		t.Fatal("not noticed as void")
	}
	a.put(a.ordinary("past the void"))
	if a.Head().Seq != seq+1 || !slices.Contains(a.Head().Voids, nameOf(seq, raw)) {
		t.Fatal("not named as void")
	}
	for _, o := range others {
		o.follow()
		if o.Head().Head != a.Head().Head {
			t.Fatal("others do not agree")
		}
	}
	if c, err := a.At(ctx, seq); c != nil || err != nil {
		t.Fatal("a void slot shows a commit", err)
	}
	a.move(w)
	must(t, a.WriteHint(ctx))
	a.open(w)
	if a.Head().Seq != seq+1 {
		t.Fatal("a machine without memory does not agree")
	}
}

// C4: junk in the next slot, of every kind.
func TestJunkIsVoid(t *testing.T) {
	w, ann, bob := team(t, Writer)
	ann.write("a")
	bob.write("b")
	ann.follow()
	other := newWorld(t)
	other.store = w.store
	other.id = w.id
	mallory := other.actor("mallory")
	mallory.create(other)
	mallory.number()
	junk := map[string][]byte{
		"one byte":               {1},
		"magic only":             []byte(magic),
		"suite zero":             append([]byte(magic), 1, 0),
		"version zero":           append([]byte(magic), 0, 1),
		"the commit before":      w.raw(ann.Head().Seq),
		"genesis":                w.raw(0),
		"another vault's":        w.store.Peek(other.key(1)),
		"too large":              make([]byte, MaxCommit+7),
		"header without content": w.raw(ann.Head().Seq)[:headerLen],
	}
	for name, raw := range junk {
		t.Run(name, func(t *testing.T) {
			if name == "too large" {
				w.plant(ann.slot(), raw)
				c, err := ann.Next(ctx)
				want := Void{ann.slot() - 1, sha256.Sum256(raw[:MaxCommit+1])}
				if c != nil || err != nil || ann.Voids()[0] != want {
					t.Fatal(c, err)
				}
				ann.put(ann.ordinary("on"))
				bob.follow()
				return
			}
			w.plant(ann.slot(), raw)
			mustVoid(t, w, ann, bob)
		})
	}
}

// D1, D2, B4, C7, B7: a member forges. Everything is void for everybody.
func TestForgeriesAreVoid(t *testing.T) {
	swap := func(a *actor) func(*forgery) { return func(f *forgery) { f.body.author = a.session.Identity } }
	tests := map[string]func(ann *actor) func(*forgery){
		"in another's name":     swap,
		"with another's device": func(a *actor) func(*forgery) { return func(f *forgery) { f.body.device = a.session.Device } },
		"wrong epoch":           func(*actor) func(*forgery) { return func(f *forgery) { f.epoch++ } },
		"wrong roster":          func(*actor) func(*forgery) { return func(f *forgery) { f.roster = 0 } },
		"wrong sequence":        func(*actor) func(*forgery) { return func(f *forgery) { f.seq++ } },
		"other vault":           func(*actor) func(*forgery) { return func(f *forgery) { f.vault[0] ^= 1 } },
		"signature over other": func(*actor) func(*forgery) {
			return func(f *forgery) { s := f.sign; f.sign = func(m []byte) []byte { m[len(m)-1] ^= 1; return s(m) } }
		},
		"signature malleated": func(*actor) func(*forgery) {
			return func(f *forgery) { s := f.sign; f.sign = func(m []byte) []byte { return malleate(s(m)) } }
		},
		"clear part":  func(*actor) func(*forgery) { return func(f *forgery) { f.clear = []byte("x") } },
		"broken tree": func(*actor) func(*forgery) { return func(f *forgery) { f.body.root = []byte("broken") } },
		"another's row": func(a *actor) func(*forgery) {
			return func(f *forgery) { f.body.devices = bumped(f.body.devices, a.session.Device) }
		},
		"rows dropped":   func(*actor) func(*forgery) { return func(f *forgery) { f.body.devices = f.body.devices[1:] } },
		"points changed": func(*actor) func(*forgery) { return func(f *forgery) { f.body.points = f.body.points[:1] } },
		"point without object": func(*actor) func(*forgery) {
			return func(f *forgery) {
				f.body.point.Seq++
				f.body.points = raise(f.body.points, f.body.author, f.body.point)
			}
		},
		"superfluous object": func(a *actor) func(*forgery) { return func(f *forgery) { f.body.identity = a.self.raw } },
		"roster at":          func(*actor) func(*forgery) { return func(f *forgery) { f.body.rosterAt.Hash[0] ^= 1 } },
		"void invented":      func(*actor) func(*forgery) { return func(f *forgery) { f.body.voids = []Void{{f.seq - 1, Hash{}}} } },
		"own row backwards": func(*actor) func(*forgery) {
			return func(f *forgery) {
				f.body.devices = slices.Clone(f.body.devices)
				for i := range f.body.devices {
					f.body.devices[i].Run[0] ^= 1
				}
			}
		},
		"genesis again": func(*actor) func(*forgery) { return func(f *forgery) { f.body.genesis = &genesis{} } },
		"reserved list": func(*actor) func(*forgery) { return func(f *forgery) { f.body.kind = 9 } },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			w, ann, bob := team(t, Writer)
			bob.write("b")
			ann.write("a")
			bob.follow()
			w.plant(bob.slot(), bob.forge(change(ann)))
			mustVoid(t, w, ann, bob)
		})
	}
}

func bumped(rows []DeviceRow, d keys.DeviceID) []DeviceRow {
	rows = slices.Clone(rows)
	for i := range rows {
		if rows[i].Device == d {
			rows[i].Op++
		}
	}
	return rows
}

// malleate adds the group order to S.
func malleate(sig []byte) []byte {
	order := [32]byte{
		0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14,
		31: 0x10,
	}
	carry := 0
	for i := range order {
		sum := int(sig[32+i]) + int(order[i]) + carry
		sig[32+i], carry = byte(sum), sum>>8
	}
	return sig
}

// D1: Ann's own signed body, moved by Bob to another slot or sealed again.
func TestMovedBodies(t *testing.T) {
	w, ann, bob := team(t, Writer)
	ann.write("a")
	bob.follow()
	o, err := parseObject(w.raw(bob.Head().Seq), w.vault, bob.Head().Seq)
	must(t, err)
	key := commitKey(bob.secrets[0], w.vault, 0)
	raw, sig, err := o.open(key)
	must(t, err)
	h := o.header
	h.seq, h.prev = bob.slot(), bob.Head().Hash
	w.plant(bob.slot(), assemble(key, h.encode(), nil, raw, sig))
	mustVoid(t, w, ann, bob)
}

// C4: a commit that names a valid slot as void is void itself; one that leaves
// out a void slot, or gives it another hash, is, too.
func TestVoidNamedWrongly(t *testing.T) {
	w, ann, bob := team(t, Writer)
	base := bob.Head().Head
	ann.write("valid")
	v := ann.Head().Head
	w.plant(v.Seq+1, bob.forge(func(f *forgery) {
		f.seq, f.prev = v.Seq+1, base.Hash
		f.body.voids = []Void{nameOf(v.Seq, w.raw(v.Seq))}
	}))
	bob.follow()
	mustVoid(t, w, ann, bob)

	junk := ann.slot()
	w.plant(junk, []byte("junk"))
	ann.follow()
	bob.follow()
	for _, voids := range [][]Void{nil, {{junk, Hash{1}}}} {
		w.plant(bob.slot(), bob.forge(func(f *forgery) { f.body.voids = voids }))
		bob.follow()
		ann.follow()
	}
	if n := len(ann.Voids()); n != 3 {
		t.Fatalf("%d void slots, want 3", n)
	}
	ann.put(ann.ordinary("on"))
	bob.follow()
	if bob.Head().Head != ann.Head().Head {
		t.Fatal("they do not agree")
	}
}

// C4: one damaged answer is read again; only what is the same three times is
// believed, and a newer format stops instead of being skipped.
func TestDamagedAnswers(t *testing.T) {
	w, ann, bob := team(t, Writer)
	flaky := func(bad int) {
		n := 0
		bob.store.SetHook(func(r mem.Request) mem.Answer {
			if n++; n > bad {
				return mem.Answer{}
			}
			return mem.Answer{Bend: mem.Flip(8*headerLen + 999 + n)}
		})
	}
	for bad := 1; bad <= 2; bad++ {
		ann.write(fmt.Sprint("good", bad))
		flaky(bad)
		c, err := bob.Next(ctx)
		must(t, err)
		if c == nil || c.Head != ann.Head().Head {
			t.Fatal("a valid commit was skipped")
		}
	}
	ann.write("again")
	flaky(3)
	if _, err := bob.Next(ctx); !errors.Is(err, ErrWithheld) {
		t.Fatal(err)
	}
	bob.store.SetHook(nil)
	bob.follow()
	for _, at := range []int{len(magic), len(magic) + 1} {
		raw := slices.Clone(w.raw(ann.Head().Seq))
		raw[at] = 2
		w.plant(ann.slot(), raw)
		for _, a := range []*actor{ann, bob} {
			if _, err := a.Next(ctx); !errors.Is(err, ErrNewer) || len(a.Voids()) > 0 {
				t.Fatal(err)
			}
			if err := a.tryOpen(w); !errors.Is(err, ErrNewer) {
				t.Fatal(err)
			}
		}
	}
}

// B1: no byte of a commit can change unnoticed.
func TestEveryByteCounts(t *testing.T) {
	w, ann, bob := team(t, Writer)
	ann.write("one")
	state := bob.state0()
	seq := ann.Head().Seq
	raw := w.raw(seq)
	if _, err := bob.judge(ctx, raw, seq, state); err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		b := slices.Clone(raw)
		b[i] ^= 1 << (i % 8)
		if c, err := bob.judge(ctx, b, seq, state); c != nil || err == nil {
			t.Fatalf("byte %d changed and the commit is valid", i)
		}
	}
	for _, b := range [][]byte{raw[:len(raw)-1], append(slices.Clone(raw), 0), nil} {
		if c, err := bob.judge(ctx, b, seq, state); c != nil || !isBad(err) {
			t.Fatal("another length is accepted")
		}
	}
	genesis := w.raw(0)
	for i := range genesis {
		b := slices.Clone(genesis)
		b[i] ^= 1 << (i % 8)
		if c, err := bob.judgeGenesis(ctx, b); c != nil || err == nil {
			t.Fatalf("byte %d of genesis changed and it is valid", i)
		}
	}
}

func (a *actor) state0() before { return a.Log.state() }

// B4: objects that change places.
func TestSwappedObjects(t *testing.T) {
	w, ann, bob := team(t, Writer)
	ann.write("1")
	ann.write("2")
	n := ann.Head().Seq
	bob.store.SetHook(func(r mem.Request) mem.Answer {
		switch r.Key {
		case w.key(n):
			return mem.Answer{Key: w.key(n - 1)}
		case w.key(n - 1):
			return mem.Answer{Key: w.key(n)}
		}
		return mem.Answer{}
	})
	for { // both slots look void; nothing wrong is accepted
		c, err := bob.Next(ctx)
		must(t, err)
		if c == nil {
			break
		}
		t.Fatalf("accepted %s", c.Head)
	}
	ids := []string{identityKey(ann.state.ID, 0), identityKey(bob.state.ID, 0)}
	ann.move(w)
	ann.store.SetHook(func(r mem.Request) mem.Answer {
		if i := slices.Index(ids, r.Key); i >= 0 {
			return mem.Answer{Key: ids[1-i]}
		}
		return mem.Answer{}
	})
	if err := ann.tryOpen(w); !errors.Is(err, ErrWithheld) { // her own stands in genesis, his does not
		t.Fatal(err)
	}
	if _, _, err := FetchIdentity(ctx, ann.store, bob.state.ID, 0); !errors.Is(err, keys.ErrIdentity) {
		t.Fatal(err)
	}
}

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
	key0, err := ann.EpochKey(ctx, 0, seal.LabelDedupKey)
	must(t, err)
	if want := seal.DeriveKey(old, seal.LabelDedupKey, epochContext(w.vault, 0)); !key0.Equal(want) {
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
