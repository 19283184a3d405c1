package log

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"kist/backend"
	"kist/backend/mem"
)

func TestAppendAndFollow(t *testing.T) {
	w, ann, bob := team(t, Writer)
	for i := range 5 {
		ann.write(fmt.Sprint("ann", i))
		bob.write(fmt.Sprint("bob", i))
	}
	ann.follow()
	if ann.Head().Head != bob.Head().Head || string(ann.Head().Root) != "bob4" {
		t.Fatal("the two do not agree")
	}
	for seq := range ann.Head().Seq {
		c, err := ann.At(ctx, seq)
		must(t, err)
		if c.Seq != seq {
			t.Fatal("wrong commit")
		}
	}
	ann.open(w)
	if ann.Head().Head != bob.Head().Head {
		t.Fatal("reopened elsewhere")
	}
	bob.move(w) // a machine that lost everything
	must(t, bob.WriteHint(ctx))
	bob.open(w)
	if ann.Head().Head != bob.Head().Head {
		t.Fatal("opened elsewhere without memory")
	}
}

func TestRace(t *testing.T) {
	w := newWorld(t)
	ann := w.actor("ann")
	ann.create(w)
	members := []NewMember{{ann.state, Owner}}
	actors := []*actor{ann}
	for i := range 7 {
		a := w.actor(fmt.Sprint("w", i))
		actors, members = append(actors, a), append(members, NewMember{a.state, Writer})
	}
	ann.put(Body{Kind: Membership, Members: members})
	for _, a := range actors[1:] {
		a.Log = a.invited(w, ann.Head().Head)
	}
	for _, a := range actors {
		a.number()
	}
	const each = 5
	var g sync.WaitGroup
	for _, a := range actors {
		g.Go(func() {
			if err := a.race(each); err != nil {
				t.Error(err)
			}
		})
	}
	g.Wait()
	for _, a := range actors {
		a.follow()
		if a.Head().Seq != uint64(1+len(actors)+len(actors)*each) || a.Head().Head != ann.Head().Head {
			t.Fatalf("%s ended at %s", a.name, a.Head().Head)
		}
		if op := ann.Head().Row(a.session.Device).Op; op < each {
			t.Fatalf("%s has %d of %d", a.name, op, each)
		}
	}
}

// race appends n commits against everybody else.
func (a *actor) race(n int) error {
	for n > 0 {
		if c, err := a.Next(ctx); err != nil {
			return err
		} else if c != nil {
			continue
		}
		p, err := a.Prepare(a.ordinary(fmt.Sprint(a.name, n)))
		if err != nil {
			return err
		}
		if err = a.Append(ctx, p); err == nil {
			n--
		} else if !errors.Is(err, ErrLost) {
			return err
		}
	}
	return nil
}

// Each request of Append fails, once without effect and once with it, in this
// process or with a crash behind it; and the second try fails, too. Never are
// two different bytes sent for one slot, and never is a commit lost or doubled.
func TestAppendErrors(t *testing.T) {
	for at := range 4 {
		for _, persist := range []bool{false, true} {
			for _, crash := range []bool{false, true} {
				t.Run(fmt.Sprint(at, persist, crash), func(t *testing.T) { appendErrors(t, at, persist, crash) })
			}
		}
	}
}

func appendErrors(t *testing.T, at int, persist, crash bool) {
	w, ann, bob := team(t, Writer)
	sent := map[string]string{}
	fails := map[int]bool{at: true, at + 1: true}
	n := 0
	for i := range 3 {
		root := fmt.Sprint("ann", i)
		ann.store.SetHook(nil)
		ann.follow()
		p, err := ann.Prepare(ann.ordinary(root))
		must(t, err)
		ann.store.SetHook(ann.hooked(sent, &n, fails, persist))
		err = ann.Append(ctx, p)
		for try := 0; err != nil; try++ {
			if errors.Is(err, ErrLost) || !errors.Is(err, ErrUnknown) || try > 5 {
				t.Fatal(err)
			}
			if _, err := ann.Prepare(ann.ordinary("other")); !errors.Is(err, ErrPending) {
				t.Fatal("signed a second commit for the slot:", err)
			}
			if crash {
				for ann.tryOpen(w) != nil {
				}
				err = ann.Resume(ctx, p.Bytes)
			} else {
				err = ann.Append(ctx, p)
			}
		}
		if ann.Head().Head != p.Head {
			t.Fatal("acknowledged and not the head")
		}
	}
	bob.follow()
	if bob.Head().Head != ann.Head().Head || bob.Head().Row(ann.session.Device).Op != 3 {
		t.Fatal("a commit was lost or came twice")
	}
}

// hooked fails the requests whose number is in fails.
func (a *actor) hooked(sent map[string]string, n *int, fails map[int]bool, persist bool) mem.Hook {
	var mu sync.Mutex // hooks run side by side
	return func(r mem.Request) mem.Answer {
		mu.Lock()
		defer mu.Unlock()
		if r.Verb == mem.Create {
			if had, ok := sent[r.Key]; ok && had != string(r.Body) {
				a.t.Error("two different commits were sent for one slot")
			}
			sent[r.Key] = string(r.Body)
		}
		*n++
		switch {
		case !fails[*n-1]:
			return mem.Answer{}
		case persist:
			return mem.Answer{After: backend.ErrAway}
		}
		return mem.Answer{Before: backend.ErrAway}
	}
}

func TestResume(t *testing.T) {
	w, ann, bob := team(t, Writer)
	p, err := ann.Prepare(ann.ordinary("mine"))
	must(t, err)
	bob.write("first")
	ann.open(w) // follows bob's
	if err := ann.Resume(ctx, p.Bytes); !errors.Is(err, ErrLost) {
		t.Fatal(err)
	}
	p, err = ann.Prepare(ann.ordinary("again"))
	must(t, err)
	must(t, ann.Append(ctx, p))
	bob.write("later")
	ann.open(w)
	must(t, ann.Resume(ctx, p.Bytes)) // landed long ago
	ann.Log.known = map[uint64]Hash{} // nor remembered by the session
	must(t, ann.Resume(ctx, p.Bytes))
	if err := ann.Resume(ctx, p.Bytes[:20]); !errors.Is(err, ErrBody) {
		t.Fatal(err)
	}
}

// C3: a store that grants a slot twice. The loser notices when it reads back.
func TestStoreGrantsTwice(t *testing.T) {
	_, ann, bob := team(t, Writer)
	pa, err := ann.Prepare(ann.ordinary("ann"))
	must(t, err)
	bob.write("bob")
	ann.store.SetHook(func(r mem.Request) mem.Answer {
		if r.Verb == mem.Create {
			return mem.Answer{Drop: true} // acknowledged, kept nowhere
		}
		return mem.Answer{}
	})
	if err := ann.Append(ctx, pa); !errors.Is(err, ErrLost) {
		t.Fatal(err)
	}
	c, err := ann.Next(ctx)
	must(t, err)
	if string(c.Root) != "bob" {
		t.Fatal("not the winner's")
	}
}

func TestRequestCounts(t *testing.T) {
	w, ann, bob := team(t, Writer)
	bob.write("bob")
	ann.follow()
	count := func(what string, a *actor, want int, do func()) {
		t.Helper()
		a.store.Forget()
		do()
		if got := len(a.store.Log()); got != want {
			t.Errorf("%s: %d requests, want %d", what, got, want)
		}
		for _, r := range a.store.Log() {
			if r.Verb == mem.List {
				t.Error("the log listed")
			}
		}
	}
	count("warm open", ann, 2, func() { ann.open(w) })
	count("poll", ann, 1, func() { ann.follow() })
	count("append", ann, 2, func() { ann.put(ann.ordinary("x")) })
	count("follow one", bob, 2, func() { bob.follow() })
	count("lost race", bob, 3, func() {
		p, err := bob.Prepare(bob.ordinary("loses"))
		must(t, err)
		ann.put(ann.ordinary("wins"))
		if err := bob.Append(ctx, p); !errors.Is(err, ErrLost) {
			t.Fatal(err)
		}
		bob.follow() // the winner's was read already: one more, for the next
	})
	count("an hour of polls", bob, 120+2*7, func() {
		for range 120 {
			bob.follow()
		}
	})
	solo := newWorld(t)
	eve := solo.actor("eve")
	count("create", eve, 3, func() { eve.create(solo) })
	eve.number()
	eve.write("1")
	must(t, eve.WriteHint(ctx))
	eve.move(solo)
	count("open without memory", eve, 4, func() { eve.open(solo) })
	eve.move(solo)
	eve.store.Plant(eve.hintKey(), nil)
	count("open without memory or hint", eve, 6, func() { eve.open(solo) })
}

// C1: everything goes back.
func TestRollback(t *testing.T) {
	w, ann, _ := team(t, Writer)
	past := w.store.Clone("past")
	old := ann.Head().Head
	for i := range 20 {
		ann.write(fmt.Sprint(i))
	}
	now := ann.Head().Head
	ann.store = past.View("ann")
	err := ann.tryOpen(w)
	mustStop(t, err, ErrRollback, now, old)

	cfg := ann.config(w)
	found, err := Newest(ctx, cfg) // what a person would be shown
	must(t, err)
	if found.Head != old {
		t.Fatal("not the store's head")
	}
	must(t, cfg.Trust.Reset(w.vault, found.Head))
	ann.open(w)
	b := ann.ordinary("went on")
	b.Override = &Override{w.vault, now, old}
	ann.put(b)
	if o := ann.Head().Override; o == nil || o.Remembered != now {
		t.Fatal("no record of the override")
	}
}

// C1 while mounted: a poll in 16 looks at the head itself.
func TestRollbackSeenByPolling(t *testing.T) {
	w, ann, _ := team(t, Writer)
	ann.write("x")
	now := ann.Head().Head
	w.plant(now.Seq, nil)
	var err error
	for range 16 {
		if _, err = ann.Next(ctx); err != nil {
			break
		}
	}
	mustStop(t, err, ErrRollback, now, Head{now.Seq - 1, hashObject(w.raw(now.Seq - 1))})
	if err := ann.Check(ctx); !errors.Is(err, ErrRollback) {
		t.Fatal(err)
	}
}

// C2: two branches; a commit of one reaches who saw the other.
func TestFork(t *testing.T) {
	w, ann, bob := team(t, Writer)
	other := w.store.Clone("other")
	bob.store = other.View("bob")
	bob.open(w)
	ann.write("ann's branch")
	bob.write("bob's branch")
	bob.write("and on")
	a := ann.Head().Head
	key := w.key(a.Seq + 1)
	w.store.Plant(key, other.Peek(key))
	_, err := ann.Next(ctx)
	mustStop(t, err, ErrFork, a, bob.Head().Head)

	ann.store = other.View("ann") // remounted on the other branch
	bobs, err := bob.At(ctx, a.Seq)
	must(t, err)
	mustStop(t, ann.tryOpen(w), ErrFork, a, bobs.Head)
}

func mustStop(t *testing.T, err, kind error, heads ...Head) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("got %v, want %v", err, kind)
	}
	for _, h := range heads {
		if !strings.Contains(err.Error(), h.String()) {
			t.Errorf("%q does not name %s", err, h)
		}
	}
}

// C5: the newest is not in any listing, and one commit is hidden below another.
func TestWithheld(t *testing.T) {
	w, ann, bob := team(t, Writer)
	for i := range 9 {
		ann.write(fmt.Sprint(i))
	}
	hidden := ann.Head().Seq - 3
	bob.store.SetHook(func(r mem.Request) mem.Answer {
		return mem.Answer{Drop: r.Key == w.key(hidden)}
	})
	if err := bob.tryOpen(w); !errors.Is(err, ErrWithheld) {
		t.Fatal(err)
	}
	for bob.Head().Seq < hidden-1 {
		_, err := bob.Next(ctx)
		must(t, err)
	}
	var err error
	for range 16 {
		if _, err = bob.Next(ctx); err != nil {
			break
		}
	}
	if !errors.Is(err, ErrWithheld) {
		t.Fatal(err)
	}
	bob.store.SetHook(nil)
	bob.follow()
	if bob.Head().Head != ann.Head().Head {
		t.Fatal("did not catch up")
	}
}

func TestKnownHead(t *testing.T) {
	w, ann, _ := team(t, Writer)
	past := w.store.Clone("past")
	ann.write("x")
	ann.write("y")
	known := ann.Head().Head
	fresh := func(store *mem.Store) error {
		ann.move(w)
		ann.store = store.View("fresh")
		cfg := ann.config(w)
		cfg.Known = known
		l, err := Open(ctx, cfg)
		if err == nil && l.Head().Head != known {
			t.Error("not the head")
		}
		return err
	}
	must(t, fresh(w.store))
	if err := fresh(past); !errors.Is(err, ErrRollback) {
		t.Fatal(err)
	}
	known.Hash[0] ^= 1
	if err := fresh(w.store); !errors.Is(err, ErrFork) {
		t.Fatal(err)
	}
}

// Without a hint, and with a lying one, the head is found all the same.
func TestFindFar(t *testing.T) {
	w := newWorld(t)
	ann := w.actor("ann")
	ann.create(w)
	ann.number()
	for i := range 200 {
		ann.put(ann.ordinary(fmt.Sprint(i)))
	}
	want := ann.Head().Head
	for _, hint := range []string{"", "\x00\x00\x00\x00\x00\x00\x00\x40", "\x00\x00\x00\x00\x00\x00\xff\xff", "junk", strings.Repeat("x", 99)} {
		w.store.Plant(ann.hintKey(), nil)
		if hint != "" {
			w.store.Plant(ann.hintKey(), []byte(hint))
		}
		ann.move(w)
		ann.open(w)
		if ann.Head().Head != want {
			t.Fatalf("hint %q: %s, want %s", hint, ann.Head().Head, want)
		}
		if n := len(ann.store.Log()); n > 120 {
			t.Errorf("hint %q: %d requests", hint, n)
		}
	}
}
