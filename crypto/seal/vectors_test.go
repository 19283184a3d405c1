package seal

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/cryptotest"
)

var update = flag.Bool("update", false, "write testdata/vectors.txt anew; a change of format needs a new version byte")

// The vectors pin the format: what was sealed once must open for ever, and under
// the same randomness the same bytes must come out.
func TestVectors(t *testing.T) {
	key := Key(ramp(32))
	vault := VaultID(ramp(32))
	text := bytes.Repeat([]byte("kist "), 100)
	var got strings.Builder
	line := func(name string, b []byte) { fmt.Fprintf(&got, "%s %s\n", name, hex.EncodeToString(b)) }
	blob := func(name string, b Blob) {
		line(name+" key", b.Key[:])
		line(name+" fingerprint", b.Fingerprint[:])
		line(name+" sealed", b.Sealed)
	}
	cryptotest.SetGlobalRandom(t, 1)
	blob("blob raw", mustSeal(t, vault, 1, []byte("hello")))
	blob("blob zstd", mustSeal(t, vault, 2, text))
	line("sealk", SealK(key, LabelCommit, []byte("context"), []byte("hello")))
	line("stream", NewStream(key).Seal(nil, 258, []byte("aad"), []byte("hello")))
	for _, l := range labels(t) {
		line(l.value+" kdf", Derive(key, Label(l.value), []byte("context"), 32))
		sum := Hash(Label(l.value), []byte("one"), []byte("two"))
		line(l.value+" hash", sum[:])
	}
	line("sigmessage", SigMessage(LabelSigCommit, []byte("hello")))

	const file = "testdata/vectors.txt"
	if *update {
		if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("sealing gives other bytes than %s", file)
	}
	openVectors(t, key, vault, text, string(want))
}

// openVectors opens what the file holds, whatever sealing does today.
func openVectors(t *testing.T, key Key, vault VaultID, text []byte, file string) {
	v := map[string][]byte{}
	for l := range strings.Lines(file) {
		at := strings.LastIndexByte(l, ' ')
		b, err := hex.DecodeString(strings.TrimSpace(l[at+1:]))
		if err != nil {
			t.Fatal(err)
		}
		v[l[:at]] = b
	}
	k, fp := Key(v["blob raw key"]), Fingerprint(v["blob raw fingerprint"])
	if got, err := OpenBlob(vault, 1, CodecRaw, 5, fp, &k, v["blob raw sealed"]); err != nil || string(got) != "hello" {
		t.Errorf("blob raw: %v", err)
	}
	k, fp = Key(v["blob zstd key"]), Fingerprint(v["blob zstd fingerprint"])
	if got, err := OpenBlob(vault, 2, CodecZstd, uint32(len(text)), fp, &k, v["blob zstd sealed"]); err != nil || !bytes.Equal(got, text) {
		t.Errorf("blob zstd: %v", err)
	}
	if got, err := OpenK(key, LabelCommit, []byte("context"), v["sealk"]); err != nil || string(got) != "hello" {
		t.Errorf("sealk: %v", err)
	}
	if got, err := NewStream(key).Open(nil, 258, []byte("aad"), v["stream"]); err != nil || string(got) != "hello" {
		t.Errorf("stream: %v", err)
	}
}

func ramp(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}
