package fs

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"kist/backend"
	"kist/backend/mem"
	"kist/crypto/seal"
	"kist/fs/log"
	"kist/fs/pack"
	"kist/fs/tree"
)

// These tests play a store, a reader and a writer without scruples against an open
// vault. The ids in the comments are those of the threat model. What has to hold is the
// same everywhere: a call returns what was written, or an error; never other bytes.

// randomText is content that no codec shortens.
func randomText(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return string(b)
}

// view is what one open vault shows: a line for each path, with everything that can be
// read of it. What cannot be read begins with failed.
type view map[string]string

// failed begins the line of what cannot be read; no content here begins like that.
const failed = "\x00failed: "

// filler marks what a read has not touched.
const filler = 0xE7

// survey reads everything. truth, if given, is held against each buffer of a failed
// read: not even there may a byte stand that was not written.
func survey(v *Vault, truth view) view {
	out := view{}
	var walk func(path string, a Attr)
	walk = func(path string, a Attr) {
		out[path] = showInode(v, a)
		if a.Mode&syscall.S_IFMT == syscall.S_IFREG {
			out[path+":content"] = readAll(v, a, truth[path+":content"])
		}
		if a.Mode&syscall.S_IFMT != syscall.S_IFDIR {
			return
		}
		ents, err := v.ReadDir(context.Background(), a.Ino, "", 1<<20)
		if err != nil {
			out[path+"/"] = failed + err.Error()
			return
		}
		for _, e := range ents {
			c, err := v.Lookup(context.Background(), a.Ino, e.Name)
			if err != nil {
				out[path+"/"+e.Name] = failed + err.Error()
				continue
			}
			walk(path+"/"+e.Name, c)
			v.Forget(c.Ino, 1)
		}
	}
	root, err := v.Getattr(context.Background(), RootIno)
	if err != nil {
		return view{"": failed + err.Error()}
	}
	walk("", root)
	return out
}

func showInode(v *Vault, a Attr) string {
	ctx := context.Background()
	a.Blocks = 0 // an estimate
	s := fmt.Sprintf("%+v", a)
	if a.Mode&syscall.S_IFMT == syscall.S_IFLNK {
		target, err := v.Readlink(ctx, a.Ino)
		if err != nil {
			return failed + err.Error()
		}
		s += " -> " + target
	}
	names, err := v.Listxattr(ctx, a.Ino)
	for _, name := range names {
		var value []byte
		if value, err = v.Getxattr(ctx, a.Ino, name); err != nil {
			break
		}
		s += fmt.Sprintf(" %s=%q", name, value)
	}
	if err != nil {
		return failed + err.Error()
	}
	return s
}

func readAll(v *Vault, a Attr, truth string) string {
	p := bytes.Repeat([]byte{filler}, int(a.Size))
	n, err := v.Read(context.Background(), a.Ino, p, 0)
	switch {
	case err == nil && n == len(p):
		return string(p)
	case err == nil:
		return fmt.Sprintf("short: %d of %d", n, len(p))
	}
	for i, b := range p {
		if b != filler && (i >= len(truth) || b != truth[i]) {
			return fmt.Sprintf("altered byte %d behind %v", i, err)
		}
	}
	return failed + err.Error()
}

// hold compares with the truth and returns how much could not be read. Anything that
// is neither right nor an error fails the test.
func (truth view) hold(t *testing.T, got view, when string) (refused int) {
	t.Helper()
	for path, is := range got {
		if strings.HasPrefix(is, failed) {
			refused++
		} else if is != truth[path] {
			t.Fatalf("%s: %q is\n%.300q\nnot\n%.300q", when, path, is, truth[path])
		}
	}
	if refused == 0 && len(got) != len(truth) {
		t.Fatalf("%s: %d lines, want %d, and no error", when, len(got), len(truth))
	}
	return refused
}

func TestSurveyNotices(t *testing.T) {
	d := newDrive(t)
	a := d.machine("a")
	f := a.write(RootIno, "f", "content")
	before := survey(a.v, nil)
	if before["/f:content"] != "content" || len(before) != 3 {
		t.Fatalf("%q", before)
	}
	a.put(f, "K", 0)
	if after := survey(a.v, nil); after["/f:content"] == before["/f:content"] {
		t.Fatal("does not see content")
	}
	d.check(a.v.Setxattr(context.Background(), f, "user.x", []byte("y"), 0))
	if after := survey(a.v, nil); !strings.Contains(after["/f"], "user.x") {
		t.Fatal("does not see xattrs")
	}
}

// furnish makes one of everything, so that every kind of blob is in the store: chunks,
// directory, extent and table pages.
func furnish(m *machine) {
	ctx := context.Background()
	dir := m.mkdir(RootIno, "dir")
	m.write(dir, "inline", "a few bytes")
	m.write(dir, "chunk", randomText(700))
	f := m.write(RootIno, "linked", randomText(600))
	_, err := m.v.Link(ctx, f, dir, "second name")
	m.d.check(err)
	_, err = m.v.Symlink(ctx, Cred{}, dir, "link", "to/somewhere")
	m.d.check(err)
	m.d.check(m.v.Setxattr(ctx, f, "user.note", []byte("value"), 0))
	holes := m.write(dir, "holes", "start")
	for i := range 6 {
		m.put(holes, randomText(520), uint64(i+1)*3<<20)
	}
}

// reopened makes a cold copy of a machine that remembers all it knew: same device, same
// trust, same journal, other memory. Its store is a view of its own.
func (m *machine) reopened(store backend.Store) *machine {
	files := &files{m: map[string][]byte{}}
	for name, b := range m.files.m {
		files.m[name] = b
	}
	return &machine{d: m.d, name: m.name, store: store, session: m.session, disk: m.disk.Clone(), files: files}
}

// stranger is a machine of the same device that remembers nothing and may only read.
func (m *machine) stranger(store backend.Store) (*Vault, error) {
	trust, err := log.NewTrust(&files{m: map[string][]byte{}}, m.session.TrustKey(), m.session.Store)
	m.d.check(err)
	n := m.reopened(store)
	m.d.check(AcceptTrust(n.disk, m.session.JournalKey(), m.d.vault, trust))
	return Open(context.Background(), Options{Store: store, Vault: m.d.vault, Session: m.session, Trust: trust,
		Disk: n.disk, Now: m.d.clock.now, Manual: true, ReadOnly: true})
}

// keysOf lists the objects below a folder of the vault.
func (d *drive) keysOf(folder string) (keys []string) {
	for _, key := range d.store.Keys() {
		if strings.Contains(key, "/"+folder+"/") || folder == "ids" && strings.HasPrefix(key, "ids/") {
			keys = append(keys, key)
		}
	}
	return keys
}

// pointer is where a file's only chunk is.
func (m *machine) pointer(path ...string) tree.Pointer {
	m.d.t.Helper()
	ino, err := m.at(path...)
	m.d.check(err)
	var p tree.Pointer
	m.d.check(m.v.locked(context.Background(), func() error {
		n, err := m.v.w.get(ino)
		if err != nil {
			return err
		}
		return n.Extents.Scan("", func(_ string, x tree.Extent) bool { p, _ = x.Blob.Pointer(); return true })
	}))
	if p.SealedLen == 0 {
		m.d.t.Fatalf("%v is not one chunk", path)
	}
	return p
}

func (d *drive) packKey(p tree.Pointer) string { return pack.ObjectKey(d.vault, p.Pack) }

// forKey bends the answers about one object.
func forKey(key string, bend func([]byte) []byte) mem.Hook {
	return func(r mem.Request) mem.Answer {
		if r.Key != key {
			return mem.Answer{}
		}
		return mem.Answer{Bend: bend}
	}
}

// splice replaces a blob within its pack.
func splice(p tree.Pointer, by []byte) func([]byte) []byte {
	return func(b []byte) []byte {
		copy(b[p.Offset:p.Offset+p.SealedLen], by)
		return b
	}
}

// sealUnder is what a member without scruples makes: a blob under a key of his choice,
// right in all but its fingerprint. The plaintext is as long as that of p.
func sealUnder(t testing.TB, vault seal.VaultID, p tree.Pointer, kind uint8, plain string) []byte {
	t.Helper()
	pt := make([]byte, int(p.SealedLen)-28)
	pt[0], pt[3], pt[4] = p.Codec, byte(len(plain)>>8), byte(len(plain))
	copy(pt[5:], plain)
	aad := append([]byte("kist/1/blob"), 1, kind)
	block, err := aes.NewCipher(p.Key[:])
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	nonce := []byte(randomText(12))
	sealed := gcm.Seal(nonce, nonce, pt, append(aad, vault[:]...))
	key := p.Key
	if got, err := seal.OpenBlob(vault, kind, p.Codec, uint32(len(plain)), seal.FingerprintOf(sealed), &key, sealed); err != nil || string(got) != plain {
		t.Fatal("the forgery is not good enough to be believed under its own fingerprint: ", err)
	}
	return sealed
}

// A2, A6, B3, B7: whatever is done to a chunk, the reader sees one and the same error,
// and the store one and the same requests.
func TestDamageLooksAlike(t *testing.T) {
	d := newDrive(t)
	a := d.machine("a")
	a.write(RootIno, "file", randomText(700))
	a.write(RootIno, "other", randomText(700))
	a.sync()
	truth := survey(a.v, nil)
	p, q := a.pointer("file"), a.pointer("other")
	if p.SealedLen != q.SealedLen || p.Pack != q.Pack {
		t.Fatal("the two files should look alike")
	}
	whole := d.store.Peek(d.packKey(p))
	end := int(p.Offset+p.SealedLen) * 8
	swapped := bytes.Clone(whole)
	copy(swapped[p.Offset:], whole[q.Offset:q.Offset+q.SealedLen])
	var wantErr, wantTrace string
	for name, bend := range map[string]func([]byte) []byte{
		"nonce":                  mem.Flip(int(p.Offset) * 8),
		"ciphertext":             mem.Flip(int(p.Offset)*8 + 999),
		"tag":                    mem.Flip(end - 1),
		"zeroed":                 splice(p, make([]byte, p.SealedLen)),
		"another file's":         func([]byte) []byte { return swapped },
		"sealed by a reader":     splice(p, sealUnder(t, d.vault, p, tree.KindChunk, randomText(700))),
		"same content, resealed": splice(p, sealUnder(t, d.vault, p, tree.KindChunk, truth["/file:content"])),
		"of another kind":        splice(p, sealUnder(t, d.vault, p, tree.KindDir, randomText(700))),
	} {
		store := d.store.View(name)
		b := a.reopened(store)
		d.check(b.open())
		ino, err := b.at("file")
		d.check(err)
		attr, err := b.v.Getattr(context.Background(), ino)
		d.check(err)
		b.v.packs = pack.NewReader(store, d.vault, b.v.share.windows, b.v.share.flight) // knows no window of the time before
		store.SetHook(forKey(d.packKey(p), bend))
		store.Forget()
		got := readAll(b.v, attr, truth["/file:content"])
		trace := ""
		for _, r := range store.Log() {
			trace += fmt.Sprintln(r.Verb, r.Key, r.Off, r.Size)
		}
		if wantErr == "" {
			wantErr, wantTrace = got, trace
		}
		if got != failed+seal.ErrUnseal.Error() || got != wantErr || trace != wantTrace {
			t.Errorf("%s: %.80q after\n%swant %q after\n%s", name, got, trace, wantErr, wantTrace)
		}
		store.SetHook(nil) // nothing of the lie stays
		if truth.hold(t, survey(b.v, truth), name) != 0 {
			t.Errorf("%s: not readable afterwards", name)
		}
	}
}

// B4: objects and parts of objects change places.
func TestSwaps(t *testing.T) {
	d := newDrive(t)
	a := d.machine("a")
	furnish(a)
	a.sync()
	a.write(RootIno, "later", randomText(700))
	a.sync()
	truth := survey(a.v, nil)
	p := a.pointer("later")
	logs, ids := d.keysOf("log"), d.keysOf("ids")
	pairs := [][2]string{{d.packKey(p), d.packKey(a.pointer("dir", "chunk"))}}
	for i := range len(logs) - 1 {
		pairs = append(pairs, [2]string{logs[i], logs[i+1]}, [2]string{logs[i], d.packKey(p)})
	}
	for i := range len(ids) - 1 {
		pairs = append(pairs, [2]string{ids[i], ids[i+1]}, [2]string{ids[i], logs[0]})
	}
	refused := 0
	for _, pair := range pairs {
		store := d.store.View("swapped")
		store.SetHook(func(r mem.Request) mem.Answer {
			switch r.Key {
			case pair[0]:
				return mem.Answer{Key: pair[1]}
			case pair[1]:
				return mem.Answer{Key: pair[0]}
			}
			return mem.Answer{}
		})
		when := fmt.Sprintf("%.90s and %.90s swapped", pair[0], pair[1])
		b := a.reopened(store)
		if err := b.open(); err != nil {
			refused++
		} else if truth.hold(t, survey(b.v, truth), when) > 0 {
			refused++
		}
		// Without memory an older state may be shown, but nothing that never was.
		if v, err := a.stranger(store); err == nil {
			for path, is := range survey(v, truth) {
				if content := strings.HasSuffix(path, ":content"); content && !strings.HasPrefix(is, failed) && is != truth[path] {
					t.Errorf("%s: a stranger reads something else at %s", when, path)
				}
			}
		}
	}
	if refused < 3 {
		t.Errorf("only %d of %d swaps were noticed: what was swapped is not what is read", refused, len(pairs))
	}
}

// B6: a file whose content is a page, and one whose content is a commit, stay files;
// and when a writer without scruples points a directory at such a file, nobody follows.
func TestContentIsNeverStructure(t *testing.T) {
	d := newDrive(t)
	a, evil := d.machine("a"), d.machine("evil")
	furnish(evil)
	for i := range 8 {
		evil.write(RootIno, fmt.Sprintf("file %d", i), "x") // a page too large to stand in a record
	}
	evil.sync()
	ctx := context.Background()
	ptr := rootPointer(t, evil.v.log.Head().Root)
	page, err := evil.v.packs.Fetch(ctx, ptr)
	d.check(err)
	logs := d.keysOf("log")
	evil.write(RootIno, "page", string(page))
	evil.write(RootIno, "commit", string(d.store.Peek(logs[len(logs)-1])))
	evil.sync()
	truth := survey(evil.v, nil)
	a.follow()
	if truth["/page:content"] != string(page) || truth.hold(t, survey(a.v, truth), "honest") != 0 {
		t.Fatal("such files are not kept as they are")
	}
	chunk := evil.pointer("page")
	state := evil.v.log.Head().Root
	good := tree.AppendPointer(nil, rootPointer(t, state))
	for name, kind := range map[string]uint8{"kind kept": tree.KindChunk, "kind changed": tree.KindDir} {
		chunk.Kind = kind
		bad := bytes.Replace(state, good, tree.AppendPointer(nil, chunk), 1)
		_, err := evil.v.log.Prepare(log.Body{Kind: log.Ordinary, Root: bad})
		if kind == tree.KindChunk {
			if !errors.Is(err, tree.ErrMalformed) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		d.check(err)
		evil.appendState(bad)
		if err := a.v.Follow(ctx); !errors.Is(err, seal.ErrUnseal) {
			t.Errorf("%s: following: %v", name, err)
		}
		if truth.hold(t, survey(a.v, truth), name) != 0 {
			t.Error("what was mounted before went away")
		}
		v, err := a.stranger(d.store.View("stranger"))
		d.check(err)
		if got := survey(v, truth); got["/"] != failed+seal.ErrUnseal.Error() {
			t.Errorf("%s: a stranger sees %q", name, got)
		}
	}
}

// appendState puts any state into the log, as a writer may.
func (m *machine) appendState(root []byte) {
	m.d.t.Helper()
	p, err := m.v.log.Prepare(log.Body{Kind: log.Ordinary, Root: root})
	m.d.check(err)
	m.d.check(m.v.log.Append(context.Background(), p))
}

// rootPointer finds the pointer to the root's first page in a commit's state.
func rootPointer(t testing.TB, state []byte) tree.Pointer {
	t.Helper()
	for i := 0; i+tree.PointerSize <= len(state); i++ {
		if p, err := tree.ParsePointer(state[i:i+tree.PointerSize], tree.KindDir, [32]byte{}); err == nil {
			return p
		}
	}
	t.Fatal("no pointer to a directory")
	return tree.Pointer{}
}
