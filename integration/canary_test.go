//go:build linux

package integration

import (
	"bytes"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/klauspost/compress/zstd"
)

// The canaries: what must never be seen outside the mount.
const (
	canaryDir     = "canary-directory-wren"
	canaryName    = "canary-name-of-a-file-goldcrest"
	canaryLong    = "canary-long-name-treecreeper-in-a-page-of-its-own"
	canaryContent = "canary content: the siskin sings at dawn in the alder by the mill\n"
	canaryTarget  = "canary/target/of/a/link/firecrest"
	canaryXattr   = "user.canary-attribute-nuthatch"
	canaryValue   = "canary value of an attribute: hawfinch"
)

// canaryBig is content of several chunks that compresses well.
func canaryBig() []byte { return bytes.Repeat([]byte(canaryContent), 45000) }

// needle is one form of one canary.
type needle struct {
	what string
	text []byte
}

// needles are all forms of everything that must not be seen.
func needles() []needle {
	var list []needle
	for _, s := range []string{canaryDir, canaryName, canaryLong, strings.TrimSpace(canaryContent), canaryTarget, strings.TrimPrefix(canaryXattr, "user."), canaryValue, strings.TrimSpace(passphrase)} {
		list = append(list, forms(fmt.Sprintf("%q", s), []byte(s))...)
	}
	for what, content := range map[string][]byte{
		"the small file": []byte(canaryContent), "the big file": canaryBig(), "its first chunk": canaryBig()[:1<<20],
		"its second chunk": canaryBig()[1<<20 : 2<<20], "the inline file": []byte(canaryContent + canaryContent), "a name": []byte(canaryName), "a folder's name": []byte(canaryDir),
	} {
		list = append(list, digests(what, content)...)
	}
	return list
}

func forms(what string, raw []byte) []needle {
	list := []needle{
		{what, raw}, {what + " in hex", []byte(hex.EncodeToString(raw))}, {what + " in upper hex", []byte(strings.ToUpper(hex.EncodeToString(raw)))},
		{what + " backwards", reversed(raw)},
	}
	wide := utf16.Encode([]rune(string(raw)))
	le, be := make([]byte, 0, 2*len(wide)), make([]byte, 0, 2*len(wide))
	for _, u := range wide {
		le, be = binary.LittleEndian.AppendUint16(le, u), binary.BigEndian.AppendUint16(be, u)
	}
	list = append(list, needle{what + " in UTF-16", le}, needle{what + " in UTF-16, big endian", be})
	for shift := range 3 { // as it looks in base64 at each alignment, without its ragged ends
		for name, enc := range map[string]*base64.Encoding{"base64": base64.RawStdEncoding, "base64url": base64.RawURLEncoding} {
			text := enc.EncodeToString(append(make([]byte, shift), raw...))
			list = append(list, needle{fmt.Sprintf("%s in %s, shifted by %d", what, name, shift), []byte(text[4 : len(text)-3])})
		}
	}
	return list
}

func reversed(raw []byte) []byte {
	out := make([]byte, len(raw))
	for i, b := range raw {
		out[len(raw)-1-i] = b
	}
	return out
}

func digests(what string, content []byte) []needle {
	m, s1, s2 := md5.Sum(content), sha1.Sum(content), sha256.Sum256(content)
	var list []needle
	for name, sum := range map[string][]byte{"MD5": m[:], "SHA-1": s1[:], "SHA-256": s2[:]} {
		what := name + " of " + what
		list = append(list, needle{what, sum}, needle{what + " in hex", []byte(hex.EncodeToString(sum))},
			needle{what + " in upper hex", []byte(strings.ToUpper(hex.EncodeToString(sum)))},
			needle{what + " in base64", []byte(base64.RawStdEncoding.EncodeToString(sum))},
			needle{what + " in base64url", []byte(base64.RawURLEncoding.EncodeToString(sum))})
	}
	// Four octets alone would turn up by chance, so CRC32C counts as text only.
	crc := binary.BigEndian.AppendUint32(nil, crc32.Checksum(content, crc32.MakeTable(crc32.Castagnoli)))
	return append(list, needle{"CRC32C of " + what + " in hex", []byte(hex.EncodeToString(crc))},
		needle{"CRC32C of " + what + " in base64", []byte(base64.StdEncoding.EncodeToString(crc))})
}

// findings says which needles lie in a text, also inside what zstd can open.
func findings(text []byte, list []needle) []string {
	var found []string
	for _, n := range list {
		if bytes.Contains(text, n.text) {
			found = append(found, n.what)
		}
	}
	magic := []byte{0x28, 0xb5, 0x2f, 0xfd}
	for at := bytes.Index(text, magic); at >= 0; {
		if plain := unzstd(text[at:]); len(plain) > 0 {
			for _, n := range list {
				if bytes.Contains(plain, n.text) {
					found = append(found, n.what+" inside zstd")
				}
			}
		}
		next := bytes.Index(text[at+1:], magic)
		if next < 0 {
			break
		}
		at += 1 + next
	}
	return found
}

// unzstd opens as much of a frame as can be opened.
func unzstd(raw []byte) []byte {
	d, err := zstd.NewReader(bytes.NewReader(raw), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20))
	if err != nil {
		return nil
	}
	defer d.Close()
	plain := make([]byte, 1<<20)
	n := 0
	for n < len(plain) {
		k, err := d.Read(plain[n:])
		if n += k; err != nil {
			break
		}
	}
	return plain[:n]
}

// scan looks through the names and the content of every file below a folder.
func scan(root string, list []needle) (files int, found []string, err error) {
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		for _, what := range findings([]byte(rel), list) {
			found = append(found, fmt.Sprintf("%s: its name has %s", rel, what))
		}
		if !d.Type().IsRegular() {
			return nil
		}
		raw, err := os.ReadFile(path)
		files++
		for _, what := range findings(raw, list) {
			found = append(found, fmt.Sprintf("%s: %s", rel, what))
		}
		return err
	})
	return files, found, err
}

// TestScanFinds plants every needle and lets the scanner find it, in a file's
// content, in its name, and inside zstd.
func TestScanFinds(t *testing.T) {
	t.Parallel()
	list := needles()
	if len(list) < 150 {
		t.Fatalf("only %d needles", len(list))
	}
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range list {
		if len(n.text) < 8 {
			t.Fatalf("%s: only %d octets: it would turn up by chance", n.what, len(n.text))
		}
		text := bytes.Join([][]byte{noise(5000, uint64(i)), n.text, noise(300, uint64(i))}, nil)
		if !slices.Contains(findings(text, list), n.what) {
			t.Errorf("%s is not found", n.what)
		}
		pressed := append(noise(100, 7), enc.EncodeAll(bytes.Join([][]byte{make([]byte, 3000), n.text, make([]byte, 3000)}, nil), nil)...)
		if !slices.Contains(findings(pressed, list), n.what+" inside zstd") {
			t.Errorf("%s is not found inside zstd", n.what)
		}
	}
	if found := findings(noise(1<<20, 99), list); len(found) > 0 {
		t.Errorf("found in noise: %v", found)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, canaryName), []byte("harmless"), 0o600); err != nil {
		t.Fatal(err)
	}
	if files, found, err := scan(dir, list); err != nil || files != 1 || len(found) != 1 {
		t.Errorf("a name is not found: %d files, %v, %v", files, found, err)
	}
}

// TestCanaries puts canaries into a drive, makes everything happen that leaves
// traces, and looks through all that the program keeps anywhere.
func TestCanaries(t *testing.T) {
	eachStore(t, func(t *testing.T, w *World) {
		list := needles()
		a := w.first("a")
		look := func(when string) {
			t.Helper()
			roots := map[string]string{"the store": w.objects, "a's folder": a.home, "a's TMPDIR": a.tmp}
			if when == "in the journal" {
				delete(roots, "the store") // it is away
			}
			for what, root := range roots {
				files, found, err := scan(root, list)
				w.ok(err)
				for _, f := range found {
					t.Errorf("%s, in %s: %s", when, what, f)
				}
				if files < 2 && what != "a's TMPDIR" {
					t.Errorf("%s, only %d files in %s", when, files, what)
				}
			}
		}
		a.mount()
		back := w.away()
		a.canaries()
		a.sh("sync " + canaryDir + "/" + canaryName)
		look("in the journal")
		back()
		a.sync()
		look("in the store")
		a.sh("cat " + canaryDir + "/* > /dev/null 2>&1 || true; mv " + canaryDir + " " + canaryDir + "2; rm " + canaryDir + "2/" + canaryLong + "*; sync " + canaryDir + "2; cat nothing-" + canaryName + " 2>/dev/null || true")
		a.crash()
		a.mount()
		a.sh("find . -type f | xargs cat > /dev/null")
		a.remount()
		a.sh("find . -type f | xargs cat > /dev/null; getfattr -h -d -R . > /dev/null")
		look("read from the cache")
		w.damagedCanaries(a)
		look("after I/O errors")
		if a.meter != nil {
			for _, r := range a.meter.Requests() {
				if found := findings([]byte(fmt.Sprint(r.Path, r.Range, r.Header)), list); len(found) > 0 {
					t.Errorf("in a request's head: %s %s: %v", r.Verb, r.Path, found)
				}
			}
		}
	}, metered)
}

func (m *Machine) canaries() {
	m.w.t.Helper()
	content := filepath.Join(m.dir, "content")
	m.w.ok(os.WriteFile(content, canaryBig(), 0o600))
	m.sh(fmt.Sprintf(`mkdir '%[1]s'; printf %%s '%[3]s' > '%[1]s/%[2]s'; printf %%s '%[3]s%[3]s' > '%[1]s/inline'; cp '%[4]s' '%[1]s/big'
		ln -s '%[5]s' '%[1]s/link'; setfattr -n '%[6]s' -v '%[7]s' '%[1]s/%[2]s'
		for i in $(seq 300); do echo "$i" > '%[1]s/%[8]s'$i; done`,
		canaryDir, canaryName, canaryContent, content, canaryTarget, canaryXattr, canaryValue, canaryLong))
	m.w.ok(os.Remove(content))
}

// damagedCanaries makes reading fail, so that errors are logged, and repairs
// the store again.
func (w *World) damagedCanaries(a *Machine) {
	w.t.Helper()
	a.umount()
	w.save("sound")
	for name, raw := range w.list() {
		if strings.Contains(name, "/packs/") {
			for at := 20; at < len(raw); at += 997 {
				raw[at] ^= 4
			}
			w.ok(os.WriteFile(w.path(name), raw, 0o644))
		}
	}
	caches, err := filepath.Glob(a.home + "/*/cache")
	w.ok(err)
	for _, dir := range caches {
		w.ok(os.RemoveAll(dir))
	}
	a.mount()
	r := a.try(stepLimit, "cat "+canaryDir+"2/"+canaryName)
	if r.code == 0 || !strings.Contains(r.err, "Input/output error") {
		w.t.Errorf("all packs are damaged: %v", r)
	}
	a.umount()
	w.restore("sound")
	a.mount()
}
