package keys

import (
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/cryptotest"

	"kist/crypto/seal"
)

var update = flag.Bool("update", false, "write testdata/vectors.txt anew; a change of format needs a new version byte")

const vectorFile = "testdata/vectors.txt"

// The vectors pin the format: what was made once must be read for ever, and under
// the same randomness the same bytes must come out.
func TestVectors(t *testing.T) {
	var got strings.Builder
	line := func(name string, b []byte) { fmt.Fprintf(&got, "%s %s\n", name, hex.EncodeToString(b)) }

	cryptotest.SetGlobalRandom(t, 1)
	m, s, raw, first, k := person(t, "anna")
	line("identity-id", first.ID[:])
	line("device-id", s.Device[:])
	line("identity-0", raw)
	laptop := publicOf(seal.NewKey())
	raw, second, err := m.Certify(first, Change{Devices: []NewDevice{{laptop, ""}}, Revoke: []DeviceID{s.Device}})
	if err != nil {
		t.Fatal(err)
	}
	line("identity-1", raw)
	line("keyfile", k.Bytes())
	line("keyfile-exported", must(k.Export(fast, testPass))(t).Bytes())
	for i, key := range []seal.Key{s.CacheKey(), s.JournalKey(), s.TrustKey()} {
		line([]string{"cache-key", "journal-key", "trust-key"}[i], key[:])
	}
	es := seal.Key{1, 2, 3}
	_, public := second.UserKey()
	line("wrap", must(Wrap(public, es, []byte("info"), []byte("aad")))(t))
	commitment := EpochCommitment(es, seal.VaultID{4}, 5)
	line("es-commit", commitment[:])
	line("signature", s.Sign(seal.LabelSigCommit, []byte("message")))
	line("request", appendRequest(nil, cheap, make([]byte, saltSize), []byte("anna"), []byte("secret")))
	line("kist.json", StoreHeader{StoreFormat, testStore}.Encode())
	line("passphrase", []byte(GeneratePassphrase()))

	if *update {
		if err := os.WriteFile(vectorFile, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("other bytes come out than stand in %s", vectorFile)
	}
}

// What the file holds is read, whatever is written today.
func TestVectorsOpen(t *testing.T) {
	file, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	v := map[string][]byte{}
	for l := range strings.Lines(string(file)) {
		name, text, _ := strings.Cut(strings.TrimSpace(l), " ")
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		v[name] = b
	}
	id := IdentityID(v["identity-id"])
	first := must(ParseIdentity(id, 0, v["identity-0"]))(t)
	second := must(ParseIdentity(id, 1, v["identity-1"]))(t)
	if err := second.Follows(first); err != nil {
		t.Error(err)
	}
	k := must(ParseKeyfile(v["keyfile"]))(t)
	m, s, err := k.OpenMaster(fast, testPass)
	if err != nil || m.Identity() != id || s.Device != DeviceID(v["device-id"]) || s.Check(first) != nil {
		t.Fatal(err)
	}
	if es, err := s.Unwrap(v["wrap"], []byte("info"), []byte("aad")); err != nil || !es.Equal(seal.Key{1, 2, 3}) {
		t.Error(err)
	}
	if err := VerifyDevice(s.DevicePublic(), seal.LabelSigCommit, []byte("message"), v["signature"]); err != nil {
		t.Error(err)
	}
	for name, key := range map[string]seal.Key{"cache-key": s.CacheKey(), "journal-key": s.JournalKey(), "trust-key": s.TrustKey()} {
		if !key.Equal(seal.Key(v[name])) {
			t.Errorf("the %s is another one", name)
		}
	}
	exported := must(ParseKeyfile(v["keyfile-exported"]))(t)
	if s := must(exported.OpenMain(fast, testPass))(t); s.HasDevice() || s.Identity != id {
		t.Error("the exported keyfile is not as it should be")
	}
}
