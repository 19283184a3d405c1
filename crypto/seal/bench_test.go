package seal

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"testing"
)

// Contents of three sorts: what does not compress, what does, and a page.
func benchData() map[string][]byte {
	noise := make([]byte, MaxPlain)
	rand.Read(noise)
	var text bytes.Buffer
	for i := 0; text.Len() < MaxPlain; i++ {
		fmt.Fprintf(&text, "line %d: the %x of the matter\n", i, noise[i%1000:i%1000+6])
	}
	return map[string][]byte{
		"noise-1MiB": noise,
		"text-1MiB":  text.Bytes()[:MaxPlain],
		"zeros-1MiB": make([]byte, MaxPlain),
		"page-16KiB": text.Bytes()[:16<<10],
		"noise-4KiB": noise[:4<<10],
	}
}

func BenchmarkSealBlob(b *testing.B) {
	for name, data := range benchData() {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := SealBlob(VaultID{}, 1, data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOpenBlob(b *testing.B) {
	for name, data := range benchData() {
		blob, err := SealBlob(VaultID{}, 1, data)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := OpenBlob(VaultID{}, 1, blob.Codec, blob.PlainLen, blob.Fingerprint, &blob.Key, blob.Sealed); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSealK(b *testing.B) {
	k, pt := NewKey(), make([]byte, 1<<10)
	b.ReportAllocs()
	for b.Loop() {
		SealK(k, LabelCommit, nil, pt)
	}
}

func BenchmarkStream(b *testing.B) {
	s, pt, dst := NewStream(NewKey()), make([]byte, 4<<10), make([]byte, 0, 5<<10)
	b.SetBytes(int64(len(pt)))
	b.ReportAllocs()
	n := uint64(0)
	for b.Loop() {
		s.Seal(dst, n, nil, pt)
		n++
	}
}
