package fs

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"kist/fs/tree"
)

var opUpdate = flag.Bool("op.update", false, "write testdata/operations.txt anew: only with a new format of the journal")

const goldenOps = "testdata/operations.txt"

// sample is one encoded record of the journal and what docs/FORMAT.md says of its length.
type sample struct {
	name string
	size int
	meta []byte
}

func sampleFile() *tree.Inode {
	at := tree.Time{Sec: 1790000000, Nsec: 123456789}
	return &tree.Inode{Ino: 1<<32 | 7, Type: tree.TypeFile, Mode: 0o644, Uid: 1000, Gid: 100, Nlink: 1, Atime: at, Mtime: at, Ctime: at}
}

func sampleDir() *tree.Inode {
	n := sampleFile()
	n.Ino, n.Type, n.Mode = 1<<32|3, tree.TypeDir, 0o2755
	n.Xattrs = []tree.Xattr{{Name: "user.a", Value: []byte("1")}, {Name: "user.b"}}
	return n
}

// samples has every kind of record, as the engine makes them.
func samples() []sample {
	const file, dir, other = 1<<32 | 7, 1<<32 | 3, 2<<32 | 5
	link := sampleFile()
	link.Type, link.Mode, link.Target, link.Size = tree.TypeSymlink, 0o777, "a.txt", 5
	now := tree.Time{Sec: 1790000001, Nsec: 2}
	at, to, seen := place{dir, "a.txt"}, place{RootIno, "b"}, version{1, 41}
	chunk := chunkKey{Key: [32]byte{1}, Fingerprint: [32]byte{2}, Codec: 1, PlainLen: 1 << 20, SealedLen: 700_000}
	ops := []struct {
		name string
		size int
		op   op
	}{
		{"create", 214, op{Kind: opCreate, Ino: file, Time: now, To: at, Rec: encodeRec(sampleFile())}},
		{"create-symlink", 215, op{Kind: opCreate, Ino: file, Time: now, To: to, Rec: encodeRec(link)}},
		{"create-nameless", 209, op{Kind: opCreate, Ino: file, Time: now, Rec: encodeRec(sampleFile())}},
		{"link", 156, op{Kind: opLink, Ino: file, Seen: seen, Time: now, At: at, To: to}},
		{"unlink", 155, op{Kind: opUnlink, Ino: file, Seen: seen, Time: now, At: at}},
		{"rename", 156, op{Kind: opRename, Ino: file, Seen: seen, Time: now, At: at, To: to, ToIno: other, ToSeen: version{2, 9}}},
		{"exchange", 156, op{Kind: opExchange, Ino: file, Seen: seen, Time: now, At: at, To: to, ToIno: other, ToSeen: version{2, 9}}},
		{"attributes", 155, op{Kind: opAttr, Flags: flagKillPriv, Ino: file, Seen: seen, Time: now, At: at,
			Mask: SetMode | SetUid | SetGid | SetSize | SetAtime | SetMtime, Mode: 0o600, Uid: 1, Gid: 2, Size: 1 << 40,
			Atim: tree.Time{Sec: -315619200}, Mtim: tree.Time{Sec: 7258118400, Nsec: 999_999_999}}},
		{"set-xattr", 162, op{Kind: opSetXattr, Ino: file, Seen: seen, Time: now, At: at, Name: "user.a", Value: []byte("1")}},
		{"remove-xattr", 161, op{Kind: opDelXattr, Ino: file, Seen: seen, Time: now, At: at, Name: "user.a"}},
		{"write", 155, op{Kind: opWrite, Flags: flagKillPriv, Ino: file, Seen: seen, Time: now, At: at, Off: 4096, Len: 512}},
		{"append", 155, op{Kind: opWrite, Flags: flagAppend, Ino: file, Seen: seen, Time: now, At: at, Off: 4608, Len: 10}},
		{"write-chunk", 228, op{Kind: opWrite, Flags: flagChunk, Ino: file, Seen: seen, Time: now, At: at, Off: 1 << 20, Len: 1 << 20, Chunk: chunk}},
		{"punch", 155, op{Kind: opPunch, Ino: file, Seen: seen, Time: now, At: at, Off: 0, Len: 4096}},
	}
	var out []sample
	for _, s := range ops {
		out = append(out, sample{s.name, s.size, s.op.encode()})
	}
	d := &dirRecord{Ino: dir, At: place{RootIno, "d"}, Rec: encodeRec(sampleDir())}
	var part encoder
	part.u64(12)
	part.u32(3000)
	return append(out,
		sample{"directory", 113, d.encode()},
		sample{"base", 40, baseRecord{Seq: 12, Hash: [32]byte{3}}.encode()},
		sample{"commit-part", 12, part.b})
}

// The bytes of the format. A difference here is a new format: journals that were
// written before would not replay.
func TestGoldenOperations(t *testing.T) {
	var got strings.Builder
	for _, s := range samples() {
		if len(s.meta) != s.size {
			t.Errorf("%s has %d bytes, docs/FORMAT.md says %d", s.name, len(s.meta), s.size)
		}
		fmt.Fprintf(&got, "%s %x\n", s.name, s.meta)
	}
	if *opUpdate {
		if err := os.WriteFile(goldenOps, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(goldenOps)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("the format changed:\n%s", got.String())
	}
}

// What is on disk decodes to what was meant, and not only to something.
func TestGoldenOperationsDecode(t *testing.T) {
	for _, s := range samples() {
		switch s.name {
		case "directory":
			d, err := decodeDirRecord(s.meta)
			if err != nil || !bytes.Equal(d.encode(), s.meta) || d.At != (place{RootIno, "d"}) {
				t.Fatal(s.name, err)
			}
			n, err := decodeRec(d.Ino, d.Rec)
			if err != nil || n.Mode != 0o2755 || len(n.Xattrs) != 2 || n.Mtime != sampleFile().Mtime {
				t.Fatal(s.name, err)
			}
		case "base":
			if b, err := decodeBaseRecord(s.meta); err != nil || b.Seq != 12 || b.Hash != [32]byte{3} {
				t.Fatal(s.name, err)
			}
		case "commit-part":
		default:
			o, err := decodeOp(9, s.meta)
			if err != nil || o.N != 9 || o.Ino != 1<<32|7 || !bytes.Equal(o.encode(), s.meta) {
				t.Fatal(s.name, err)
			}
		}
	}
}

// Each way of being wrong that the decoder must refuse.
func TestOperationsRefused(t *testing.T) {
	good := map[string][]byte{}
	for _, s := range samples() {
		good[s.name] = s.meta
	}
	change := func(name string, at int, to ...byte) []byte {
		b := bytes.Clone(good[name])
		copy(b[at:], to)
		return b
	}
	for what, b := range map[string][]byte{
		"empty":                 {},
		"kind 0":                change("unlink", 0, 0),
		"kind beyond the last":  change("unlink", 0, byte(opKindMax)+1),
		"unknown flag":          change("unlink", 1, 8),
		"chunk key cut":         change("write", 1, flagChunk),
		"nanoseconds":           change("unlink", 10, 0x3b, 0x9a, 0xca, 0x00),
		"length beyond the end": change("unlink", 40, 0xff, 0xff, 0xff, 0xff),
		"a byte too few":        good["rename"][:len(good["rename"])-1],
		"a byte too many":       append(bytes.Clone(good["rename"]), 0),
	} {
		if _, err := decodeOp(1, b); !errors.Is(err, errOpDecode) {
			t.Errorf("%s: %v", what, err)
		}
	}
	d := good["directory"]
	for what, b := range map[string][]byte{"empty": {}, "cut": d[:len(d)-1], "long": append(bytes.Clone(d), 0)} {
		if _, err := decodeDirRecord(b); !errors.Is(err, errOpDecode) {
			t.Errorf("description of a directory, %s: %v", what, err)
		}
	}
	for _, n := range []int{0, 39, 41} {
		if _, err := decodeBaseRecord(make([]byte, n)); !errors.Is(err, errOpDecode) {
			t.Errorf("base of %d bytes: %v", n, err)
		}
	}
	for what, rec := range map[string]func(*tree.Inode){
		"type 0":                  func(n *tree.Inode) { n.Type = 0 },
		"link to a vault":         func(n *tree.Inode) { n.Type = 8 },
		"mode beyond 07777":       func(n *tree.Inode) { n.Mode = 0o10000 },
		"device number of a file": func(n *tree.Inode) { n.Rdev = 1 },
		"target of a file":        func(n *tree.Inode) { n.Target = "a" },
		"xattrs out of order":     func(n *tree.Inode) { n.Xattrs = []tree.Xattr{{Name: "b"}, {Name: "a"}} },
		"xattr twice":             func(n *tree.Inode) { n.Xattrs = []tree.Xattr{{Name: "a"}, {Name: "a"}} },
		"xattrs too large":        func(n *tree.Inode) { n.Xattrs = []tree.Xattr{{Name: "a", Value: make([]byte, tree.MaxXattrs)}} },
	} {
		n := sampleFile()
		rec(n)
		if _, err := decodeRec(n.Ino, encodeRec(n)); err == nil {
			t.Errorf("inode record: %s was taken", what)
		}
	}
}

func FuzzOp(f *testing.F) {
	for _, s := range samples() {
		f.Add(s.meta)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := decodeOp(1, b)
		if err != nil {
			return
		}
		if !bytes.Equal(o.encode(), b) {
			t.Fatal("not canonical")
		}
		checkRec(t, o.Ino, o.Rec)
	})
}

func FuzzDirRecord(f *testing.F) {
	for _, s := range samples() {
		f.Add(s.meta)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := decodeDirRecord(b)
		if err != nil {
			return
		}
		if !bytes.Equal(d.encode(), b) {
			t.Fatal("not canonical")
		}
		checkRec(t, d.Ino, d.Rec)
	})
}

func FuzzBaseRecord(f *testing.F) {
	f.Add(make([]byte, 40))
	f.Add(make([]byte, 48))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := decodeBaseRecord(b); err == nil && !bytes.Equal(r.encode(), b) {
			t.Fatal("not canonical")
		}
	})
}

func checkRec(t *testing.T, ino Ino, rec []byte) {
	if n, err := decodeRec(ino, rec); err == nil && !bytes.Equal(encodeRec(n), rec) {
		t.Fatal("an inode record is not canonical")
	}
}

// FuzzRec goes straight at the innermost decoder, which a mutation of a whole
// operation seldom reaches.
func FuzzRec(f *testing.F) {
	f.Add(encodeRec(sampleFile()))
	f.Add(encodeRec(sampleDir()))
	f.Fuzz(func(t *testing.T, b []byte) { checkRec(t, 7, b) })
}
