package log

import (
	"bytes"
	"errors"
	"maps"
	"testing"

	"kist/backend"
	"kist/backend/mem"
)

// cut takes the store away from an actor, or brings it back.
func (a *actor) cut(away bool) {
	a.store.SetHook(nil)
	if away {
		a.store.SetHook(func(mem.Request) mem.Answer { return mem.Answer{Before: backend.ErrAway} })
	}
}

func (a *actor) recall(w *world) error {
	l, err := Recall(ctx, a.config(w))
	if err == nil {
		a.Log = l
	}
	return err
}

// A recalled log stands where it stood, says so, and catches up at its first contact,
// after a new epoch too.
func TestRecall(t *testing.T) {
	w, ann, bob := team(t, Writer)
	bob.follow()
	bob.write("bob's")
	head := bob.Head()
	bob.cut(true)
	must(t, bob.recall(w))
	if !bob.Recalled() || bob.Head().Head != head.Head || !bytes.Equal(bob.Head().Root, head.Root) {
		t.Fatalf("stands on %s, recalled: %v", bob.Head().Head, bob.Recalled())
	}
	if c, err := bob.At(ctx, head.Seq-1); err != nil || c.Hash != head.Prev {
		t.Fatal("the commit before:", err)
	}
	if _, err := bob.Next(ctx); !errors.Is(err, backend.ErrAway) || !bob.Recalled() {
		t.Fatal(err)
	}
	ann.write("ann's")
	ann.put(Body{Kind: Membership, Rotate: true, Members: []NewMember{{ann.state, Owner}, {bob.state, Writer}}})
	ann.write("ann's own")
	bob.cut(false)
	if c, err := bob.Next(ctx); err != nil || c != nil || bob.Recalled() || bob.Head().Head != ann.Head().Head {
		t.Fatalf("%v, %v; at %s", c, err, bob.Head().Head)
	}
	if seen, _ := bob.config(w).Trust.Vault(w.vault); seen != ann.Head().Head {
		t.Fatalf("remembered: %s", seen)
	}
	bob.write("bob's again")
	ann.follow()
	must(t, bob.tryOpen(w))
}

// Whatever stands in the cache, the head is the one that is remembered, or there is none.
func TestRecallFromHostileCache(t *testing.T) {
	w, _, bob := team(t, Writer)
	bob.follow()
	bob.write("older")
	bob.write("newer")
	bob.cut(true)
	seen, good := bob.Head().Head, maps.Clone(bob.cache.data)
	head, roster := w.key(seen.Seq), w.key(bob.Head().RosterAt.Seq)
	for name, change := range map[string]func(){
		"no head":            func() { delete(bob.cache.data, head) },
		"no roster":          func() { delete(bob.cache.data, roster) },
		"older head":         func() { bob.cache.data[head] = good[w.key(seen.Seq-1)] },
		"flipped head":       func() { bob.cache.data[head] = mem.Flip(4000)(bytes.Clone(good[head])) },
		"another roster":     func() { bob.cache.data[roster] = good[w.key(0)] },
		"flipped roster":     func() { bob.cache.data[roster] = mem.Flip(4000)(bytes.Clone(good[roster])) },
		"junk for a roster":  func() { bob.cache.data[roster] = []byte("junk") },
		"no identity object": func() { delete(bob.cache.data, identityKey(bob.state.ID, bob.state.Head.Seq)) },
	} {
		bob.cache.data = maps.Clone(good)
		change()
		if err := bob.recall(w); !errors.Is(err, backend.ErrAway) {
			t.Errorf("%s: %v", name, err)
		}
	}
	bob.cache.data = good
	must(t, bob.recall(w))
	bob.files.data = nil
	_, err := NewTrust(bob.files, bob.session.TrustKey(), w.id)
	must(t, err)
	if err := bob.recall(w); !errors.Is(err, ErrForgotten) {
		t.Errorf("without memory: %v", err)
	}
}

// A commit that is held is the next that is sent, also where void slots lie before its own,
// which only the store can tell.
func TestHold(t *testing.T) {
	for _, void := range []bool{false, true} {
		w, ann, bob := team(t, Writer)
		bob.follow()
		bob.write("bob's")
		if void {
			w.plant(bob.slot(), []byte("junk"))
			bob.follow()
		}
		p, err := bob.Prepare(bob.ordinary("pending"))
		must(t, err)
		bob.cut(true)
		must(t, bob.recall(w))
		held, c, err := bob.Hold(p.Bytes)
		must(t, err)
		if held.Head != p.Head || c.Head != p.Head || string(c.Root) != "pending" {
			t.Fatalf("held %s, meant %s", held.Head, p.Head)
		}
		if _, err := bob.Prepare(bob.ordinary("other")); !void && !errors.Is(err, ErrPending) {
			t.Fatal("another was signed:", err)
		}
		if err := bob.Append(ctx, held); !errors.Is(err, ErrUnknown) || !errors.Is(err, backend.ErrAway) {
			t.Fatal(err)
		}
		bob.cut(false)
		must(t, bob.Append(ctx, held))
		ann.follow()
		if ann.Head().Head != p.Head || bob.Head().Head != p.Head {
			t.Fatalf("ann at %s, bob at %s, want %s", ann.Head().Head, bob.Head().Head, p.Head)
		}
	}
}

// A store that contradicts what is remembered is told at first contact, by every call.
func TestRecallThenAnotherStore(t *testing.T) {
	w, ann, bob := team(t, Writer)
	ann.write("x")
	bob.follow()
	bob.cut(true)
	must(t, bob.recall(w))
	p, err := bob.Prepare(bob.ordinary("next"))
	must(t, err)
	bob.cut(false)
	seen, created := w.raw(bob.Head().Seq), bob.store.Counts()[mem.Create]
	for want, lie := range map[error][]byte{ErrRollback: nil, ErrFork: []byte("other")} {
		w.plant(bob.Head().Seq, lie)
		_, next := bob.Next(ctx)
		for _, err := range []error{next, bob.Check(ctx), bob.Append(ctx, p), bob.Resume(ctx, p.Bytes)} {
			if !errors.Is(err, want) || !bob.Recalled() {
				t.Errorf("got %v, want %v", err, want)
			}
		}
	}
	w.plant(bob.Head().Seq, seen)
	must(t, bob.Append(ctx, p))
	if n := bob.store.Counts()[mem.Create]; n != created+1 {
		t.Errorf("%d objects were created, not one", n-created)
	}
}
