package tree

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kist/crypto/seal"
)

var update = flag.Bool("update", false, "write the golden files")

var (
	herePack  = [32]byte{0x11}
	otherPack = [32]byte{0x22}
)

func pointerTo(kind uint8, pack [32]byte) Pointer {
	p := Pointer{Kind: kind, PlainLen: 1000, SealedLen: 1057, Offset: 4096, Pack: pack}
	for i := range p.Key {
		p.Fingerprint[i], p.Key[i] = byte(i), byte(200-i)
	}
	return p
}

func encodePage[V any, C Codec[V]](t testing.TB, m Map[V, C]) []byte {
	t.Helper()
	w := writer{here: herePack}
	b := m.root.page.Load().append(nil, "", &w)
	if w.err != nil {
		t.Fatal(w.err)
	}
	return b
}

func decode[V any, C Codec[V]](b []byte) (Map[V, C], error) {
	p, err := parsePage[V, C](b, herePack, atRoot)
	if err != nil {
		return Map[V, C]{}, err
	}
	return Map[V, C]{newRef(p)}, nil
}

// sampleDir has one entry of each form.
func sampleDir(t testing.TB) Dir {
	e, d := NewEdit(), Dir{}
	times := func(in *Inode) *Inode {
		in.VerDev, in.VerOp, in.Uid, in.Gid = 5, 77, 1000, 100
		in.Atime, in.Mtime, in.Ctime = Time{1, 2}, Time{-3, 999999999}, Time{1 << 40, 0}
		return in
	}
	empty := times(file(2))
	hole := times(file(3))
	hole.Size = 1 << 40
	inline := times(file(4))
	inline.Inline, inline.Size = []byte("hello"), 5
	inline.Xattrs = []Xattr{{"user.a", []byte("1")}, {"user.b", nil}}
	embedded := times(file(5))
	embedded.Size = 5000
	mustSet(t, &embedded.Extents, e, Key(0), Extent{Len: 1000, Blob: StoredBlob(pointerTo(KindChunk, herePack))})
	mustSet(t, &embedded.Extents, e, Key(3000), Extent{Len: 10, At: 990, Blob: StoredBlob(pointerTo(KindChunk, otherPack))})
	paged := times(file(6))
	paged.Size = 1 << 30
	paged.Extents = Extents{storedRef[Extent, ExtentCodec](pointerTo(KindExtents, herePack))}
	sub := times(dir(7))
	sub.Dir = Dir{storedRef[Entry, DirCodec](pointerTo(KindDir, otherPack))}
	link := times(file(8))
	link.Type, link.Target, link.Size, link.Mode = TypeSymlink, "../there", 8, 0o777
	dev := times(file(9))
	dev.Type, dev.Rdev = TypeChar, 0x103
	for name, in := range map[string]*Inode{
		"a": empty, "b": hole, "c": inline, "d": embedded, "e": paged, "f": sub, "g": link, "h": dev,
		"i": times(dir(10)),
	} {
		mustSet(t, &d, e, name, Entry{Inode: in})
	}
	mustSet(t, &d, e, "j", Entry{Linked: true, Ino: 11, Type: TypeFifo})
	return d
}

func sampleExtents(t testing.TB) Extents {
	var x Extents
	e := NewEdit()
	for i := range uint64(5) {
		mustSet(t, &x, e, Key(i*1000), Extent{Len: 1000 - i, At: uint32(i), Blob: StoredBlob(pointerTo(KindChunk, herePack))})
	}
	return x
}

func sampleTable(t testing.TB) Table {
	var m Table
	e := NewEdit()
	for i := range uint64(3) {
		in := file(i + 20)
		in.Nlink = uint32(i + 1)
		mustSet(t, &m, e, Key(in.Ino), in)
	}
	return m
}

func sampleInterior(t testing.TB) []byte {
	p := &page[Entry, DirCodec]{level: 1, size: headerSize}
	p.insertRef(0, "a", storedRef[Entry, DirCodec](pointerTo(KindDir, herePack)))
	p.insertRef(1, "middle", storedRef[Entry, DirCodec](pointerTo(KindDir, otherPack)))
	w := writer{here: herePack}
	return p.append(nil, "", &w)
}

func sampleState(t testing.TB) State {
	st := emptyState()
	st.Root.Dir = Dir{storedRef[Entry, DirCodec](pointerTo(KindDir, herePack))}
	st.Table = Table{storedRef[*Inode, TableCodec](pointerTo(KindTable, herePack))}
	return st
}

func samples(t testing.TB) map[string][]byte {
	state, err := AppendState(nil, sampleState(t))
	if err != nil {
		t.Fatal(err)
	}
	empty, err := AppendState(nil, emptyState())
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{
		"dir":         encodePage(t, sampleDir(t)),
		"extents":     encodePage(t, sampleExtents(t)),
		"table":       encodePage(t, sampleTable(t)),
		"interior":    sampleInterior(t),
		"state":       state,
		"state-empty": empty,
	}
}

// redo decodes b as what name says and encodes it again.
func redo(name string, b []byte) ([]byte, error) {
	w := writer{here: herePack}
	switch name {
	case "extents":
		m, err := decode[Extent, ExtentCodec](b)
		if err != nil {
			return nil, err
		}
		return m.root.page.Load().append(nil, "", &w), w.err
	case "table":
		m, err := decode[*Inode, TableCodec](b)
		if err != nil {
			return nil, err
		}
		return m.root.page.Load().append(nil, "", &w), w.err
	case "state", "state-empty":
		st, err := ParseState(b)
		if err != nil {
			return nil, err
		}
		return AppendState(nil, st)
	}
	m, err := decode[Entry, DirCodec](b)
	if err != nil {
		return nil, err
	}
	return m.root.page.Load().append(nil, "", &w), w.err
}

func TestGolden(t *testing.T) {
	seen := 0
	for name, b := range samples(t) {
		file := filepath.Join("testdata", name+".hex")
		if *update {
			if err := os.WriteFile(file, []byte(hex.EncodeToString(b)+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		want, err := hex.DecodeString(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b, want) {
			t.Errorf("%s is encoded in another way than it was", name)
		}
		if again, err := redo(name, want); err != nil || !bytes.Equal(again, want) {
			t.Errorf("%s does not come back: %v", name, err)
		}
		seen++
	}
	if files, err := filepath.Glob("testdata/*.hex"); err != nil || len(files) != seen {
		t.Errorf("%d golden files for %d samples", len(files), seen)
	}
}

func TestWorkedTotals(t *testing.T) {
	in := file(2)
	in.Size = 1000
	if n := in.size(); n != 88 {
		t.Errorf("an empty file takes %d bytes", n)
	}
	e := NewEdit()
	mustSet(t, &in.Extents, e, Key(0), Extent{Len: 1000, Blob: NewBlob(1000, nil)})
	if n := in.size(); n != 218 {
		t.Errorf("a file of one chunk takes %d bytes", n)
	}
	d := dir(3)
	mustSet(t, &d.Dir, e, "12345678", Entry{Inode: in})
	if n := d.size(); n != 198 {
		t.Errorf("a directory takes %d bytes", n)
	}
	if n := d.Dir.root.page.Load().size; n != 4+228 {
		t.Errorf("a page of one entry has %d bytes", n)
	}
	if n := len(samples(t)["state-empty"]); n != 90 {
		t.Errorf("an empty vault takes %d bytes", n)
	}
	if n := len(samples(t)["state"]); n != 310 {
		t.Errorf("a vault takes %d bytes", n)
	}
	if n := len(AppendPointer(nil, Pointer{})); n != PointerSize {
		t.Errorf("a pointer takes %d bytes", n)
	}
}

// Whatever a decoder accepts of an altered sample, it writes again as it was; and
// no truncation or extension is accepted.
func TestDecodersAreCanonical(t *testing.T) {
	for name, b := range samples(t) {
		for i := range b {
			for _, x := range []byte{1, 0x80, 0xff} {
				b[i] ^= x
				if again, err := redo(name, b); err == nil && !bytes.Equal(again, b) {
					t.Errorf("%s: byte %d ^ %#x is accepted and comes back as something else", name, i, x)
				} else if err != nil && !errors.Is(err, ErrMalformed) {
					t.Errorf("%s: %v", name, err)
				}
				b[i] ^= x
			}
			if _, err := redo(name, b[:i]); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s: %d of %d bytes: %v", name, i, len(b), err)
			}
		}
		if _, err := redo(name, append(slices.Clone(b), 0)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s with a byte too many: %v", name, err)
		}
	}
}

func FuzzDecoders(f *testing.F) {
	kinds := []string{"dir", "extents", "table", "state"}
	for name, b := range samples(f) {
		for i, kind := range kinds {
			if strings.HasPrefix(name, kind) || name == "interior" {
				f.Add(uint8(i), b)
			}
		}
	}
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) {
		again, err := redo(kinds[int(kind)%len(kinds)], b)
		if err == nil && !bytes.Equal(again, b) {
			t.Fatalf("%x comes back as %x", b, again)
		}
	})
}

// rawDir writes a directory page with the given names, whatever they are.
func rawDir(names ...string) []byte {
	p := &page[Entry, DirCodec]{size: headerSize}
	for _, name := range names {
		v := Entry{Linked: true, Ino: 9, Type: TypeFile}
		p.keys, p.vals = append(p.keys, name), append(p.vals, v)
		p.size += DirCodec{}.keySize(name) + DirCodec{}.valueSize(v)
	}
	return p.append(nil, "", &writer{})
}

func TestNames(t *testing.T) {
	if _, err := decode[Entry, DirCodec](rawDir("a", "b", "..c", strings.Repeat("n", 255))); err == nil {
		t.Error("names out of order are accepted")
	}
	if _, err := decode[Entry, DirCodec](rawDir("...", "..c", ".a", "\xff\xfe")); err != nil {
		t.Error("good names:", err)
	}
	for _, bad := range []string{"", ".", "..", "a/b", "/", "a\x00", "\x00"} {
		if _, err := decode[Entry, DirCodec](rawDir(bad, "zz")); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", bad, err)
		}
		if err := new(Dir).Set(NewEdit(), bad, Entry{Linked: true, Ino: 9, Type: TypeFile}); !errors.Is(err, ErrInvalid) {
			t.Errorf("setting %q: %v", bad, err)
		}
		if CheckName(bad) == nil {
			t.Errorf("CheckName(%q)", bad)
		}
	}
	if CheckName(strings.Repeat("n", 255)) != nil || CheckName(strings.Repeat("n", 256)) == nil {
		t.Error("names of 255 and 256 bytes")
	}
	for _, names := range [][]string{{"a", "a"}, {"b", "a"}, {"a", "b", "ab"}} {
		if _, err := decode[Entry, DirCodec](rawDir(names...)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", names, err)
		}
	}
}

func TestRecordsThatCannotBe(t *testing.T) {
	e := NewEdit()
	extents := func(off, n uint64) (x Extents) {
		mustSet(t, &x, e, Key(off), Extent{Len: n, Blob: NewBlob(MaxChunk, nil)})
		return x
	}
	for name, change := range map[string]func(in *Inode){
		"number 0":           func(in *Inode) { in.Ino = 0 },
		"number":             func(in *Inode) { in.Ino = MaxIno + 1 },
		"device":             func(in *Inode) { in.VerDev = MaxDevice + 1 },
		"type 0":             func(in *Inode) { in.Type = 0 },
		"link to a vault":    func(in *Inode) { in.Type = 8 },
		"mode":               func(in *Inode) { in.Mode = 0o10000 },
		"links":              func(in *Inode) { in.Nlink = 0 },
		"links outside":      func(in *Inode) { in.Nlink = 2 },
		"size":               func(in *Inode) { in.Size = 1 << 63 },
		"nanoseconds":        func(in *Inode) { in.Mtime.Nsec = 1e9 },
		"device of a file":   func(in *Inode) { in.Rdev = 1 },
		"target of a file":   func(in *Inode) { in.Target = "x" },
		"no target":          func(in *Inode) { in.Type = TypeSymlink },
		"target and size":    func(in *Inode) { in.Type, in.Target, in.Size = TypeSymlink, "x", 2 },
		"target too long":    func(in *Inode) { in.Type, in.Target, in.Size = TypeSymlink, strings.Repeat("x", 4096), 4096 },
		"NUL in target":      func(in *Inode) { in.Type, in.Target, in.Size = TypeSymlink, "a\x00", 2 },
		"size of a dir":      func(in *Inode) { in.Type, in.Size = TypeDir, 1 },
		"content of a fifo":  func(in *Inode) { in.Type, in.Inline = TypeFifo, []byte{1} },
		"inline and size":    func(in *Inode) { in.Inline, in.Size = []byte{1}, 2 },
		"inline too long":    func(in *Inode) { in.Inline, in.Size = make([]byte, 513), 513 },
		"inline and extents": func(in *Inode) { in.Inline, in.Size, in.Extents = []byte{1}, 1, extents(0, 1) },
		"extent beyond size": func(in *Inode) { in.Size, in.Extents = 10, extents(0, 11) },
		"extents of a dir":   func(in *Inode) { in.Type, in.Extents = TypeDir, extents(0, 1) },
		"entries of a file":  func(in *Inode) { in.Dir = Dir{storedRef[Entry, DirCodec](pointerTo(KindDir, herePack))} },
		"xattrs twice":       func(in *Inode) { in.Xattrs = []Xattr{{"a", nil}, {"a", nil}} },
		"xattrs unsorted":    func(in *Inode) { in.Xattrs = []Xattr{{"b", nil}, {"a", nil}} },
		"xattr without name": func(in *Inode) { in.Xattrs = []Xattr{{"", nil}} },
		"xattr with NUL":     func(in *Inode) { in.Xattrs = []Xattr{{"a\x00", nil}} },
		"xattrs too large":   func(in *Inode) { in.Xattrs = []Xattr{{"a", make([]byte, MaxXattrs-3)}} },
	} {
		in := file(5)
		change(in)
		var d Dir
		if err := d.Set(e, "x", Entry{Inode: in}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
		if !d.Empty() {
			t.Errorf("%s: set all the same", name)
		}
		// The same by a writer that does not check, decoded here.
		w := writer{}
		p := &page[Entry, DirCodec]{size: headerSize, keys: []string{"x"}, vals: []Entry{{Inode: in}}}
		raw := p.append(nil, "", &w)
		if _, err := decode[Entry, DirCodec](raw); !errors.Is(err, ErrMalformed) && name != "inline and extents" { // has no encoding
			t.Errorf("%s, decoded: %v", name, err)
		}
	}
}

func TestExtentsThatCannotBe(t *testing.T) {
	blob := NewBlob(1000, nil)
	var x Extents
	for name, bad := range map[string]Extent{
		"no length":   {Blob: blob},
		"no blob":     {Len: 1},
		"beyond blob": {Len: 1000, At: 1, Blob: blob},
		"too long":    {Len: MaxChunk + 1, Blob: NewBlob(MaxChunk+1, nil)},
	} {
		if err := x.Set(NewEdit(), Key(0), bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := x.Set(NewEdit(), Key(MaxFileSize), Extent{Len: 1, Blob: blob}); !errors.Is(err, ErrInvalid) {
		t.Errorf("beyond the largest file: %v", err)
	}
	raw := encodePage(t, sampleExtents(t))
	raw[headerSize+extentSize+7]-- // the second begins inside the first
	if _, err := decode[Extent, ExtentCodec](raw); !errors.Is(err, ErrMalformed) {
		t.Errorf("overlapping: %v", err)
	}
	var few Extents
	mustSet(t, &few, NewEdit(), Key(0), Extent{Len: 1000, Blob: StoredBlob(pointerTo(KindChunk, herePack))})
	if _, err := decode[Extent, ExtentCodec](encodePage(t, few)); !errors.Is(err, ErrMalformed) {
		t.Errorf("a page that belongs into its record: %v", err)
	}
}

func TestPlacesOfPages(t *testing.T) {
	leaf := rawDir("b", "c")
	for name, at := range map[string]place{
		"level":     {level: 1, first: "b"},
		"first key": {first: "a"},
		"bound":     {first: "b", bound: "c"},
	} {
		if _, err := parsePage[Entry, DirCodec](leaf, herePack, at); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := parsePage[Entry, DirCodec](leaf, herePack, place{first: "b", bound: "d"}); err != nil {
		t.Error(err)
	}
	top := sampleInterior(t)
	top[1] = maxLevel + 1
	if _, err := decode[Entry, DirCodec](top); !errors.Is(err, ErrMalformed) {
		t.Errorf("a level too high: %v", err)
	}
	if _, err := decode[Entry, DirCodec]([]byte{pageVersion, 0, 0, 0}); !errors.Is(err, ErrMalformed) {
		t.Errorf("an empty page: %v", err)
	}
	if _, err := decode[Entry, DirCodec]([]byte{pageVersion, 0, 0xff, 0xff}); !errors.Is(err, ErrMalformed) {
		t.Errorf("a page that only says it is large: %v", err)
	}
}

func TestPointers(t *testing.T) {
	good := pointerTo(KindDir, otherPack)
	raw := AppendPointer(nil, good)
	if p, err := ParsePointer(raw, KindDir, herePack); err != nil || p != good {
		t.Error(p, err)
	}
	if _, err := ParsePointer(raw, KindTable, herePack); !errors.Is(err, ErrMalformed) {
		t.Error("another kind:", err)
	}
	if _, err := ParsePointer(raw, KindDir, otherPack); !errors.Is(err, ErrMalformed) {
		t.Error("here, spelled out:", err)
	}
	here := good
	here.Pack = [32]byte{}
	raw = AppendPointer(nil, here)
	if p, err := ParsePointer(raw, KindDir, herePack); err != nil || p.Pack != herePack {
		t.Error("here:", err)
	}
	if _, err := ParsePointer(raw, KindDir, [32]byte{}); !errors.Is(err, ErrMalformed) {
		t.Error("here in a commit:", err)
	}
	for name, change := range map[string]func(p *Pointer){
		"codec":        func(p *Pointer) { p.Codec = 2 },
		"no plaintext": func(p *Pointer) { p.PlainLen = 0 },
		"large page":   func(p *Pointer) { p.PlainLen = MaxPage + 1 },
		"short seal":   func(p *Pointer) { p.SealedLen = seal.MinBlob - 1 },
		"long seal":    func(p *Pointer) { p.SealedLen = seal.MaxBlob + 1 },
		"offset":       func(p *Pointer) { p.Offset = MaxPack - p.SealedLen + 1 },
		"wrapping":     func(p *Pointer) { p.Offset = 1<<32 - 1 },
	} {
		p := good
		change(&p)
		if _, err := ParsePointer(AppendPointer(nil, p), KindDir, herePack); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
