package keys

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

// The test binary plays the child process.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && strings.HasPrefix(os.Args[1], "child-") {
		os.Exit(child(os.Args[1]))
	}
	os.Exit(m.Run())
}

func child(verb string) int {
	switch verb {
	case "child-stretch":
		if len(os.Environ()) != 0 {
			return 3
		}
		if ServeStretch(os.Stdin, os.Stdout) != nil {
			return 1
		}
	case "child-talks":
		io.Copy(io.Discard, os.Stdin)
		os.Stdout.Write(make([]byte, 1<<20))
	case "child-short":
		io.Copy(io.Discard, os.Stdin)
		os.Stdout.Write(make([]byte, 31))
	case "child-deaf":
	}
	return 0
}

func childOf(t *testing.T, verb string) Stretcher {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return ChildStretch([]string{self, verb})
}

// The value pins what the format states about the input of Argon2id; that the
// library computes Argon2id is tested there.
func TestStretch(t *testing.T) {
	salt := []byte("0123456789abcdef")
	x := must(Stretch(cheap, salt, []byte("anna"), []byte("secret")))(t)
	const want = "fb6f71311aa341ffc63126c6c0e00fe304e58c9a319223cf378a6679ccdc2a1c"
	if got := hex.EncodeToString(x[:]); got != want {
		t.Errorf("x = %s", got)
	}
	y := must(childOf(t, "child-stretch")(cheap, salt, []byte("anna"), []byte("secret")))(t)
	if !y.Equal(x) {
		t.Error("the child computes something else")
	}
	for name, err := range map[string]error{
		"salt": stretchErr(salt[:15], "anna", "secret"),
		"user": stretchErr(salt, "", "secret"),
		"pass": stretchErr(salt, "anna", ""),
		"long": stretchErr(salt, "anna", strings.Repeat("x", MaxPassphrase+1)),
	} {
		if err != ErrInput {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func stretchErr(salt []byte, user, pass string) error {
	_, err := Stretch(cheap, salt, []byte(user), []byte(pass))
	return err
}

func TestKeyfileWithArgon2(t *testing.T) {
	m := NewMaster()
	s := NewSession(testStore, "anna", m)
	k := must(NewKeyfile(Stretch, cheap, testPass, s, m))(t)
	if got, err := k.OpenMain(childOf(t, "child-stretch"), testPass); err != nil || got.Identity != s.Identity {
		t.Error(err)
	}
}

func TestChildFails(t *testing.T) {
	salt := make([]byte, saltSize)
	for _, verb := range []string{"child-talks", "child-short", "child-deaf"} {
		if _, err := childOf(t, verb)(cheap, salt, []byte("anna"), []byte("secret")); err == nil || errors.Is(err, ErrPassphrase) {
			t.Errorf("%s: %v", verb, err)
		}
	}
	if _, err := childOf(t, "child-stretch")(cheap, salt, []byte(""), []byte("secret")); err == nil || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
	if _, err := ChildStretch([]string{"/nonexistent"})(cheap, salt, []byte("anna"), []byte("secret")); err == nil {
		t.Error("a child that does not exist answered")
	}
}

func TestServeStretchRefuses(t *testing.T) {
	salt := make([]byte, saltSize)
	good := appendRequest(nil, cheap, salt, []byte("anna"), []byte("secret"))
	low := appendRequest(nil, Params{T: 1, M: 8, P: 1}, salt, []byte("anna"), []byte("secret"))
	for name, request := range map[string][]byte{
		"empty":     nil,
		"magic":     append([]byte("KISTSTR2"), good[8:]...),
		"short":     good[:len(good)-1],
		"trailing":  append(bytes.Clone(good), 0),
		"huge":      make([]byte, 1<<20),
		"cost":      low,
		"long pass": appendRequest(nil, cheap, salt, []byte("anna"), make([]byte, MaxPassphrase+1)),
	} {
		var out bytes.Buffer
		if err := ServeStretch(bytes.NewReader(request), &out); err == nil || out.Len() != 0 {
			t.Errorf("%s: %v, %d bytes", name, err, out.Len())
		}
	}
	longest := appendRequest(nil, cheap, salt, make([]byte, MaxName), make([]byte, MaxPassphrase))
	if _, _, _, _, ok := parseRequest(longest); !ok || len(longest) != maxRequest {
		t.Error("the longest request does not fit")
	}
}

func FuzzParseRequest(f *testing.F) {
	f.Add(appendRequest(nil, cheap, make([]byte, saltSize), []byte("anna"), []byte("secret")))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if p, salt, user, pass, ok := parseRequest(raw); ok && !bytes.Equal(appendRequest(nil, p, salt, user, pass), raw) {
			t.Fatal("a second encoding was accepted")
		}
	})
}

func TestGeneratePassphrase(t *testing.T) {
	seen := map[string]bool{}
	letters := map[rune]int{}
	for range 2000 {
		p := GeneratePassphrase()
		if len(p) != 7*5+6 || strings.Count(p, "-") != 6 || seen[p] {
			t.Fatalf("%q", p)
		}
		seen[p] = true
		for _, r := range p {
			letters[r]++
		}
	}
	if len(letters) != 16+4+1 {
		t.Errorf("%d letters are used", len(letters))
	}
	for r, n := range letters {
		mean := 2000 * 7 * 3 / 16
		if strings.ContainsRune(vowels, r) {
			mean = 2000 * 7 * 2 / 4
		}
		if r != '-' && (n < mean*8/10 || n > mean*12/10) {
			t.Errorf("%c occurs %d times, expected about %d", r, n, mean)
		}
	}
}

func TestStoreHeader(t *testing.T) {
	h := StoreHeader{StoreFormat, StoreID{0xab, 1}}
	raw := h.Encode()
	if want := `{"format":1,"store":"ab01` + strings.Repeat("0", 60) + "\"}\n"; string(raw) != want {
		t.Errorf("%s", raw)
	}
	if got, err := ParseStoreHeader(raw); err != nil || got != h {
		t.Error(err)
	}
	text := string(raw)
	for name, bad := range map[string]string{
		"empty":    "",
		"cut":      text[:len(text)-1],
		"trailing": text + "\n",
		"space":    strings.Replace(text, ":", ": ", 1),
		"case":     strings.Replace(text, "ab", "AB", 1),
		"format":   strings.Replace(text, "1", "2", 1),
		"format 0": strings.Replace(text, "1", "01", 1),
		"short id": strings.Replace(text, "ab01", "ab", 1),
		"long id":  strings.Replace(text, "ab01", "ab0100", 1),
		"no hex":   strings.Replace(text, "ab01", "xy01", 1),
		"prefix":   text[:30],
		"field":    strings.Replace(text, "}", `,"x":1}`, 1),
		"huge":     text + strings.Repeat(" ", 1<<20),
	} {
		if _, err := ParseStoreHeader([]byte(bad)); !errors.Is(err, ErrHeader) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseStoreHeader(f *testing.F) {
	f.Add(StoreHeader{StoreFormat, StoreID{1}}.Encode())
	f.Fuzz(func(t *testing.T, raw []byte) {
		if h, err := ParseStoreHeader(raw); err == nil && !bytes.Equal(h.Encode(), raw) {
			t.Fatal("a second encoding was accepted")
		}
	})
}
