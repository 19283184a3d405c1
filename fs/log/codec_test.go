package log

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/cryptotest"
	"time"

	"kist/crypto/keys"
	"kist/crypto/seal"
)

var update = flag.Bool("update", false, "write the golden files anew: only with a new format version")

func full() *body {
	return &body{
		kind: Membership, author: keys.IdentityID{1}, device: keys.DeviceID{2}, point: Head{3, Hash{4}},
		identity: []byte("identity"), time: 1790000000123456789, rosterAt: Head{5, Hash{6}}, root: []byte("root"),
		nodes:    []Range{{[32]byte{7}, 8, 9}},
		devices:  []DeviceRow{{keys.DeviceID{10}, 11, 12, [16]byte{13}, 14, [32]byte{15}}, {Device: keys.DeviceID{9}, Number: 8191}},
		points:   []IdentityHead{{keys.IdentityID{16}, Head{17, Hash{18}}}, {keys.IdentityID{19}, Head{}}},
		voids:    []Void{{20, Hash{21}}, {21, Hash{22}}},
		heads:    []VaultHead{{seal.VaultID{23}, Head{24, Hash{25}}}},
		summary:  Summary{26, 27, 28, 29},
		override: &Override{seal.VaultID{30}, Head{31, Hash{32}}, Head{33, Hash{34}}},
		roster: &Roster{
			Nonce: [32]byte{35}, Epoch: 36, ESCommit: [32]byte{37},
			Members: []Member{{keys.IdentityID{38}, Owner, Head{39, Hash{40}}}, {keys.IdentityID{41}, Reader, Head{}}},
			Past:    []Head{{0, Hash{42}}, {7, Hash{43}}},
		},
		genesis: &genesis{keys.StoreID{44}, [32]byte{45}},
	}
}

// The bytes of the format, from fixed randomness. A difference here is a new
// format and needs a new version.
func TestGolden(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 1)
	w := newWorld(t)
	ann := w.actor("ann")
	cfg := ann.config(w)
	cfg.Now = func() time.Time { return time.Unix(1790000000, 0) }
	l, err := Create(ctx, cfg, []byte("root"))
	must(t, err)
	ann.Log, w.vault = l, l.Vault()
	ann.put(Body{Kind: Numbering, Row: &DeviceRow{Number: 1, Journal: [16]byte{5}}})
	ann.put(Body{Kind: Ordinary, Root: []byte("tree")})
	golden(t, "body", full().encode())
	golden(t, "genesis", w.raw(0))
	golden(t, "numbering", w.raw(1))
	golden(t, "ordinary", w.raw(2))
	golden(t, "trust", cfg.Trust.now.encode())
	es, _ := l.secret(0)
	golden(t, "secrets", es[:])
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".hex")
	if *update {
		var out []byte
		for line := range slices.Chunk([]byte(hex.EncodeToString(got)), 128) {
			out = append(append(out, line...), '\n')
		}
		must(t, os.WriteFile(path, out, 0o644))
	}
	raw, err := os.ReadFile(path)
	must(t, err)
	want, err := hex.DecodeString(string(bytes.ReplaceAll(raw, []byte("\n"), nil)))
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("%s: the format changed", name)
	}
}

func TestBodyCodec(t *testing.T) {
	raw := full().encode()
	b, err := parseBody(raw)
	must(t, err)
	if !bytes.Equal(b.encode(), raw) {
		t.Fatal("does not come back")
	}
	for i := range raw {
		if _, err := parseBody(raw[:i]); err == nil {
			t.Fatalf("cut at %d and accepted", i)
		}
	}
	for name, change := range map[string]func(*body){
		"kind zero":         func(b *body) { b.kind = 0 },
		"no roster":         func(b *body) { b.roster = nil },
		"negative time":     func(b *body) { b.time = -1 },
		"number zero":       func(b *body) { b.devices[0].Number = 0 },
		"number too high":   func(b *body) { b.devices[1].Number = 8192 },
		"number twice":      func(b *body) { b.devices[0].Number = 8191 },
		"device twice":      func(b *body) { b.devices[0].Device = b.devices[1].Device },
		"points unsorted":   func(b *body) { slices.Reverse(b.points) },
		"voids with a gap":  func(b *body) { b.voids[1].Seq++ },
		"empty range":       func(b *body) { b.nodes[0].Len = 0 },
		"range too far":     func(b *body) { b.nodes[0].Off = maxRange },
		"role zero":         func(b *body) { b.roster.Members[0].Role = 0 },
		"role four":         func(b *body) { b.roster.Members[0].Role = 4 },
		"no owner":          func(b *body) { b.roster.Members[0].Role = Writer },
		"members unsorted":  func(b *body) { slices.Reverse(b.roster.Members) },
		"past unsorted":     func(b *body) { slices.Reverse(b.roster.Past) },
		"state too large":   func(b *body) { b.root = make([]byte, MaxState+1) },
		"too many voids":    func(b *body) { b.voids = make([]Void, MaxVoids+1) },
		"genesis elsewhere": func(b *body) { b.kind, b.roster = Ordinary, nil },
	} {
		b := full()
		change(b)
		if _, err := parseBody(b.encode()); !isBad(err) {
			t.Errorf("%s: accepted", name)
		}
	}
	reserved := slices.Clone(raw)
	reserved[len(reserved)-1] = 1
	if _, err := parseBody(reserved); err == nil {
		t.Error("a reserved list that is not empty")
	}
}

func seeds(f *testing.F, names ...string) {
	for _, name := range names {
		raw, err := os.ReadFile(filepath.Join("testdata", name+".hex"))
		must(f, err)
		b, err := hex.DecodeString(string(bytes.ReplaceAll(raw, []byte("\n"), nil)))
		must(f, err)
		f.Add(b)
	}
}

func FuzzBody(f *testing.F) {
	seeds(f, "body")
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := parseBody(raw)
		if err == nil && !bytes.Equal(b.encode(), raw) {
			t.Fatal("not canonical")
		}
		if err != nil && !isBad(err) {
			t.Fatal(err)
		}
	})
}

func FuzzObject(f *testing.F) {
	seeds(f, "genesis", "ordinary")
	f.Fuzz(func(t *testing.T, raw []byte) {
		var vault seal.VaultID
		if len(raw) >= headerLen {
			copy(vault[:], raw[len(magic)+2:])
		}
		o, err := parseObject(raw, vault, 0)
		if err != nil {
			if !doubtful(err) {
				t.Fatal(err)
			}
			return
		}
		w := writer(o.header.encode())
		w.field(o.clear)
		w.bytes(o.sealed)
		if !bytes.Equal(w, raw) {
			t.Fatal("not canonical")
		}
		if c, err := parseClear(o.clear); err == nil && !bytes.Equal(c.encode(), o.clear) {
			t.Fatal("clear part not canonical")
		}
	})
}

func FuzzTrust(f *testing.F) {
	seeds(f, "trust")
	f.Fuzz(func(t *testing.T, raw []byte) {
		if s, ok := parseTrust(raw); ok && !bytes.Equal(s.encode(), raw) {
			t.Fatal("not canonical")
		}
	})
}
