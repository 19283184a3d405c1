package cache

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	badger "github.com/dgraph-io/badger/v4"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"kist/crypto/seal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testKey = seal.Key{1, 2, 3}

func openTest(t testing.TB, dir string, budget int64) *Cache {
	t.Helper()
	c, err := Open(dir, testKey, Options{Budget: budget})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// flush waits until everything put so far is on disk.
func flush(c *Cache) {
	for c.writeBatch() {
	}
}

// scanned does what the writer does first, in case it has not come to it.
func scanned(c *Cache) {
	c.io.Lock()
	defer c.io.Unlock()
	c.blocks.scan()
	c.evict()
}

// cold forgets what is in memory.
func cold(c *Cache) {
	flush(c)
	c.mem.drop()
}

func fp(i int) (f [32]byte) {
	binary.BigEndian.PutUint64(f[:], uint64(i)+1)
	return f
}

// value is what belongs to fp(i), of n bytes.
func value(i, n int) []byte {
	r := rand.New(rand.NewPCG(uint64(i), 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

var sizes = []int{0, 1, 4096, unitSize, unitSize + 1, 3*unitSize + 7, maxChunk}

func TestRoundTrip(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	c := openTest(t, dir, 0)
	fill := func(c *Cache) {
		for i, n := range sizes {
			c.PutChunk(fp(i), value(i, n))
			c.PutNode(fp(i), value(100+i, min(n, 32<<10)))
		}
		c.PutHint([]byte("k"), []byte("old"))
		c.PutHint([]byte("k"), []byte("new"))
	}
	fill(c)
	check := func(when string, c *Cache) {
		t.Helper()
		for i, n := range sizes {
			if b, ok := c.Node(fp(i)); !ok || !bytes.Equal(b, value(100+i, min(n, 32<<10))) {
				t.Fatal(when, "node", i, ok)
			}
			want := value(i, n)
			for _, part := range [][2]int{{0, n}, {n / 2, n / 3}, {max(n-10, 0), min(n, 10)}, {n, 0}} {
				b, ok := c.Chunk(fp(i), part[0], part[1])
				if part[1] == 0 && !ok {
					continue // nothing asked, nothing found
				}
				if !ok || !bytes.Equal(b, want[part[0]:part[0]+part[1]]) {
					t.Fatal(when, "chunk", n, part, ok)
				}
			}
			if _, ok := c.Chunk(fp(i), n, 1); ok {
				t.Fatal(when, "beyond the end")
			}
		}
		if b, ok := c.Hint([]byte("k")); !ok || string(b) != "new" {
			t.Fatal(when, "hint", string(b))
		}
	}
	check("waiting", c)
	cold(c)
	check("on disk", c)
	check("in memory", c)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = openTest(t, dir, 0)
	check("opened again", c)
	if st := c.Stats(); st.Hits == 0 || st.Chunks != 3 || st.Bytes < 1<<20 {
		t.Fatalf("%+v", st)
	}
	c.Drop()
	if _, ok := c.Node(fp(1)); ok {
		t.Fatal("Drop kept a node")
	}
	if _, ok := c.Chunk(fp(6), 0, 1); ok {
		t.Fatal("Drop kept a chunk")
	}
	fill(c)
	cold(c)
	check("after Drop", c)
}

func TestValuesAreCopied(t *testing.T) {
	c := openTest(t, t.TempDir(), 0)
	b := []byte("value")
	c.PutNode(fp(1), b)
	b[0] = 'X'
	got, _ := c.Node(fp(1))
	got[1] = 'X'
	if got, _ := c.Node(fp(1)); string(got) != "value" {
		t.Fatal(string(got))
	}
}

// populated makes a closed cache with nodes, small and large chunks.
func populated(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "cache")
	c := openTest(t, dir, 0)
	for i := range 20 {
		c.PutNode(fp(i), value(i, 300))
		c.PutChunk(fp(100+i), value(100+i, 500))
	}
	for i := range 2 {
		c.PutChunk(fp(200+i), value(200+i, unitSize+500))
	}
	flush(c)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// neverWrong opens what may be damaged: each value is right, or a miss.
func neverWrong(t testing.TB, dir string) (hits int) {
	t.Helper()
	c := openTest(t, dir, 0)
	defer c.Close()
	look := func(b []byte, ok bool, want []byte) {
		if ok && !bytes.Equal(b, want) {
			t.Fatal("a wrong value was served")
		}
		if ok {
			hits++
		}
	}
	for i := range 20 {
		b, ok := c.Node(fp(i))
		look(b, ok, value(i, 300))
		b, ok = c.Chunk(fp(100+i), 0, 500)
		look(b, ok, value(100+i, 500))
	}
	for i := range 2 {
		b, ok := c.Chunk(fp(200+i), 0, unitSize+500)
		look(b, ok, value(200+i, unitSize+500))
		b, ok = c.Chunk(fp(200+i), unitSize, 500)
		look(b, ok, value(200+i, unitSize+500)[unitSize:])
	}
	return hits
}

func files(t testing.TB, dir string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			paths = append(paths, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func copyDir(t testing.TB, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestFlippedBytes(t *testing.T) {
	dir := populated(t)
	if n := neverWrong(t, copyDir(t, dir)); n != 44 {
		t.Fatal("only", n, "hits in a sound cache")
	}
	r := rand.New(rand.NewPCG(1, 1))
	for _, path := range files(t, dir) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() == 0 || info.Size() > 2<<20 {
			continue
		}
		clean, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		rel, _ := filepath.Rel(dir, path)
		for range 12 {
			b := bytes.Clone(clean)
			at := r.IntN(len(b))
			if r.IntN(2) == 0 {
				at = r.IntN(min(len(b), 300))
			}
			b[at] ^= 1 << r.IntN(8)
			c := copyDir(t, dir)
			if err := os.WriteFile(filepath.Join(c, rel), b, 0o600); err != nil {
				t.Fatal(err)
			}
			neverWrong(t, c)
		}
	}
}

// TestChunkFileSweep flips every byte of the header and some of each unit.
func TestChunkFileSweep(t *testing.T) {
	b := newBlocks(t.TempDir(), testKey)
	n, plain := name{7}, value(1, unitSize+100)
	b.write(n, plain)
	clean, err := os.ReadFile(b.path(n))
	if err != nil || int64(len(clean)) != blockSize(len(plain)) {
		t.Fatal(err, len(clean))
	}
	for i := 0; i < len(clean); i++ {
		if i == blockHeader+200 {
			i = len(clean) - 300
		}
		bad := bytes.Clone(clean)
		bad[i] ^= 0x10
		if err := os.WriteFile(b.path(n), bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, ok := b.read(n, 0, 1); ok {
			t.Fatal("flipped byte", i, "was served")
		}
	}
	for _, bad := range [][]byte{nil, clean[:len(clean)-1], append(bytes.Clone(clean), 0), clean[:100]} {
		if err := os.WriteFile(b.path(n), bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, ok := b.read(n, 0, 0); ok {
			t.Fatal("a file of another length was served")
		}
	}
}

// TestSwapped puts each sealed value in another's place, with Badger's own
// means, and in the clear.
func TestSwapped(t *testing.T) {
	dir := populated(t)
	c := openTest(t, dir, 0)
	a, b := c.name(kindNode, fpBytes(1)), c.name(kindNode, fpBytes(2))
	plain := c.name(kindNode, fpBytes(3))
	x, y := c.name(kindChunk, fpBytes(200)), c.name(kindChunk, fpBytes(201))
	err := c.rows.db.Update(func(txn *badger.Txn) error {
		read := func(n name) []byte {
			item, err := txn.Get(n[:])
			if err != nil {
				t.Fatal(err)
			}
			v, err := item.ValueCopy(nil)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		va, vb := read(a), read(b)
		return errors.Join(txn.Set(bytes.Clone(a[:]), vb), txn.Set(bytes.Clone(b[:]), va),
			txn.Set(bytes.Clone(plain[:]), []byte("planted in the clear")))
	})
	if err != nil {
		t.Fatal(err)
	}
	px, py := c.blocks.path(x), c.blocks.path(y)
	if err := errors.Join(os.Rename(px, px+"~"), os.Rename(py, px), os.Rename(px+"~", py)); err != nil {
		t.Fatal(err)
	}
	c.mem.drop()
	for i := 1; i <= 3; i++ {
		if _, ok := c.Node(fp(i)); ok {
			t.Error("a planted row was served", i)
		}
	}
	for i := 200; i <= 201; i++ {
		if _, ok := c.Chunk(fp(i), 0, 10); ok {
			t.Error("a swapped chunk file was served")
		}
	}
	if _, ok := c.Node(fp(4)); !ok {
		t.Error("the others are there")
	}
}

func fpBytes(i int) []byte { f := fp(i); return f[:] }

// TestOldCopy restores an older copy of the whole directory.
func TestOldCopy(t *testing.T) {
	dir := populated(t)
	old := copyDir(t, dir)
	c := openTest(t, dir, 0)
	c.PutHint([]byte("head"), []byte("2"))
	c.PutNode(fp(500), []byte("later"))
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if n := neverWrong(t, old); n != 44 {
		t.Fatal(n)
	}
	c = openTest(t, old, 0)
	if _, ok := c.Node(fp(500)); ok {
		t.Fatal("from nowhere")
	}
}

func TestAnotherKey(t *testing.T) {
	dir := populated(t)
	c, err := Open(dir, seal.Key{9}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, ok := c.Node(fp(1)); ok {
		t.Fatal("another key opened it")
	}
	scanned(c)
	if st := c.Stats(); st.Chunks != 0 {
		t.Fatal("what can never be used was kept")
	}
}

func TestGarbage(t *testing.T) {
	dir := populated(t)
	for _, p := range files(t, filepath.Join(dir, "db")) {
		if err := os.WriteFile(p, bytes.Repeat([]byte("garbage"), 1000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	stray := filepath.Join(dir, "chunks", "00")
	if err := errors.Join(os.MkdirAll(stray, 0o700), os.WriteFile(filepath.Join(stray, "x.tmp"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	c := openTest(t, dir, 0)
	c.PutNode(fp(1), []byte("again"))
	cold(c)
	if b, ok := c.Node(fp(1)); !ok || string(b) != "again" {
		t.Fatal("not rebuilt")
	}
	scanned(c)
	if _, err := os.Stat(filepath.Join(stray, "x.tmp")); err == nil {
		t.Fatal("strays stay")
	}
	if _, err := Open(dir, testKey, Options{}); !errors.Is(err, ErrLocked) {
		t.Fatal(err)
	}
}

// TestKilled opens what a process left that did not close.
func TestKilled(t *testing.T) {
	dir := populated(t)
	c := openTest(t, dir, 0)
	c.PutNode(fp(1), value(1, 300))
	flush(c)
	dead := copyDir(t, dir)
	if n := neverWrong(t, dead); n != 4 {
		t.Fatal(n, "hits; the chunk files are good, the database in doubt")
	}
	// Badger's own idea of an unencrypted, appended log is not listened to.
	log := filepath.Join(dead, "db", "000001.vlog")
	if err := os.WriteFile(log, make([]byte, 100), 0o600); err != nil {
		t.Fatal(err)
	}
	if n := neverWrong(t, dead); n != 4 {
		t.Fatal(n)
	}
}

// TestPlantedLinks puts links to a folder and a file of somebody else, and a pipe, wherever
// the cache has something, closed in order or not. Nothing behind a link changes.
func TestPlantedLinks(t *testing.T) {
	plant := func(t *testing.T, name string, make func(to, at string) error, to string) {
		dir := populated(t)
		at := filepath.Join(dir, name)
		if found, _ := filepath.Glob(at); len(found) > 0 {
			at = found[0]
		}
		if err := errors.Join(os.RemoveAll(at), make(to, at)); err != nil {
			t.Fatal(err)
		}
		neverWrong(t, dir)
		c := openTest(t, dir, 0)
		scanned(c)
		for i := range 2 {
			c.PutChunk(fp(200+i), value(200+i, unitSize+500)) // into what was planted
		}
		c.PutNode(fp(1), value(1, 300))
		flush(c)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if n := neverWrong(t, dir); n == 0 {
			t.Error("it serves nothing more")
		}
	}
	pipe := func(_, at string) error { return unix.Mkfifo(at, 0o600) }
	for _, name := range []string{"version", "db.sum", "db", "db/*.vlog", "db/*.sst", "db/MANIFEST", "db/KEYREGISTRY", "db/x", "chunks", "chunks/*", "chunks/*/*"} {
		t.Run(strings.NewReplacer("/", " ", "*", "+").Replace(name), func(t *testing.T) {
			outside := t.TempDir()
			inner, file := filepath.Join(outside, "0123"), filepath.Join(outside, "file")
			if err := errors.Join(os.Mkdir(inner, 0o700), os.WriteFile(file, []byte("mine"), 0o600),
				os.WriteFile(filepath.Join(inner, "deep"), []byte("mine"), 0o600)); err != nil {
				t.Fatal(err)
			}
			plant(t, name, os.Symlink, outside)
			plant(t, name, os.Symlink, file)
			plant(t, name, os.Symlink, filepath.Join(outside, "new"))
			plant(t, name, os.Link, file)
			plant(t, name, pipe, "")
			var left []string
			for _, p := range files(t, outside) {
				raw, err := os.ReadFile(p)
				left = append(left, fmt.Sprintf("%s %s %v", filepath.Base(p), raw, err))
			}
			if want := "[deep mine <nil> file mine <nil>]"; fmt.Sprint(left) != want {
				t.Fatalf("outside there is %v", left)
			}
		})
	}
}

// TestDeletedUnderneath removes everything while the cache is in use.
func TestDeletedUnderneath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	c := openTest(t, dir, 0)
	put := func(c *Cache) {
		for i := range 10 {
			c.PutNode(fp(i), value(i, 300))
			c.PutChunk(fp(200+i), value(200+i, unitSize+500))
		}
		cold(c)
	}
	put(c)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		if b, ok := c.Node(fp(i)); ok && !bytes.Equal(b, value(i, 300)) {
			t.Fatal("wrong")
		}
		if _, ok := c.Chunk(fp(200+i), 0, 10); ok {
			t.Fatal("from a deleted file")
		}
	}
	put(c)
	for i := range 10 {
		if _, ok := c.Node(fp(i)); !ok {
			t.Fatal("does not recover")
		}
		if _, ok := c.Chunk(fp(200+i), 0, 10); !ok {
			t.Fatal("does not recover")
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestBudget(t *testing.T) {
	const budget = 12 << 20
	dir := t.TempDir()
	c := openTest(t, dir, budget)
	for i := range 40 {
		c.PutChunk(fp(i), value(i, maxChunk))
		for k := range 20 {
			c.PutNode(fp(1000*i+k), value(k, 30<<10))
		}
		flush(c)
		if st := c.Stats(); st.Bytes > budget+1<<20 {
			t.Fatalf("after %d: %+v", i, st)
		}
	}
	used := int64(0)
	for _, p := range files(t, filepath.Join(dir, "chunks")) {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		used += info.Size()
	}
	if used > budget || used < budget/4 {
		t.Fatal(used)
	}
	c.mem.drop()
	if _, ok := c.Chunk(fp(39), 0, 10); !ok {
		t.Fatal("the newest went")
	}
	if _, ok := c.Chunk(fp(0), 0, 10); ok {
		t.Fatal("the oldest stays")
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = openTest(t, dir, 3<<20)
	scanned(c)
	if st := c.Stats(); st.Bytes > 3<<20 {
		t.Fatalf("a smaller budget is held from the start: %+v", st)
	}
}

// TestFloor: with less free than the floor nothing is written.
func TestFloor(t *testing.T) {
	c, err := Open(t.TempDir(), testKey, Options{FreeFloor: 1 << 60})
	if err != nil {
		t.Fatal(err)
	}
	c.PutNode(fp(1), []byte("x"))
	c.PutChunk(fp(2), value(2, maxChunk))
	cold(c)
	if _, ok := c.Node(fp(1)); ok {
		t.Error("a row was written below the floor")
	}
	if _, ok := c.Chunk(fp(2), 0, 1); ok {
		t.Error("a chunk was written below the floor")
	}
	c.opt.FreeFloor = 0
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestCanary(t *testing.T) {
	const canary = "CANARY-0123456789"
	dir := t.TempDir()
	c := openTest(t, dir, 0)
	c.PutNode([32]byte([]byte(canary + canary)[:32]), []byte(canary))
	c.PutHint([]byte(canary), []byte(canary))
	c.PutChunk(fp(1), bytes.Repeat([]byte(canary), 100))
	c.PutChunk(fp(2), bytes.Repeat([]byte(canary), 10_000))
	flush(c)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for _, p := range files(t, dir) {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		for _, form := range []string{canary, hex.EncodeToString([]byte(canary))} {
			if bytes.Contains(b, []byte(form)) || bytes.Contains([]byte(p), []byte(form)) {
				t.Error("in the clear:", filepath.Base(p))
			}
		}
	}
}

func TestModes(t *testing.T) {
	dir := populated(t)
	for _, p := range files(t, filepath.Join(dir, "chunks")) {
		if info, err := os.Stat(p); err != nil || info.Mode().Perm() != 0o600 {
			t.Error(info.Mode(), err)
		}
	}
	for _, d := range []string{"db", "chunks"} {
		if info, err := os.Stat(filepath.Join(dir, d)); err != nil || info.Mode().Perm() != 0o700 {
			t.Error(d, info.Mode(), err)
		}
	}
}

func TestConcurrent(t *testing.T) {
	c := openTest(t, t.TempDir(), 4<<20)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			for range 150 {
				i := r.IntN(20)
				switch r.IntN(6) {
				case 0:
					c.PutChunk(fp(i), value(i, unitSize*2))
				case 1:
					c.PutNode(fp(i), value(i, 500))
				case 2:
					c.PutHint(fpBytes(i), fmt.Append(nil, r.Uint64()))
				case 3:
					if b, ok := c.Chunk(fp(i), unitSize-5, 10); ok && !bytes.Equal(b, value(i, unitSize*2)[unitSize-5:unitSize+5]) {
						t.Error("wrong chunk")
					}
				case 4:
					if b, ok := c.Node(fp(i)); ok && !bytes.Equal(b, value(i, 500)) {
						t.Error("wrong node")
					}
				default:
					c.Hint(fpBytes(i))
					c.Stats()
					if r.IntN(40) == 0 {
						c.Drop()
					}
				}
			}
		})
	}
	wg.Wait()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c.PutNode(fp(1), nil)
	c.Drop()
}

func BenchmarkNode(b *testing.B) {
	c := openTest(b, b.TempDir(), 0)
	for i := range 1000 {
		c.PutNode(fp(i), value(i, 8<<10))
		flush(c)
	}
	for i := 0; b.Loop(); i++ {
		if _, ok := c.Node(fp(i % 1000)); !ok {
			b.Fatal("miss")
		}
	}
}

func BenchmarkChunk4K(b *testing.B) {
	c := openTest(b, b.TempDir(), 0)
	for i := range 40 {
		c.PutChunk(fp(i), value(i, maxChunk))
		flush(c)
	}
	r := rand.New(rand.NewPCG(1, 1))
	for b.Loop() {
		if _, ok := c.Chunk(fp(r.IntN(40)), 4096*r.IntN(256), 4096); !ok {
			b.Fatal("miss")
		}
	}
}

// TestFullDisk: without space Badger is not even opened, for it would die; with space
// the cache begins to keep, and it gives up chunks when asked to.
func TestFullDisk(t *testing.T) {
	var free atomic.Int64
	dir := t.TempDir()
	again := func() *Cache {
		c, err := Open(dir, testKey, Options{Memory: 24 << 20, free: func(string) int64 { return free.Load() }})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	free.Store(1 << 30)
	c := again()
	c.PutNode(fp(0), []byte("old"))
	flush(c)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	free.Store(0)
	c = again()
	c.PutNode(fp(1), []byte("x"))
	c.PutChunk(fp(2), value(2, maxChunk))
	cold(c)
	if _, err := os.Stat(filepath.Join(dir, "db.sum")); err != nil {
		t.Error("the database was opened on a full disk:", err)
	}
	if _, ok := c.Node(fp(1)); ok {
		t.Error("a row was written to a full disk")
	}
	free.Store(1 << 30)
	c.PutNode(fp(1), []byte("x"))
	c.PutChunk(fp(2), value(2, maxChunk))
	cold(c)
	for i := range 2 {
		if _, ok := c.Node(fp(i)); !ok {
			t.Error("with space there is no row", i)
		}
	}
	if c.Yield() {
		t.Error("chunks were given up although there is space")
	}
	free.Store(1 << 20)
	if _, ok := c.Node(fp(1)); !ok {
		t.Error("what is there is not read on a full disk")
	}
	if !c.Yield() || c.Stats().Chunks != 0 || c.Yield() {
		t.Error("the chunks stay on a full disk")
	}
	free.Store(1 << 30)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}
