package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"testing"
)

func TestSealK(t *testing.T) {
	k := NewKey()
	for _, n := range []int{0, 1, 1000, 100_000} {
		pt := noise(n)
		sealed := SealK(k, LabelCommit, []byte("ctx"), pt)
		if len(sealed) != n+OverheadK || OverheadK != 94 {
			t.Errorf("%d bytes: sealed to %d", n, len(sealed))
		}
		got, err := OpenK(k, LabelCommit, []byte("ctx"), sealed)
		if err != nil || !bytes.Equal(got, pt) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	sealed := SealK(k, LabelCommit, []byte("ctx"), []byte("secret"))
	opens := countOpens(t)
	for name, err := range map[string]error{
		"key":     second(OpenK(NewKey(), LabelCommit, []byte("ctx"), sealed)),
		"label":   second(OpenK(k, LabelKeyfile, []byte("ctx"), sealed)),
		"context": second(OpenK(k, LabelCommit, []byte("cty"), sealed)),
		"empty":   second(OpenK(k, LabelCommit, []byte("ctx"), nil)),
	} {
		if err != ErrUnseal {
			t.Errorf("another %s: %v", name, err)
		}
	}
	if *opens != 0 {
		t.Error("decrypted although the commitment did not match")
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if got, err := OpenK(k, LabelCommit, []byte("ctx"), bad); err != ErrUnseal || got != nil {
			t.Errorf("byte %d: %v", i, err)
		}
		if got, err := OpenK(k, LabelCommit, []byte("ctx"), sealed[:i]); err != ErrUnseal || got != nil {
			t.Errorf("cut to %d: %v", i, err)
		}
	}
}

func second(_ []byte, err error) error { return err }

// A ciphertext that AES-GCM opens under two keys is easy to make. SealK must
// refuse it under both without decrypting (or, where it claims one of the two
// keys honestly, under the other).
func TestSalamander(t *testing.T) {
	k1, k2, ctx := NewKey(), NewKey(), []byte("ctx")
	for _, claim := range []string{"nobody", "first"} {
		head := append([]byte{versionK, suite}, noise(saltK+32)...)
		ek1, kc1 := splitK(k1, LabelKeyfile, ctx, head[2:2+saltK])
		ek2, _ := splitK(k2, LabelKeyfile, ctx, head[2:2+saltK])
		if claim == "first" {
			copy(head[2+saltK:], kc1[:])
		}
		body := salamander(t, ek1, ek2, aadK(head, ctx))
		for _, ek := range []Key{ek1, ek2} {
			if _, err := gcmRandom(&ek).Open(nil, nil, body, aadK(head, ctx)); err != nil {
				t.Fatal("the construction is wrong: AES-GCM refuses it")
			}
		}
		opens := countOpens(t)
		if _, err := OpenK(k2, LabelKeyfile, ctx, append(head, body...)); err != ErrUnseal || *opens != 0 {
			t.Errorf("claiming %s: second key: %v after %d decryptions", claim, err, *opens)
		}
		if claim == "first" {
			continue
		}
		if _, err := OpenK(k1, LabelKeyfile, ctx, append(head, body...)); err != ErrUnseal || *opens != 0 {
			t.Errorf("claiming %s: first key: %v after %d decryptions", claim, err, *opens)
		}
	}
}

// salamander returns nonce ‖ ciphertext ‖ tag that opens under both keys: the two
// tags are linear in the last ciphertext block, so one division makes them equal.
func salamander(t *testing.T, k1, k2 Key, aad []byte) []byte {
	nonce, ct := noise(12), append(noise(32), make([]byte, 16)...)
	h1, mask1 := gcmParts(t, k1, nonce)
	h2, mask2 := gcmParts(t, k2, nonce)
	diff := ghash(h1, aad, ct).add(ghash(h2, aad, ct)).add(mask1).add(mask2)
	// The last block is multiplied by H² (the block of lengths comes after it).
	slope := h1.mul(h1).add(h2.mul(h2))
	copy(ct[32:], diff.mul(slope.inverse()).bytes())
	tag := ghash(h1, aad, ct).add(mask1).bytes()
	return append(append(nonce, ct...), tag...)
}

// gcmParts returns the hash key and the mask of the tag.
func gcmParts(t *testing.T, k Key, nonce []byte) (h, mask element) {
	block, err := aes.NewCipher(k[:])
	if err != nil {
		t.Fatal(err)
	}
	return encrypt(block, make([]byte, 16)), encrypt(block, append(bytes.Clone(nonce), 0, 0, 0, 1))
}

func encrypt(b cipher.Block, in []byte) element {
	out := make([]byte, 16)
	b.Encrypt(out, in)
	return elementOf(out)
}

// element is a member of GCM's field, first bit of the block highest.
type element struct{ hi, lo uint64 }

func elementOf(b []byte) element {
	return element{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
}

func (a element) bytes() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, a.hi), a.lo)
}

func (a element) add(b element) element { return element{a.hi ^ b.hi, a.lo ^ b.lo} }

func (a element) mul(b element) element {
	var z element
	for i := range 128 {
		bit := b.hi >> (63 - i%64)
		if i >= 64 {
			bit = b.lo >> (63 - i%64)
		}
		if bit&1 == 1 {
			z = z.add(a)
		}
		carry := a.lo & 1
		a.lo = a.lo>>1 | a.hi<<63
		a.hi = a.hi>>1 ^ carry*(0xe1<<56)
	}
	return z
}

// inverse is a^(2^128 − 2).
func (a element) inverse() element {
	r := element{1 << 63, 0}
	for range 127 {
		a = a.mul(a)
		r = r.mul(a)
	}
	return r
}

func ghash(h element, aad, ct []byte) element {
	var y element
	for _, part := range [][]byte{aad, ct} {
		for len(part) > 0 {
			block := make([]byte, 16)
			part = part[copy(block, part):]
			y = y.add(elementOf(block)).mul(h)
		}
	}
	return y.add(element{uint64(len(aad)) * 8, uint64(len(ct)) * 8}).mul(h)
}

func TestStream(t *testing.T) {
	s, other := NewStream(NewKey()), NewStream(NewKey())
	dst := s.Seal([]byte("before"), 7, []byte("aad"), []byte("record"))
	sealed := dst[len("before"):]
	if len(sealed) != len("record")+OverheadStream {
		t.Errorf("sealed to %d", len(sealed))
	}
	got, err := s.Open([]byte("x"), 7, []byte("aad"), sealed)
	if err != nil || string(got) != "xrecord" {
		t.Fatalf("%q, %v", got, err)
	}
	for name, err := range map[string]error{
		"number": second(s.Open(nil, 8, []byte("aad"), sealed)),
		"data":   second(s.Open(nil, 7, nil, sealed)),
		"key":    second(other.Open(nil, 7, []byte("aad"), sealed)),
		"length": second(s.Open(nil, 7, []byte("aad"), sealed[:len(sealed)-1])),
		"empty":  second(s.Open(nil, 7, []byte("aad"), nil)),
	} {
		if err != ErrUnseal {
			t.Errorf("another %s: %v", name, err)
		}
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if _, err := s.Open(nil, 7, []byte("aad"), bad); err != ErrUnseal {
			t.Errorf("byte %d: %v", i, err)
		}
	}
}

func FuzzOpenK(f *testing.F) {
	f.Add(SealK(NewKey(), LabelCommit, nil, []byte("x")))
	f.Fuzz(func(t *testing.T, sealed []byte) {
		if _, err := OpenK(Key{}, LabelCommit, nil, sealed); err != ErrUnseal {
			t.Fatal("opened")
		}
	})
}
