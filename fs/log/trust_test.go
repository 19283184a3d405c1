package log

import (
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"kist/crypto/keys"
	"kist/crypto/seal"
)

func newTrust(t testing.TB) (*files, seal.Key, *Trust) {
	f, key := &files{}, seal.NewKey()
	tr, err := NewTrust(f, key, keys.StoreID{1})
	must(t, err)
	return f, key, tr
}

func TestTrustSurvives(t *testing.T) {
	f, key, tr := newTrust(t)
	v, id := seal.VaultID{1}, keys.IdentityID{2}
	for seq := range uint64(5) {
		must(t, tr.Advance(v, Head{seq, Hash{byte(seq)}}, []IdentityHead{{id, Head{seq / 2, Hash{9, byte(seq / 2)}}}}))
		again, err := OpenTrust(f, key, keys.StoreID{1})
		must(t, err)
		if h, _ := again.Vault(v); h.Seq != seq {
			t.Fatalf("remembers %s", h)
		}
		if h, _ := again.Identity(id); h.Seq != seq/2 {
			t.Fatalf("remembers %s", h)
		}
	}
	if _, err := NewTrust(f, key, keys.StoreID{1}); err == nil {
		t.Fatal("replaced a memory")
	}
	for name, err := range map[string]error{
		"back":     tr.Advance(v, Head{3, Hash{3}}, nil),
		"aside":    tr.Advance(v, Head{4, Hash{5}}, nil),
		"identity": tr.Advance(v, Head{5, Hash{5}}, []IdentityHead{{id, Head{2, Hash{1}}}}),
	} {
		if !errors.Is(err, ErrRollback) && !errors.Is(err, ErrFork) {
			t.Errorf("%s: %v", name, err)
		}
	}
	must(t, tr.SetSlot(v, 7))
	if tr.SetSlot(seal.VaultID{2}, 7) == nil || tr.SetSlot(v, 8) == nil || tr.SetSlot(seal.VaultID{3}, 0) == nil {
		t.Fatal("a slot was given twice")
	}
	if tr.Slots()[v] != 7 {
		t.Fatal("slot lost")
	}
}

// C8: deleted, one copy flipped, both flipped, another device's or store's.
func TestTrustDamaged(t *testing.T) {
	f, key, tr := newTrust(t)
	v := seal.VaultID{1}
	must(t, tr.Advance(v, Head{1, Hash{1}}, nil))
	must(t, tr.Advance(v, Head{2, Hash{2}}, nil))
	open := func() (uint64, error) {
		tr, err := OpenTrust(f, key, keys.StoreID{1})
		if err != nil {
			return 0, err
		}
		h, _ := tr.Vault(v)
		return h.Seq, nil
	}
	whole := map[string][]byte{TrustNames[0]: f.data[TrustNames[0]], TrustNames[1]: f.data[TrustNames[1]]}
	for i, name := range TrustNames {
		for at := range whole[name] {
			b := slices.Clone(whole[name])
			b[at] ^= 4
			f.data[name] = b
			if seq, err := open(); err != nil || seq != uint64(2-i) && seq != uint64(1+i) {
				t.Fatalf("one damaged copy: %d, %v", seq, err)
			}
		}
		f.data[name] = nil
		if _, err := open(); err != nil {
			t.Fatal(err)
		}
		f.data[name] = whole[name]
	}
	if _, err := OpenTrust(f, seal.NewKey(), keys.StoreID{1}); !errors.Is(err, ErrNoTrust) {
		t.Fatal(err)
	}
	if _, err := OpenTrust(f, key, keys.StoreID{2}); !errors.Is(err, ErrNoTrust) {
		t.Fatal(err)
	}
	delete(f.data, TrustNames[0])
	must(t, tr.Advance(v, Head{3, Hash{3}}, nil))
	must(t, tr.Advance(v, Head{4, Hash{4}}, nil))
	if seq, err := open(); err != nil || seq != 4 {
		t.Fatal(seq, err)
	}
	f.data = nil
	if _, err := open(); !errors.Is(err, ErrNoTrust) {
		t.Fatal(err)
	}
}

// The copy that counts is never the one being written, whatever names they have.
func TestTrustWriteFails(t *testing.T) {
	f, key, tr := newTrust(t)
	v := seal.VaultID{1}
	must(t, tr.Advance(v, Head{1, Hash{1}}, nil))
	f.data[TrustNames[0]], f.data[TrustNames[1]] = f.data[TrustNames[1]], f.data[TrustNames[0]]
	tr, err := OpenTrust(f, key, keys.StoreID{1})
	must(t, err)
	newest := TrustNames[1-tr.stale]
	before := slices.Clone(f.data[newest])
	f.fail = errors.New("disk full")
	if tr.Advance(v, Head{2, Hash{2}}, nil) == nil {
		t.Fatal("a failed write was acknowledged")
	}
	if h, _ := tr.Vault(v); h.Seq != 1 {
		t.Fatal("remembers what is not durable")
	}
	f.fail = nil
	must(t, tr.Advance(v, Head{2, Hash{2}}, nil))
	if !slices.Equal(before, f.data[newest]) {
		t.Fatal("the copy that counted was overwritten")
	}
}

// Nothing is shown that could not be remembered.
func TestNoTrustNoShow(t *testing.T) {
	_, ann, bob := team(t, Writer)
	ann.write("x")
	at := bob.Head().Head
	bob.files.fail = errors.New("disk full")
	if _, err := bob.Next(ctx); err == nil || bob.Head().Head != at {
		t.Fatal("shown without being remembered")
	}
	bob.files.fail = nil
	bob.follow()
	p, err := bob.Prepare(bob.ordinary("y"))
	must(t, err)
	bob.files.fail = errors.New("disk full")
	if err := bob.Append(ctx, p); err == nil || errors.Is(err, ErrLost) {
		t.Fatal(err)
	}
	bob.files.fail = nil
	must(t, bob.Append(ctx, p))
}

func TestTrustCodec(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		s := trustState{
			generation: rapid.Uint64().Draw(r, "generation"),
			vaults:     map[seal.VaultID]Head{}, people: map[keys.IdentityID]Head{}, slots: map[seal.VaultID]uint8{},
		}
		for i := range rapid.IntRange(0, 5).Draw(r, "n") {
			id := [32]byte{rapid.Byte().Draw(r, "id")}
			s.vaults[id], s.people[id] = Head{Seq: rapid.Uint64().Draw(r, "seq")}, Head{Seq: 1}
			s.slots[[32]byte{byte(i)}] = uint8(i + 1)
		}
		raw := s.encode()
		got, ok := parseTrust(raw)
		if !ok || !slices.Equal(got.encode(), raw) {
			r.Fatal("does not come back")
		}
		if _, ok := parseTrust(append(raw, 0)); ok {
			r.Fatal("a byte more is accepted")
		}
	})
}
