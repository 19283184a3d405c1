package seal

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
)

// Derive returns n bytes that only the holder of k can compute, bound to label
// and ctx.
func Derive(k Key, label Label, ctx []byte, n int) []byte {
	return expand(k, nil, label, ctx, n)
}

// DeriveKey is [Derive] for a key.
func DeriveKey(k Key, label Label, ctx []byte) Key {
	out := Derive(k, label, ctx, len(Key{}))
	defer clear(out)
	return Key(out)
}

func expand(k Key, salt []byte, label Label, ctx []byte, n int) []byte {
	sum := sha256.Sum256(ctx)
	out, err := hkdf.Key(sha256.New, k[:], salt, string(label)+"\x00"+string(sum[:]), n)
	if err != nil {
		panic("seal: " + err.Error()) // n beyond 255 hashes
	}
	return out
}

// Hash is SHA-256 over the label and the length-prefixed parts. Parts must be
// shorter than 16 MiB: the byte after the label is then zero, which no label
// contains, and no two lists of labels and parts give the same input.
func Hash(label Label, parts ...[]byte) [32]byte {
	h := sha256.New()
	h.Write([]byte(label))
	for _, p := range parts {
		if len(p) >= 1<<24 {
			panic("seal: part too long to hash")
		}
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(p)))
		h.Write(n[:])
		h.Write(p)
	}
	return [32]byte(h.Sum(nil))
}

// SigMessage is what a signature with this label over msg signs.
func SigMessage(label Label, msg []byte) []byte {
	sum := sha256.Sum256(msg)
	out := make([]byte, 0, len(label)+1+len(sum))
	out = append(append(out, label...), 0)
	return append(out, sum[:]...)
}
