package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"kist/crypto/seal"
)

// golden is a record with one byte of meta and two of payload, as
// docs/FORMAT.md describes it, under the key 1, 2, 3, 0 … in segment 5.
const golden = "0000000000000009000000000000000707000000000100000002" +
	"375b1ffb00afceb7b03b6e2b7286481a1083fa9a48415874a836f7b33b9ef1bf9e9248" +
	"cd339ff3abe09b1afcb5368bef87a3a2eed81c95fb7ebbda310a169367d7ab44"

func goldenRecord() []byte {
	c := coder{5, seal.NewStream(seal.Key{1, 2, 3})}
	f := frame{n: 9, synced: 7, kind: 7, meta: 1, payload: 2}
	return c.append(nil, f, sha256.Sum256([]byte("pp")), []byte("m"), []byte("pp"))
}

func TestGoldenRecord(t *testing.T) {
	b := goldenRecord()
	if got := hex.EncodeToString(b); got != golden {
		t.Fatalf("the format changed: %s", got)
	}
	if len(b) != 26+49+18 {
		t.Fatal(len(b))
	}
	f := frame{n: 1, meta: 100, payload: 4096}
	if f.size() != 4286 || headerSize != 200 || endSize != 74 {
		t.Fatal("the totals of the document are wrong")
	}
}

func FuzzFrame(f *testing.F) {
	f.Add(goldenRecord()[:frameSize])
	f.Add(bytes.Repeat([]byte{0xff}, frameSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, err := decodeFrame(b)
		if err == nil && !bytes.Equal(fr.append(nil), b[:frameSize]) {
			t.Fatal("not canonical")
		}
	})
}

func FuzzHeader(f *testing.F) {
	key, vault := seal.Key{7}, [32]byte{8}
	h := header{id: [16]byte{1}, number: 2, first: 3, run: [32]byte{4}}
	f.Add(h.encode(key, vault, seal.Key{9}))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, _, err := decodeHeader(key, vault, b)
		if err == nil && (!bytes.Equal(got.clear(), b[:clearSize]) || got != h) {
			t.Fatal("a header was forged")
		}
	})
}

func TestNames(t *testing.T) {
	for name, want := range map[string]bool{
		"0000000000000001.seg": true, "00000000000000ab.dmg": true, "00000000000000ab.aside": true,
		"00000000000000AB.seg": false, "1.seg": false, "+000000000000001.seg": false,
		"0000000000000001.tmp": false, "lock": false, "0000000000000001.seg2": false,
	} {
		if _, _, ok := parseName(name); ok != want {
			t.Error(name, ok)
		}
	}
}
