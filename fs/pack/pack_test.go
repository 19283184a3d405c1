package pack

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"testing/cryptotest"

	"kist/crypto/seal"
	"kist/fs/tree"
)

var update = flag.Bool("update", false, "write the golden files")

func testFooter() Footer {
	f := Footer{Epoch: 7}
	copy(f.Vault[:], "a vault for tests, of 32 bytes..")
	copy(f.Key[:], "a key for tests, also 32 bytes..")
	return f
}

type placed struct {
	ptr   tree.Pointer
	plain []byte
}

// build packs contents of the given sizes and returns pointers to them.
func build(t testing.TB, f Footer, sizes ...int) (packs []Pack, ps []placed) {
	t.Helper()
	w := NewWriter(f, func(p Pack) error { packs = append(packs, p); return nil })
	from := 0
	name := func(n [32]byte) {
		for ; from < len(ps); from++ {
			ps[from].ptr.Pack = n
		}
	}
	for i, n := range sizes {
		plain := bytes.Repeat([]byte{byte(i), byte(i >> 8), byte(n)}, n/3+1)[:n]
		b, err := seal.SealBlob(f.Vault, tree.KindChunk, plain)
		if err != nil {
			t.Fatal(err)
		}
		rolled, err := w.Room(len(b.Sealed))
		if err != nil {
			t.Fatal(err)
		}
		if rolled != nil {
			name(*rolled)
		}
		off, err := w.Place(tree.KindChunk, b)
		if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, placed{plain: plain, ptr: tree.Pointer{
			Kind: tree.KindChunk, Codec: b.Codec, PlainLen: b.PlainLen, SealedLen: uint32(len(b.Sealed)),
			Offset: off, Fingerprint: b.Fingerprint, Key: b.Key,
		}})
	}
	last, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	name(last)
	return packs, ps
}

func TestRoundTrip(t *testing.T) {
	f := testFooter()
	packs, ps := build(t, f, 1, 100, 1000, 10000, 5)
	if len(packs) != 1 || packs[0].Name != sha256.Sum256(packs[0].Bytes) {
		t.Fatalf("%d packs", len(packs))
	}
	rows, err := f.Parse(packs[0].Bytes)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range rows {
		p := ps[i].ptr
		if r.Kind != p.Kind || r.Offset != p.Offset || r.Len != p.SealedLen || r.Fingerprint != p.Fingerprint {
			t.Errorf("row %d is %+v", i, r)
		}
	}
	if n := len(packs[0].Bytes); seal.Padded(n) != n {
		t.Errorf("a pack of %d bytes is not padded", n)
	}
}

func TestWorkedTotal(t *testing.T) {
	packs, _ := build(t, testFooter(), 10)
	if n := len(packs[0].Bytes); n != 480 {
		t.Errorf("a pack of one small blob has %d bytes, the format document says 480", n)
	}
}

func TestNothingIsNotAPack(t *testing.T) {
	w := NewWriter(testFooter(), func(Pack) error { t.Error("an empty pack"); return nil })
	if name, err := w.Close(); err != nil || name != ([32]byte{}) {
		t.Error(name, err)
	}
}

func TestWriterRolls(t *testing.T) {
	f := testFooter()
	w := NewWriter(f, nil)
	var packs []Pack
	w.done = func(p Pack) error { packs = append(packs, p); return nil }
	b := seal.Blob{Sealed: bytes.Repeat([]byte{1}, seal.MaxBlob)}
	b.Fingerprint = seal.FingerprintOf(b.Sealed)
	for range 40 {
		if _, err := w.Room(len(b.Sealed)); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Place(tree.KindChunk, b); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, p := range packs {
		if len(p.Bytes) > MaxSize {
			t.Errorf("a pack of %d bytes", len(p.Bytes))
		}
		if _, err := f.Parse(p.Bytes); err != nil {
			t.Error(err)
		}
	}
	if len(packs) != 3 {
		t.Errorf("%d packs", len(packs))
	}
}

func TestEveryBitOfAPackCounts(t *testing.T) {
	f := testFooter()
	packs, _ := build(t, f, 1, 300, 20)
	b := packs[0].Bytes
	for i := range b {
		b[i] ^= 1 << (i % 8)
		if _, err := f.Parse(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("byte %d of %d: %v", i, len(b), err)
		}
		b[i] ^= 1 << (i % 8)
	}
	for _, bad := range [][]byte{nil, b[1:], b[:len(b)-1], append(b[:len(b):len(b)], 0), b[len(b)-trailerSize:]} {
		if _, err := f.Parse(bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}
	other := f
	other.Vault[0] ^= 1
	if _, err := other.Parse(b); !errors.Is(err, ErrMalformed) {
		t.Error("a pack of another vault:", err)
	}
}

// A hostile writer has the key: the padding, the rows and the size it seals are
// checked all the same.
func TestHostileFooters(t *testing.T) {
	f := testFooter()
	blob, err := seal.SealBlob(f.Vault, tree.KindChunk, []byte("content"))
	if err != nil {
		t.Fatal(err)
	}
	row := Row{Kind: tree.KindChunk, Len: uint32(len(blob.Sealed)), Fingerprint: blob.Fingerprint}
	good := f.finish(bytes.Clone(blob.Sealed), []Row{row})
	if _, err := f.Parse(good); err != nil {
		t.Fatal(err)
	}
	end := len(good) - trailerSize
	pt, err := seal.OpenK(f.Key, seal.LabelFooter, f.context(), good[len(blob.Sealed):end])
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(pt []byte) []byte{
		"padding":             func(pt []byte) []byte { pt[len(pt)-1] = 1; return pt },
		"count 0":             func(pt []byte) []byte { pt[3] = 0; return pt },
		"count 2":             func(pt []byte) []byte { pt[3] = 2; return pt },
		"count huge":          func(pt []byte) []byte { pt[0] = 255; return pt },
		"kind 0":              func(pt []byte) []byte { pt[4+32] = 0; return pt },
		"kind 5":              func(pt []byte) []byte { pt[4+32] = 5; return pt },
		"length":              func(pt []byte) []byte { pt[4+32+4]++; return pt },
		"content fingerprint": func(pt []byte) []byte { pt[4+37] = 1; return pt },
		"fingerprint":         func(pt []byte) []byte { pt[4] ^= 1; return pt },
		"longer":              func(pt []byte) []byte { return append(pt, 0) },
		"shorter":             func(pt []byte) []byte { return pt[:len(pt)-1] },
	} {
		b := append(bytes.Clone(blob.Sealed), seal.SealK(f.Key, seal.LabelFooter, f.context(), change(bytes.Clone(pt)))...)
		n := len(b) - len(blob.Sealed)
		b = append(b, 0, 0, 0, 7, 0, 0, byte(n>>8), byte(n))
		if _, err := f.Parse(append(b, magic...)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestGolden(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 1)
	packs, _ := build(t, testFooter(), 1, 300)
	file := filepath.Join("testdata", "two-blobs.pack.hex")
	got := []byte(hex.EncodeToString(packs[0].Bytes) + "\n")
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := hex.DecodeString(string(bytes.TrimSpace(want)))
	if err != nil {
		t.Fatal(err)
	}
	if rows, err := testFooter().Parse(raw); err != nil || len(rows) != 2 {
		t.Error("the pack of record does not parse any more:", err)
	}
	if !bytes.Equal(got, want) {
		t.Error("the same blobs make another pack than they did")
	}
}

func FuzzParseRows(f *testing.F) {
	row := make([]byte, rowSize)
	row[32], row[35] = tree.KindDir, 2
	f.Add(append([]byte{0, 0, 0, 1}, row...), 512)
	f.Add([]byte{0, 0, 0, 0}, 0)
	f.Fuzz(func(t *testing.T, pt []byte, blobs int) {
		rows, err := parseRows(pt, blobs)
		if err != nil {
			return
		}
		sum := 0
		for _, r := range rows {
			if int(r.Offset) != sum || !kindOK(r.Kind) {
				t.Fatalf("row %+v", r)
			}
			sum += int(r.Len)
		}
		if sum != blobs || len(rows) == 0 {
			t.Fatalf("%d rows of %d bytes, not %d", len(rows), sum, blobs)
		}
	})
}
