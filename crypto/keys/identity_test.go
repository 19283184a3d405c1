package keys

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"kist/crypto/seal"
)

func TestIdentityChain(t *testing.T) {
	m, s, raw, first, _ := person(t, "anna")
	if got, err := ParseIdentity(m.Identity(), 0, raw); err != nil || got.Head != first.Head || got.ID != s.Identity {
		t.Fatal(err)
	}
	if key, ok := first.DeviceKey(s.Device); !ok || !key.Equal(s.DevicePublic()) {
		t.Error("the device is not in force")
	}
	laptop := publicOf(seal.NewKey())
	public := s.AddUserKey()
	raw, second, err := m.Certify(first, Change{UserKey: public, Devices: []NewDevice{{laptop, ""}}, Revoke: []DeviceID{s.Device}})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Follows(first); err != nil {
		t.Error(err)
	}
	if _, ok := second.DeviceKey(s.Device); ok {
		t.Error("a revoked device is in force")
	}
	if _, ok := second.DeviceKeyAt(s.Device, 0); !ok {
		t.Error("what a device signed before it was revoked cannot be verified")
	}
	if _, ok := second.DeviceKeyAt(deviceOf(laptop), 0); ok {
		t.Error("a device was in force before it was certified")
	}
	if _, ok := second.DeviceKeyAt(deviceOf(laptop), 2); ok {
		t.Error("a state speaks about what comes after it")
	}
	if version, key := second.UserKey(); version != 2 || !bytes.Equal(key, public) {
		t.Error("the new encryption key is not in use")
	}
	if err := s.Check(second); !errors.Is(err, ErrIdentity) {
		t.Error("a revoked device passes", err)
	}
	if want := 82 + 4 + 2*1220 + 4 + 53 + 52 + 64; len(raw) != want {
		t.Errorf("%d bytes, the format says %d", len(raw), want)
	}
	if _, _, err := m.Certify(second, Change{Revoke: []DeviceID{s.Device}}); err == nil {
		t.Error("a device was revoked twice")
	}
	if _, _, err := NewMaster().Certify(second, Change{}); !errors.Is(err, ErrIdentity) {
		t.Error("somebody else continued the chain", err)
	}
	third := must(second3(m.Certify(second, Change{})))(t)
	for name, err := range map[string]error{
		"gap":    third.Follows(first),
		"repeat": second.Follows(second),
		"back":   first.Follows(second),
	} {
		if !errors.Is(err, ErrIdentity) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second3[A, B any](_ A, b B, err error) (B, error) { return b, err }

// A master key that rewrites what it certified before is caught.
func TestIdentityTakesNothingBack(t *testing.T) {
	m, s, _, first, _ := person(t, "anna")
	next := func(change func(*IdentityState)) *IdentityState {
		st := &IdentityState{Master: first.Master, Prev: first.Head.Hash, Head: Head{Seq: 1},
			UserKeys: slices.Clone(first.UserKeys), Devices: slices.Clone(first.Devices)}
		change(st)
		return must(ParseIdentity(m.Identity(), st.Head.Seq, m.sign(st.statement())))(t)
	}
	if err := next(func(*IdentityState) {}).Follows(first); err != nil {
		t.Fatal(err)
	}
	_, public := NewSession(testStore, "x", m).UserPublic()
	for name, st := range map[string]*IdentityState{
		"device gone":    next(func(s *IdentityState) { s.Devices = nil }),
		"device renamed": next(func(s *IdentityState) { s.Devices[0].Name = "z" }),
		"device key":     next(func(s *IdentityState) { s.Devices[0].Public = publicOf(seal.NewKey()) }),
		"device since":   next(func(s *IdentityState) { s.Devices[0].Since = 1 }),
		"user key":       next(func(s *IdentityState) { s.UserKeys[0] = public }),
		"backdated": next(func(s *IdentityState) {
			s.Devices = append(s.Devices, Device{Public: publicOf(seal.NewKey()), Name: "b"})
		}),
		"other history": next(func(s *IdentityState) { s.Prev = [32]byte{1} }),
	} {
		if err := st.Follows(first); !errors.Is(err, ErrIdentity) {
			t.Errorf("%s: %v", name, err)
		}
	}
	revoked := next(func(s *IdentityState) { s.Devices[0].Until = 1 })
	again := &IdentityState{Master: first.Master, Prev: revoked.Head.Hash, Head: Head{Seq: 2}, UserKeys: first.UserKeys, Devices: first.Devices}
	back := must(ParseIdentity(m.Identity(), 2, m.sign(again.statement())))(t)
	if err := back.Follows(revoked); !errors.Is(err, ErrIdentity) {
		t.Error("a revoked device came back")
	}
	if err := s.Check(back); err != nil {
		t.Error(err) // Check knows one state only; that it follows is for the caller to ask
	}
}

func TestIdentityUnsound(t *testing.T) {
	m, _, _, first, _ := person(t, "anna")
	weak := bytes.Clone(first.UserKeys[0])
	clear(weak[len(weak)-32:])
	unreduced := bytes.Clone(first.UserKeys[0])
	copy(unreduced, []byte{0xff, 0xff, 0xff})
	key := func() ed25519.PublicKey { return publicOf(seal.NewKey()) }
	for name, change := range map[string]func(*IdentityState){
		"no user key":         func(s *IdentityState) { s.UserKeys = nil },
		"weak user key":       func(s *IdentityState) { s.UserKeys = [][]byte{weak} },
		"unreduced user key":  func(s *IdentityState) { s.UserKeys = [][]byte{unreduced} },
		"first with a past":   func(s *IdentityState) { s.Prev = [32]byte{1} },
		"second without past": func(s *IdentityState) { s.Head.Seq = 1 },
		"device in future":    func(s *IdentityState) { s.Devices[0].Since = 1 },
		"revoked in future":   func(s *IdentityState) { s.Devices[0].Until = 1 },
		"device twice":        func(s *IdentityState) { s.Devices = append(s.Devices, s.Devices[0]) },
		"master as device":    func(s *IdentityState) { s.Devices[0].Public = s.Master },
		"weak device":         func(s *IdentityState) { s.Devices[0].Public = append(make([]byte, 31), 0x80) },
		"bad name":            func(s *IdentityState) { s.Devices[0].Name = "\x1b[2J" },
		"hidden name":         func(s *IdentityState) { s.Devices[0].Name = "\u202egpj" },
		"no text":             func(s *IdentityState) { s.Devices[0].Name = "\xff" },
		"never in force": func(s *IdentityState) {
			s.Head.Seq, s.Prev = 3, [32]byte{1}
			s.Devices = append(s.Devices, Device{Public: key(), Name: "b", Since: 2, Until: 2})
		},
		"out of order": func(s *IdentityState) {
			s.Head.Seq, s.Prev = 3, [32]byte{1}
			s.Devices = []Device{{Public: key(), Name: "b", Since: 2}, {Public: key(), Name: "c", Since: 1}}
		},
	} {
		st := &IdentityState{Master: first.Master, UserKeys: slices.Clone(first.UserKeys), Devices: slices.Clone(first.Devices)}
		change(st)
		if _, err := ParseIdentity(m.Identity(), st.Head.Seq, m.sign(st.statement())); !errors.Is(err, ErrIdentity) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, c := range []Change{
		{},
		{UserKey: weak},
		{UserKey: first.UserKeys[0], Devices: []NewDevice{{key(), strings.Repeat("x", MaxName+1)}}},
		{UserKey: first.UserKeys[0], Devices: []NewDevice{{make([]byte, 32), "a"}}},
		{UserKey: first.UserKeys[0], Devices: []NewDevice{{nil, "a"}}},
	} {
		if raw, _, err := m.Certify(nil, c); !errors.Is(err, ErrIdentity) || raw != nil {
			t.Errorf("certified %+v", c)
		}
	}
}

func TestIdentityEveryByteCounts(t *testing.T) {
	m, _, raw, _, _ := person(t, "anna")
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 1
		if s, err := ParseIdentity(m.Identity(), 0, bad); !errors.Is(err, ErrIdentity) || s != nil {
			t.Fatalf("byte %d: %v", i, err)
		}
		if _, err := ParseIdentity(m.Identity(), 0, raw[:i]); !errors.Is(err, ErrIdentity) {
			t.Fatalf("cut to %d: %v", i, err)
		}
	}
	for name, err := range map[string]error{
		"trailing":   parseErr(m.Identity(), 0, append(bytes.Clone(raw), 0)),
		"huge":       parseErr(m.Identity(), 0, make([]byte, MaxIdentity+1)),
		"sequence":   parseErr(m.Identity(), 1, raw),
		"name":       parseErr(IdentityID{1}, 0, raw),
		"malleated":  parseErr(m.Identity(), 0, malleate(raw)),
		"other key":  parseErr(m.Identity(), 0, impostor(t, raw)),
		"own impost": parseErr(IdentityID(identityOf(raw[10:42])), 0, impostor(t, raw)),
	} {
		if !errors.Is(err, ErrIdentity) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if MaxIdentity != 197_018 {
		t.Errorf("MaxIdentity = %d", MaxIdentity)
	}
}

func parseErr(id IdentityID, seq uint64, raw []byte) error {
	_, err := ParseIdentity(id, seq, raw)
	return err
}

// malleate adds the group order to S.
func malleate(raw []byte) []byte {
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	out := bytes.Clone(raw)
	s := out[len(out)-32:]
	slices.Reverse(s)
	new(big.Int).Add(new(big.Int).SetBytes(s), order).FillBytes(s)
	slices.Reverse(s)
	return out
}

// impostor signs somebody's statement with another key.
func impostor(t *testing.T, raw []byte) []byte {
	return NewMaster().sign(bytes.Clone(raw[:len(raw)-ed25519.SignatureSize]))
}

// Under a key of small order one signature fits every message; with y ≥ p a key
// has a second name. Go's verifier minds neither.
func TestWeakEd25519KeysAreRefused(t *testing.T) {
	p := prime
	var bad [][]byte
	encode := func(y *big.Int, sign byte) []byte {
		b := y.FillBytes(make([]byte, 32))
		slices.Reverse(b)
		b[31] |= sign << 7
		return b
	}
	for _, y := range smallOrder { // all points of small order, −0 included
		bad = append(bad, encode(y, 0), encode(y, 1))
	}
	for i := range int64(19) { // all y ≥ p that fit in 255 bits
		y := new(big.Int).Add(p, big.NewInt(i))
		bad = append(bad, encode(y, 0), encode(y, 1))
	}
	off := 0
	for i := int64(2); i < 40; i++ { // about half of all y are on the curve
		if y := encode(big.NewInt(i), 0); !onCurve(big.NewInt(i)) {
			bad, off = append(bad, y), off+1
		}
	}
	if off < 10 || off > 30 {
		t.Errorf("%d of 38 points are off the curve", off)
	}
	bad = append(bad, nil, make([]byte, 31), make([]byte, 33))
	fits := 0
	for i, key := range bad {
		if admissible(key) {
			t.Errorf("key %d, %x, was admitted", i, key)
		}
		if err := VerifyDevice(key, seal.LabelSigCommit, []byte("m"), make([]byte, 64)); err != ErrSignature {
			t.Errorf("key %d: %v", i, err)
		}
		universal := make([]byte, 64)
		universal[0] = 1 // R is the neutral point, S is 0
		if len(key) == 32 && ed25519.Verify(key, []byte("any message"), universal) {
			fits++
		}
	}
	if fits == 0 {
		t.Error("the list holds no key that a careless verifier would believe")
	}
	for range 100 {
		if key := publicOf(seal.NewKey()); !admissible(key) {
			t.Fatalf("an honest key, %x, was refused", key)
		}
	}
}

func TestSignatures(t *testing.T) {
	_, s, _, _, _ := person(t, "anna")
	msg := []byte("message")
	sig := s.Sign(seal.LabelSigCommit, msg)
	if err := VerifyDevice(s.DevicePublic(), seal.LabelSigCommit, msg, sig); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"label":     VerifyDevice(s.DevicePublic(), seal.LabelSigIdentity, msg, sig),
		"message":   VerifyDevice(s.DevicePublic(), seal.LabelSigCommit, nil, sig),
		"key":       VerifyDevice(publicOf(seal.NewKey()), seal.LabelSigCommit, msg, sig),
		"length":    VerifyDevice(s.DevicePublic(), seal.LabelSigCommit, msg, sig[:63]),
		"malleated": VerifyDevice(s.DevicePublic(), seal.LabelSigCommit, msg, malleate(sig)),
	} {
		if err != ErrSignature {
			t.Errorf("another %s: %v", name, err)
		}
	}
}

func FuzzParseIdentity(f *testing.F) {
	m, _, raw, _, _ := person(f, "anna")
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		if s, err := ParseIdentity(m.Identity(), 0, raw); err == nil && !bytes.Equal(s.statement(), raw[:len(raw)-64]) {
			t.Fatal("a second encoding was accepted")
		}
		// Behind the signature: the layout alone must be canonical too.
		if s, ok := parseStatement(raw); ok && !bytes.Equal(s.statement(), raw) {
			t.Fatal("a second encoding of a statement was accepted")
		}
		if len(raw) > 42 {
			m := NewMaster()
			own := append(bytes.Clone(raw[:10]), m.public...)
			own = m.sign(append(own, raw[42:]...))
			s, ok := parseStatement(own[:len(own)-64])
			if !ok {
				return
			}
			if got, err := ParseIdentity(m.Identity(), s.Head.Seq, own); err == nil && !bytes.Equal(m.sign(got.statement()), own) {
				t.Fatal("a second encoding of a signed object was accepted")
			}
		}
	})
}

func ExampleMaster_Certify() {
	m := NewMaster()
	s := NewSession(StoreID{}, "anna", m)
	if err := s.SetDevice("device 1", [32]byte{}); err != nil {
		panic(err)
	}
	_, public := s.UserPublic()
	raw, state, err := m.Certify(nil, Change{UserKey: public, Devices: []NewDevice{{s.DevicePublic(), ""}}})
	if err != nil {
		panic(err)
	}
	// raw goes to ids/<identity>/<sequence>; whoever knows the id verifies it.
	got, err := ParseIdentity(s.Identity, state.Head.Seq, raw)
	fmt.Println(got.Head == state.Head, err)
	// Output: true <nil>
}
