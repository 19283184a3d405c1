package seal

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestKeysDoNotShowThemselves(t *testing.T) {
	k := Key(bytes.Repeat([]byte{0xab}, 32))
	type pointer struct {
		Key  Key
		Keys []Key
		Ref  *Key
		Map  map[Key]int
		Any  any
		Blob Blob
	}
	p := pointer{k, []Key{k}, &k, map[Key]int{k: 1}, k, Blob{Key: k}}
	var out strings.Builder
	for _, v := range []any{k, &k, p, &p, []any{p}, NewStream(k)} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%o", "%b", "%c", "%U"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		fmt.Fprintln(&out, v, fmt.Errorf("wrapped %v", v))
	}
	for _, v := range []any{k, &k, p, []Key{k}, map[string]Key{"k": k}, map[Key]int{k: 1}} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(b)
	}
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).Info("m", "key", k, "ref", &k, "in", p, slog.Group("g", "key", k))
	}
	for _, trace := range []string{"ababab", "ABABAB", "171 171", "ab ab", "0xab", "q6urq6", "\xab\xab", "253 253", "U+00AB", "10101011"} {
		if strings.Contains(out.String(), trace) {
			t.Errorf("%q was printed in\n%s", trace, out.String())
		}
	}
	if strings.Count(out.String(), "[redacted]") < 100 {
		t.Error("the test prints nothing")
	}
}

func TestKeyEqualAndWipe(t *testing.T) {
	k, other := NewKey(), NewKey()
	if !k.Equal(k) || k.Equal(other) {
		t.Error("Equal")
	}
	if k.Wipe(); !k.Equal(Key{}) {
		t.Error("Wipe")
	}
}

func TestPadded(t *testing.T) {
	for n, want := range map[int]int{0: 0, 1: 1, 2: 2, 3: 3, 9: 10, 1000: 1024, 100_000: 100_352, 1 << 20: 1 << 20, 1<<20 + 5: 1081344} {
		if got := Padded(n); got != want {
			t.Errorf("Padded(%d) = %d, the format says %d", n, got, want)
		}
	}
}

func TestHashIsInjective(t *testing.T) {
	seen := map[string]string{}
	for name, h := range map[string][32]byte{
		"ab":   Hash("l", []byte("ab")),
		"a b":  Hash("l", []byte("a"), []byte("b")),
		"ab _": Hash("l", []byte("ab"), nil),
		"_ ab": Hash("l", nil, []byte("ab")),
		"none": Hash("l"),
	} {
		key := hex.EncodeToString(h[:])
		if seen[key] != "" {
			t.Errorf("%s = %s", name, seen[key])
		}
		seen[key] = name
	}
}
