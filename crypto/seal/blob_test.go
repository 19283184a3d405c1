package seal

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func mustSeal(t testing.TB, vault VaultID, kind uint8, data []byte) Blob {
	t.Helper()
	b, err := SealBlob(vault, kind, data)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func reopen(vault VaultID, kind uint8, b Blob) ([]byte, error) {
	return OpenBlob(vault, kind, b.Codec, b.PlainLen, b.Fingerprint, &b.Key, b.Sealed)
}

func noise(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// countOpens counts decryptions until the test ends.
func countOpens(t *testing.T) *int {
	n, before := new(int), testingOnlyBeforeOpen
	testingOnlyBeforeOpen = func() { *n++ }
	t.Cleanup(func() { testingOnlyBeforeOpen = before })
	return n
}

// forge seals any plaintext as a blob, as a member without scruples could.
func forge(vault VaultID, kind, codec uint8, plainLen uint32, pt []byte) Blob {
	b := Blob{Key: NewKey(), Codec: codec, PlainLen: plainLen}
	b.Sealed = gcmRandom(&b.Key).Seal(nil, nil, pt, blobAAD(vault, kind))
	b.Fingerprint = FingerprintOf(b.Sealed)
	return b
}

func plaintext(codec uint8, n uint32, data []byte, padding int) []byte {
	pt := binary.BigEndian.AppendUint32([]byte{codec}, n)
	return append(append(pt, data...), make([]byte, padding)...)
}

func TestBlobRoundTrip(t *testing.T) {
	text := bytes.Repeat([]byte("the quick brown fox "), MaxPlain/20+1)
	for _, n := range []int{0, 1, 63, 64, 255, 256, 257, 4096, 32 << 10, 100_000, MaxPlain - 1, MaxPlain} {
		for name, data := range map[string][]byte{"noise": noise(n), "text": text[:n], "zeros": make([]byte, n)} {
			b := mustSeal(t, VaultID{1}, 2, data)
			got, err := reopen(VaultID{1}, 2, b)
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("%s of %d bytes: %v", name, n, err)
			}
			if len(b.Sealed) > MaxBlob || len(b.Sealed) < MinBlob {
				t.Errorf("%s of %d bytes: sealed to %d", name, n, len(b.Sealed))
			}
			if name == "noise" && b.Codec != CodecRaw || name != "noise" && n > 256 && b.Codec != CodecZstd {
				t.Errorf("%s of %d bytes: codec %d", name, n, b.Codec)
			}
		}
	}
	if _, err := SealBlob(VaultID{}, 1, make([]byte, MaxPlain+1)); err == nil {
		t.Error("a blob beyond the limit was sealed")
	}
}

func TestBlobSizes(t *testing.T) {
	for n, want := range map[int]int{0: 289, 1000: 1057, MaxPlain: MaxBlob} {
		if b := mustSeal(t, VaultID{}, 1, noise(n)); len(b.Sealed) != want {
			t.Errorf("%d bytes: sealed to %d, the format says %d", n, len(b.Sealed), want)
		}
	}
	if MaxBlob != 1_048_609 {
		t.Errorf("MaxBlob = %d", MaxBlob)
	}
	classes := map[int]bool{}
	for n := range MaxPlain + 1 {
		p := paddedData(n)
		if p < n || p > minData && float64(p) > 1.12*float64(n) || paddedData(p) != p {
			t.Fatalf("%d is padded to %d", n, p)
		}
		classes[p] = true
	}
	for range 2000 {
		n := len(noise(1)) + int(binary.BigEndian.Uint32(noise(4)))%(64<<10)
		b := mustSeal(t, VaultID{}, 1, noise(n))
		if !classes[len(b.Sealed)-OverheadBlob] {
			t.Fatalf("%d bytes: sealed length %d tells more than its class", n, len(b.Sealed))
		}
	}
}

func TestBlobEveryByteCounts(t *testing.T) {
	data := []byte("some content")
	b := mustSeal(t, VaultID{1}, 1, data)
	opens := countOpens(t)
	for i := range b.Sealed {
		bad := b
		bad.Sealed = bytes.Clone(b.Sealed)
		bad.Sealed[i] ^= 1
		if got, err := reopen(VaultID{1}, 1, bad); err != ErrUnseal || got != nil {
			t.Fatalf("byte %d: %v, %d bytes", i, err, len(got))
		}
		if *opens != 0 {
			t.Fatalf("byte %d: decrypted before the fingerprint was checked", i)
		}
		bad.Fingerprint = FingerprintOf(bad.Sealed)
		if got, err := reopen(VaultID{1}, 1, bad); err != ErrUnseal || got != nil {
			t.Fatalf("byte %d under its own fingerprint: %v, %d bytes", i, err, len(got))
		}
		*opens = 0
	}
	for n := range b.Sealed {
		bad := b
		bad.Sealed = b.Sealed[:n]
		bad.Fingerprint = FingerprintOf(bad.Sealed)
		if _, err := reopen(VaultID{1}, 1, bad); err != ErrUnseal {
			t.Fatalf("cut to %d: %v", n, err)
		}
	}
}

func TestBlobBelongsToItsPlace(t *testing.T) {
	b := mustSeal(t, VaultID{1}, 1, []byte("some content"))
	for name, open := range map[string]func() ([]byte, error){
		"vault":  func() ([]byte, error) { return reopen(VaultID{2}, 1, b) },
		"kind":   func() ([]byte, error) { return reopen(VaultID{1}, 2, b) },
		"key":    func() ([]byte, error) { c := b; c.Key = NewKey(); return reopen(VaultID{1}, 1, c) },
		"codec":  func() ([]byte, error) { c := b; c.Codec = CodecZstd; return reopen(VaultID{1}, 1, c) },
		"codec2": func() ([]byte, error) { c := b; c.Codec = 2; return reopen(VaultID{1}, 1, c) },
		"length": func() ([]byte, error) { c := b; c.PlainLen++; return reopen(VaultID{1}, 1, c) },
		"huge":   func() ([]byte, error) { c := b; c.PlainLen = 1 << 31; return reopen(VaultID{1}, 1, c) },
		"print":  func() ([]byte, error) { c := b; c.Fingerprint[31] ^= 1; return reopen(VaultID{1}, 1, c) },
		"zeros": func() ([]byte, error) {
			c := b
			c.Sealed = make([]byte, len(b.Sealed))
			c.Fingerprint = FingerprintOf(c.Sealed)
			return reopen(VaultID{1}, 1, c)
		},
	} {
		if got, err := open(); err != ErrUnseal || got != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A member may seal what he likes; only the one encoding is read.
func TestBlobForged(t *testing.T) {
	dirty := plaintext(CodecRaw, 5, []byte("hello"), 251)
	dirty[len(dirty)-1] = 1
	text := bytes.Repeat([]byte("abc "), 100)
	frame := encoder().EncodeAll(text, nil)
	zstdBlob := func(frame []byte) Blob {
		return forge(VaultID{}, 1, CodecZstd, 400, plaintext(CodecZstd, uint32(len(frame)), frame, paddedData(len(frame))-len(frame)))
	}
	var streamed bytes.Buffer
	w, err := zstd.NewWriter(&streamed)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(text[:100])
	w.Flush()
	w.Write(text[100:])
	w.Close()
	summed, err := zstd.NewWriter(nil, zstd.WithSingleSegment(true), zstd.WithEncoderCRC(true))
	if err != nil {
		t.Fatal(err)
	}
	empty := encoder().EncodeAll(nil, nil)
	if len(empty) == 0 {
		empty = []byte{0x28, 0xb5, 0x2f, 0xfd, 0x20, 0, 1, 0, 0}
	}
	for name, c := range map[string]struct {
		b  Blob
		ok bool
	}{
		"good":             {forge(VaultID{}, 1, 0, 5, plaintext(0, 5, []byte("hello"), 251)), true},
		"dirty padding":    {forge(VaultID{}, 1, 0, 5, dirty), false},
		"too much padding": {forge(VaultID{}, 1, 0, 5, plaintext(0, 5, []byte("hello"), 252)), false},
		"no padding":       {forge(VaultID{}, 1, 0, 300, plaintext(0, 300, make([]byte, 300), 0)), false},
		"length too large": {forge(VaultID{}, 1, 0, 5, plaintext(0, 1<<31, []byte("hello"), 251)), false},
		"codec inside":     {forge(VaultID{}, 1, 0, 5, plaintext(1, 5, []byte("hello"), 251)), false},
		"codec unknown":    {forge(VaultID{}, 1, 7, 5, plaintext(7, 5, []byte("hello"), 251)), false},
		"zstd good":        {forge(VaultID{}, 1, 1, 400, plaintext(1, uint32(len(frame)), frame, 256-len(frame))), true},
		"zstd short":       {forge(VaultID{}, 1, 1, 401, plaintext(1, uint32(len(frame)), frame, 256-len(frame))), false},
		"zstd long":        {forge(VaultID{}, 1, 1, 399, plaintext(1, uint32(len(frame)), frame, 256-len(frame))), false},
		"zstd frame":       {zstdBlob(frame), true},
		"zstd streamed":    {zstdBlob(streamed.Bytes()), false},
		"zstd summed":      {zstdBlob(summed.EncodeAll(text, nil)), false},
		"zstd trailing":    {zstdBlob(append(bytes.Clone(frame), 0)), false},
		"zstd cut":         {zstdBlob(frame[:len(frame)-1]), false},
		"zstd twice":       {zstdBlob(append(bytes.Clone(frame), empty...)), false},
		"zstd skips":       {zstdBlob(append(bytes.Clone(frame), 0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0)), false},
		"zstd junk":        {forge(VaultID{}, 1, 1, 5, plaintext(1, 5, []byte("hello"), 251)), false},
	} {
		got, err := reopen(VaultID{}, 1, c.b)
		if c.ok != (err == nil) || err != nil && err != ErrUnseal {
			t.Errorf("%s: %v, %d bytes", name, err, len(got))
		}
	}
}

// bomb is a zstd frame that claims n bytes and holds a gibibyte.
func bomb(n uint32) []byte {
	frame := []byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0} // single segment, 4-byte size
	frame = binary.LittleEndian.AppendUint32(frame, n)
	const blocks, size, rle = 8192, 128 << 10, 1 << 1
	for i := range blocks {
		h := uint32(size<<3 | rle)
		if i == blocks-1 {
			h |= 1
		}
		frame = append(frame, byte(h), byte(h>>8), byte(h>>16), 'x')
	}
	return frame
}

func TestBombs(t *testing.T) {
	warm := mustSeal(t, VaultID{}, 1, make([]byte, 1000))
	if _, err := reopen(VaultID{}, 1, warm); err != nil {
		t.Fatal(err)
	}
	for _, claim := range []uint32{0, 10, 4096, MaxPlain, MaxPlain + 1, 1 << 30} {
		frame := bomb(claim)
		b := forge(VaultID{}, 1, CodecZstd, claim, plaintext(CodecZstd, uint32(len(frame)), frame, paddedData(len(frame))-len(frame)))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if got, err := reopen(VaultID{}, 1, b); err != ErrUnseal || got != nil {
			t.Errorf("claiming %d: %v", claim, err)
		}
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > 8<<20 {
			t.Errorf("claiming %d: %d bytes were allocated", claim, used)
		}
	}
}

func TestKeysAndNoncesAreDistinct(t *testing.T) {
	const n = 100_000
	keys, nonces := make(map[Key]bool, n), make(map[string]bool, 3*n)
	salts := make(map[string]bool, n)
	k := NewKey()
	for range n {
		b := mustSeal(t, VaultID{}, 1, nil)
		keys[b.Key], nonces[string(b.Sealed[:12])] = true, true
		s := SealK(k, LabelBlob, nil, nil)
		salts[string(s[2:66])], nonces[string(s[66:78])] = true, true
	}
	if len(keys) != n || len(salts) != n || len(nonces) != 2*n {
		t.Errorf("%d keys, %d salts, %d nonces", len(keys), len(salts), len(nonces))
	}
	a, b := mustSeal(t, VaultID{}, 1, []byte("same")), mustSeal(t, VaultID{}, 1, []byte("same"))
	if a.Key == b.Key || a.Fingerprint == b.Fingerprint {
		t.Error("equal contents are recognisable")
	}
}

func FuzzBlobPlaintext(f *testing.F) {
	f.Add(uint8(0), uint32(5), plaintext(0, 5, []byte("hello"), 251))
	f.Add(uint8(1), uint32(10), plaintext(1, 200, bomb(10)[:200], 56))
	f.Fuzz(func(t *testing.T, codec uint8, plainLen uint32, pt []byte) {
		b := forge(VaultID{}, 1, codec, plainLen, pt)
		got, err := reopen(VaultID{}, 1, b)
		if err != nil {
			if !errors.Is(err, ErrUnseal) || got != nil {
				t.Fatal(err)
			}
			return
		}
		if len(got) != int(plainLen) {
			t.Fatalf("%d bytes instead of %d", len(got), plainLen)
		}
		n := int(binary.BigEndian.Uint32(pt[1:]))
		again := plaintext(codec, uint32(n), pt[5:5+n], paddedData(n)-n)
		if !bytes.Equal(again, pt) || codec == CodecRaw && !bytes.Equal(got, pt[5:5+n]) {
			t.Fatal("a second encoding was accepted")
		}
	})
}

func FuzzOpenBlob(f *testing.F) {
	f.Add(mustSeal(f, VaultID{}, 1, []byte("x")).Sealed)
	f.Fuzz(func(t *testing.T, sealed []byte) {
		if _, err := OpenBlob(VaultID{}, 1, 0, 1, FingerprintOf(sealed), &Key{}, sealed); err != ErrUnseal {
			t.Fatal("opened")
		}
	})
}

func ExampleSealBlob() {
	vault := VaultID{1}
	b, err := SealBlob(vault, 1, []byte("hello"))
	if err != nil {
		panic(err)
	}
	got, err := OpenBlob(vault, 1, b.Codec, b.PlainLen, b.Fingerprint, &b.Key, b.Sealed)
	fmt.Println(string(got), err, b.Key)
	// Output: hello <nil> [redacted]
}
