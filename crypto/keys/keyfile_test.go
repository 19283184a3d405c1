package keys

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"

	"kist/crypto/seal"
)

func TestKeyfileRoundTrip(t *testing.T) {
	m, s, _, state, k := person(t, "anna")
	k = must(ParseKeyfile(k.Bytes()))(t)
	if k.User() != "anna" || k.Store() != testStore || k.Params() != cheap || k.For(testStore) != nil {
		t.Error("the header is not what was written")
	}
	if len(k.Bytes()) != 666 {
		t.Errorf("the keyfile has %d bytes, the format says 666", len(k.Bytes()))
	}
	got := must(k.OpenMain(fast, testPass))(t)
	if !bytes.Equal(got.encode(), s.encode()) || got.Identity != m.Identity() || got.User != "anna" || got.Store != testStore {
		t.Error("the session is not what was sealed")
	}
	if err := got.Check(state); err != nil {
		t.Error(err)
	}
	m2, s2, err := k.OpenMaster(fast, testPass)
	if err != nil || m2.Identity() != m.Identity() || !m2.seed.Equal(m.seed) || s2.Device != s.Device {
		t.Error("the master is not what was sealed", err)
	}
}

// Every byte counts; and the errors tell only what the file shows anyway.
func TestKeyfileEveryByteCounts(t *testing.T) {
	_, _, _, _, k := person(t, "anna")
	raw := k.Bytes()
	master := len(raw) - masterSection
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 1
		err := openAll(bad)
		if i >= 75 {
			if inLength := i < 79; inLength != errors.Is(err, ErrKeyfile) || !inLength && err != ErrPassphrase {
				t.Errorf("byte %d: %v", i, err)
			}
		} else if !errors.Is(err, ErrKeyfile) && err != ErrPassphrase {
			t.Errorf("byte %d: %v", i, err)
		}
		if k, err := ParseKeyfile(bad); i >= master {
			if err != nil {
				t.Fatal(err)
			}
			if _, err := k.OpenMain(fast, testPass); err != nil {
				t.Errorf("byte %d is of the master section, but the main section does not open: %v", i, err)
			}
		}
		if _, err := ParseKeyfile(raw[:i]); !errors.Is(err, ErrKeyfile) {
			t.Errorf("cut to %d: %v", i, err)
		}
	}
	if _, err := ParseKeyfile(append(bytes.Clone(raw), 0)); !errors.Is(err, ErrKeyfile) {
		t.Error("trailing bytes were accepted")
	}
	if _, err := ParseKeyfile(make([]byte, MaxKeyfile+1)); !errors.Is(err, ErrKeyfile) {
		t.Error("a huge file was accepted")
	}
}

func openAll(raw []byte) error {
	k, err := ParseKeyfile(raw)
	if err != nil {
		return err
	}
	_, _, err = k.OpenMaster(fast, testPass)
	return err
}

func TestKeyfileWrongUse(t *testing.T) {
	_, _, _, _, k := person(t, "anna")
	_, _, _, _, other := person(t, "anna")
	if _, err := k.OpenMain(fast, []byte("wrong")); err != ErrPassphrase {
		t.Error(err)
	}
	if _, _, err := k.OpenMaster(fast, []byte("wrong")); err != ErrPassphrase {
		t.Error(err)
	}
	for _, pass := range [][]byte{nil, make([]byte, MaxPassphrase+1)} {
		if _, err := k.OpenMain(fast, pass); err != ErrInput {
			t.Error(err)
		}
	}
	if err := k.For(StoreID{9}); !errors.Is(err, ErrKeyfile) {
		t.Error(err)
	}
	foreign := &Keyfile{header: k.header, main: k.main, master: k.master}
	foreign.header.store = StoreID{9}
	if err := openAll(foreign.Bytes()); err != ErrPassphrase {
		t.Error("a keyfile moved to another store opened", err)
	}
	swapped := &Keyfile{header: k.header, main: k.main, master: other.master}
	if err := openAll(swapped.Bytes()); err != ErrPassphrase {
		t.Error(err)
	}
	mixed := &Keyfile{header: k.header, main: k.master, master: k.master}
	if _, err := mixed.OpenMain(fast, testPass); err != ErrPassphrase {
		t.Error("the master section opened as the main one", err)
	}
	failing := errors.New("no memory")
	if _, err := k.OpenMain(func(Params, []byte, []byte, []byte) (seal.Key, error) { return seal.Key{}, failing }, testPass); !errors.Is(err, failing) {
		t.Error(err)
	}
}

// A sealed key that does not fit its public half is refused, although the seal is
// intact: somebody who can seal may have changed a part.
func TestKeyfileRecomputesPublicKeys(t *testing.T) {
	for name, change := range map[string]func([]byte){
		"version":        func(pt []byte) { pt[0]++ },
		"user key seed":  func(pt []byte) { pt[145+4+4] ^= 1 },
		"user key hash":  func(pt []byte) { pt[145+4+4+32] ^= 1 },
		"user version":   func(pt []byte) { pt[145+4+3] = 2 },
		"no user key":    func(pt []byte) { pt[145+3] = 0 },
		"device flag":    func(pt []byte) { pt[145+4+68] = 2 },
		"device seed":    func(pt []byte) { pt[145+4+68+1] ^= 1 },
		"device public":  func(pt []byte) { pt[145+4+68+1+32] ^= 1 },
		"device name":    func(pt []byte) { pt[len(pt)-1] = 0 },
		"weak master":    func(pt []byte) { clear(pt[9 : 9+32]) },
		"another master": func(pt []byte) { copy(pt[9:], NewMaster().PublicKey()) },
	} {
		m, s, _, _, k := person(t, "anna")
		kek := must(k.kek(fast, testPass))(t)
		pt := s.encode()
		if len(pt) != 367 {
			t.Fatalf("the main section has %d bytes, the format says 367", len(pt))
		}
		change(pt)
		k.main = seal.SealK(kek, seal.LabelKeyfile, k.header.encode(), pt)
		k.sealMaster(kek, m)
		if err := openAll(k.Bytes()); err != ErrPassphrase {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMainSectionUnsound(t *testing.T) {
	for name, change := range map[string]func(*Session){
		"no user key":   func(s *Session) { s.userKeys = nil },
		"too many keys": func(s *Session) { s.userKeys = make([]seal.Key, maxUserKeys+1) },
		"weak master":   func(s *Session) { s.master = make([]byte, 32) },
		"empty name":    func(s *Session) { s.DeviceName = "" },
	} {
		_, s, _, _, _ := person(t, "anna")
		change(s)
		if _, ok := decodeSession(s.encode()); ok {
			t.Errorf("%s: decoded", name)
		}
	}
}

func TestCheck(t *testing.T) {
	m, s, _, first, _ := person(t, "anna")
	second := must(second3(m.Certify(first, Change{})))(t)
	fork := must(second3(m.Certify(first, Change{Devices: []NewDevice{{publicOf(seal.NewKey()), ""}}})))(t)
	_, _, _, other, _ := person(t, "anna")
	check := func(head Head, st *IdentityState) error {
		s.Head = head
		return s.Check(st)
	}
	if err := errors.Join(check(first.Head, first), check(first.Head, second), check(second.Head, second)); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"older":         check(second.Head, first),
		"other history": check(second.Head, fork),
		"other person":  check(other.Head, other),
	} {
		if !errors.Is(err, ErrIdentity) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.AddUserKey()
	if err := check(first.Head, first); !errors.Is(err, ErrIdentity) {
		t.Error("a key that was never certified passes", err)
	}
	s.userKeys = []seal.Key{seal.NewKey()}
	if err := check(first.Head, first); !errors.Is(err, ErrIdentity) {
		t.Error("another encryption key passes", err)
	}
}

func TestKeyfileCosts(t *testing.T) {
	_, _, _, _, k := person(t, "anna")
	never := func(Params, []byte, []byte, []byte) (seal.Key, error) {
		t.Error("stretched with refused parameters")
		return seal.Key{}, nil
	}
	for _, p := range []Params{
		{}, {T: 3, M: 8, P: 4}, {T: 2, M: 64 << 10, P: 4}, {T: 3, M: 64<<10 - 1, P: 4}, {T: 3, M: 64 << 10, P: 3},
		{T: 17, M: 64 << 10, P: 4}, {T: 3, M: 4<<20 + 1, P: 4}, {T: 3, M: 64 << 10, P: 17},
		{T: 3, M: 1 << 30, P: 4}, {T: 1 << 31, M: 64 << 10, P: 4}, {T: math.MaxUint32, M: math.MaxUint32, P: 255},
	} {
		k.header.params = p
		raw := k.Bytes()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		_, err := ParseKeyfile(raw)
		_, direct := Stretch(p, make([]byte, saltSize), []byte("u"), []byte("p"))
		_, child := ChildStretch([]string{"/nonexistent"})(p, make([]byte, saltSize), []byte("u"), []byte("p"))
		took := time.Since(start)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, ErrKeyfile) || !errors.Is(direct, ErrKeyfile) || !errors.Is(child, ErrKeyfile) {
			t.Errorf("%+v: %v, %v, %v", p, err, direct, child)
		}
		if used := after.TotalAlloc - before.TotalAlloc; took > 100*time.Millisecond || used > 1<<20 {
			t.Errorf("%+v: refused after %v and %d bytes", p, took, used)
		}
		m := NewMaster()
		if _, err := NewKeyfile(never, p, testPass, NewSession(testStore, "anna", m), m); !errors.Is(err, ErrKeyfile) {
			t.Errorf("%+v: written: %v", p, err)
		}
	}
	for _, p := range []Params{LocalParams(), floor, ceiling} {
		if err := p.Check(); err != nil {
			t.Error(err)
		}
	}
}

func TestKeyfileChanges(t *testing.T) {
	_, s, _, state, k := person(t, "anna")
	open := func(k *Keyfile, pass string) *Session {
		t.Helper()
		return must(must(ParseKeyfile(k.Bytes()))(t).OpenMain(fast, []byte(pass)))(t)
	}

	exported := must(k.Export(fast, testPass))(t)
	bare := open(exported, "correct horse")
	if bare.HasDevice() || bare.Version != s.Version+1 || bare.Check(state) != nil || bare.DeviceName != "" || bare.State != [16]byte{} {
		t.Error("the export is not as it should be")
	}
	if bytes.Contains(bare.encode(), s.device[:]) || bytes.Contains(bare.encode(), s.installed[:]) {
		t.Error("the export holds the device's secrets")
	}

	imported := must(exported.WithDevice(fast, testPass, "b", [32]byte{8}))(t)
	fresh := open(imported, "correct horse")
	if fresh.Device == s.Device || fresh.State == s.State || fresh.CacheKey().Equal(s.CacheKey()) || fresh.DeviceName != "b" {
		t.Error("the import did not make a new device")
	}
	if err := fresh.Check(state); !errors.Is(err, ErrIdentity) {
		t.Error("a device that was not certified passes", err)
	}
	if _, err := k.WithDevice(fast, testPass, "", [32]byte{}); !errors.Is(err, ErrInput) {
		t.Error(err)
	}

	resealed := must(k.Reseal(fast, testPass, []byte("new"), Params{T: 4, M: 64 << 10, P: 4}))(t)
	if got := open(resealed, "new"); got.Version != s.Version+1 || got.Device != s.Device || resealed.header.salt == k.header.salt {
		t.Error("the new passphrase does not open the same")
	}
	if _, err := resealed.OpenMain(fast, testPass); err != ErrPassphrase {
		t.Error("the old passphrase still opens", err)
	}
	if m, _, err := resealed.OpenMaster(fast, []byte("new")); err != nil || m.Identity() != s.Identity {
		t.Error(err)
	}

	stop := errors.New("stop")
	if _, err := k.Update(fast, testPass, func(*Session) error { return stop }); err != stop {
		t.Error(err)
	}
	if _, err := k.Update(fast, testPass, func(s *Session) error { s.DeviceName = "\n"; return nil }); err != ErrInput {
		t.Error("a keyfile that cannot be opened was written", err)
	}
}

func TestNothingShowsItself(t *testing.T) {
	m, s, _, _, _ := person(t, "anna-user")
	var out strings.Builder
	for _, v := range []any{m, *m, s, *s, []any{m, s}, map[string]any{"s": s}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		if b, err := json.Marshal(v); err == nil {
			out.Write(b)
		}
	}
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).Info("m", "master", m, "session", s, "in", []any{*m, *s})
	}
	for name, secret := range map[string]seal.Key{"master": m.seed, "mk": s.mk, "user key": s.userKeys[0], "device": s.device, "installed": s.installed} {
		for _, form := range []string{"%x", "%X", "% x", "%d", "%q", "%#v"} {
			text := strings.Trim(fmt.Sprintf(form, secret[:]), "[]\"")
			if strings.Contains(out.String(), text) {
				t.Errorf("the %s was printed with %s", name, form)
			}
		}
	}
}

func TestSessionWipe(t *testing.T) {
	_, s, _, _, _ := person(t, "anna")
	userKeys := s.userKeys
	s.Wipe()
	for _, k := range append([]seal.Key{s.mk, s.device, s.installed}, userKeys...) {
		if !k.Equal(seal.Key{}) {
			t.Error("a key is left")
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("signed with a wiped key")
		}
	}()
	s.Sign(seal.LabelSigCommit, nil)
}

func FuzzParseKeyfile(f *testing.F) {
	_, _, _, _, k := person(f, "anna")
	f.Add(k.Bytes())
	f.Add(k.Bytes()[:100])
	f.Fuzz(func(t *testing.T, raw []byte) {
		k, err := ParseKeyfile(raw)
		if err != nil {
			if !errors.Is(err, ErrKeyfile) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(k.Bytes(), raw) {
			t.Fatal("a second encoding was accepted")
		}
	})
}

func FuzzDecodeSession(f *testing.F) {
	_, s, _, _, _ := person(f, "anna")
	f.Add(s.encode())
	s.dropDevice()
	f.Add(s.encode())
	f.Fuzz(func(t *testing.T, pt []byte) {
		if s, ok := decodeSession(pt); ok && !bytes.Equal(s.encode(), pt) {
			t.Fatal("a second encoding was accepted")
		}
	})
}
