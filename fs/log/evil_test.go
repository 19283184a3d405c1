package log

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"testing"

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
		bob.store.SetSerialHook(func(r mem.Request) mem.Answer {
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
