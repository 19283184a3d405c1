package keys

import (
	"bytes"
	"errors"
	"testing"

	"kist/crypto/seal"
)

func TestWrap(t *testing.T) {
	_, s, _, _, _ := person(t, "anna")
	_, other, _, _, _ := person(t, "bob")
	es, info, aad := seal.NewKey(), []byte("vault and epoch"), []byte("members")
	_, old := s.UserPublic()
	wrapped := must(Wrap(old, es, info, aad))(t)
	if len(wrapped) != WrapSize || WrapSize != 1168 {
		t.Errorf("%d bytes", len(wrapped))
	}
	s.AddUserKey() // a newer key does not shut out what was wrapped before
	if got, err := s.Unwrap(wrapped, info, aad); err != nil || !got.Equal(es) {
		t.Fatal(err)
	}
	_, public := s.UserPublic()
	newer := must(Wrap(public, es, info, aad))(t)
	if got, err := s.Unwrap(newer, info, aad); err != nil || !got.Equal(es) {
		t.Fatal(err)
	}
	if bytes.Equal(must(Wrap(public, es, info, aad))(t), newer) {
		t.Error("two wraps are equal")
	}
	for name, err := range map[string]error{
		"person": unwrapErr(other, wrapped, info, aad),
		"info":   unwrapErr(s, wrapped, []byte("x"), aad),
		"aad":    unwrapErr(s, wrapped, info, nil),
		"length": unwrapErr(s, wrapped[:len(wrapped)-1], info, aad),
		"longer": unwrapErr(s, append(bytes.Clone(wrapped), 0), info, aad),
		"mixed":  unwrapErr(s, append(bytes.Clone(wrapped[:1120]), newer[1120:]...), info, aad),
		"empty":  unwrapErr(s, nil, info, aad),
	} {
		if err != seal.ErrUnseal {
			t.Errorf("another %s: %v", name, err)
		}
	}
	for i := range wrapped {
		bad := bytes.Clone(wrapped)
		bad[i] ^= 1
		if err := unwrapErr(s, bad, info, aad); err != seal.ErrUnseal {
			t.Fatalf("byte %d: %v", i, err)
		}
	}
}

func unwrapErr(s *Session, wrapped, info, aad []byte) error {
	_, err := s.Unwrap(wrapped, info, aad)
	return err
}

func TestWrapRefusesBadKeys(t *testing.T) {
	_, s, _, _, _ := person(t, "anna")
	_, good := s.UserPublic()
	low := bytes.Clone(good)
	clear(low[len(low)-32:])
	for name, key := range map[string][]byte{"low order": low, "short": good[:1215], "empty": nil} {
		if _, err := Wrap(key, seal.NewKey(), nil, nil); !errors.Is(err, ErrIdentity) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEpochCommitment(t *testing.T) {
	es, vault := seal.NewKey(), seal.VaultID{1}
	c := EpochCommitment(es, vault, 1)
	if c != EpochCommitment(es, vault, 1) {
		t.Error("a commitment is not stable")
	}
	for name, other := range map[string][32]byte{
		"secret": EpochCommitment(seal.NewKey(), vault, 1),
		"vault":  EpochCommitment(es, seal.VaultID{2}, 1),
		"epoch":  EpochCommitment(es, vault, 2),
	} {
		if c == other {
			t.Errorf("another %s has the same commitment", name)
		}
	}
}

func TestLocalKeysDiffer(t *testing.T) {
	_, s, _, _, _ := person(t, "anna")
	seen := map[seal.Key]bool{s.CacheKey(): true, s.JournalKey(): true, s.TrustKey(): true, s.installed: true, s.device: true}
	if len(seen) != 5 {
		t.Error("two local keys are equal")
	}
}

func FuzzUnwrap(f *testing.F) {
	_, s, _, _, _ := person(f, "anna")
	_, public := s.UserPublic()
	other := must(Wrap(public, seal.NewKey(), []byte("other"), nil))(f)
	f.Add(other)
	f.Fuzz(func(t *testing.T, wrapped []byte) {
		if err := unwrapErr(s, wrapped, nil, nil); err != seal.ErrUnseal {
			t.Fatal("opened")
		}
	})
}
