package keys

import (
	"crypto/hkdf"
	"crypto/sha256"
	"testing"

	"kist/crypto/seal"
)

var (
	testStore = StoreID{1, 2, 3}
	testPass  = []byte("correct horse")
	cheap     = floor
)

// fast stands in for Argon2id: every argument counts, nothing is slow.
func fast(p Params, salt, user, pass []byte) (seal.Key, error) {
	in := appendLP(appendLP(appendLP(appendParams(nil, p), salt), user), pass)
	x, err := hkdf.Key(sha256.New, in, nil, "fast", 32)
	return seal.Key(x), err
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// person makes a master, a session with a device, the first identity object and
// the keyfile.
func person(t testing.TB, user string) (*Master, *Session, []byte, *IdentityState, *Keyfile) {
	t.Helper()
	m := NewMaster()
	s := NewSession(testStore, user, m)
	if err := s.SetDevice("a", [32]byte{9}); err != nil {
		t.Fatal(err)
	}
	_, public := s.UserPublic()
	raw, state, err := m.Certify(nil, Change{UserKey: public, Devices: []NewDevice{{s.DevicePublic(), "a"}}})
	if err != nil {
		t.Fatal(err)
	}
	s.Head, s.TopVault = state.Head, seal.VaultID{7}
	k, err := NewKeyfile(fast, cheap, testPass, s, m)
	if err != nil {
		t.Fatal(err)
	}
	return m, s, raw, state, k
}
