// Package cache keeps copies of what was fetched and verified, so that it need
// not be fetched again. It is the only package that knows Badger.
//
// Promises. Everything here may be deleted at any moment, while it is in use
// too, and costs a fetch and nothing else. What a getter returns is what was
// put under that name by a process with this key, or a miss; with hints, it may
// be an older one. A put may be forgotten. No call fails because of what lies
// in the directory, and none but Open, Drop, Yield and Close waits for a write.
// A full disk is no danger: well before it is, nothing is written any more.
//
// Trust. The directory is hostile ground. Values are sealed with their name as
// associated data, names are keyed hashes; Badger guards nothing. Whoever
// writes to the directory can make the cache forget, and can make Badger fail.
//
// Locks. One goroutine writes, with Cache.io held; Cache.mu guards what waits
// to be written; memory, blocks and rows have their own. Order: io, then
// Cache.mu or rows, then memory or blocks. Bytes given to a put are copied, bytes returned
// belong to the caller.
package cache

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"kist/crypto/seal"
)

// ErrLocked: another process uses this cache.
var ErrLocked = errors.New("the cache is in use by another process")

// Options for Open.
type Options struct {
	Budget    int64        // bytes on disk; 0 means 1 GiB
	FreeFloor int64        // nothing is written when the volume has less free, and chunks are given up
	Memory    int64        // bytes of values in memory; 0 means 24 MiB
	Log       *slog.Logger // nil: silent

	free func(dir string) int64 // of the volume; a test may set it
}

// Stats is what the cache holds and how well it served.
type Stats struct {
	Bytes, Budget int64 // on disk
	Memory        int64 // bytes of values in memory
	Nodes         int64 // nodes put since Open
	Chunks        int64 // chunk files on disk
	Hits, Misses  int64 // since Open
}

const (
	defaultBudget = 1 << 30
	defaultMemory = 24 << 20
	minReserve    = 64 << 20 // Badger dies by SIGBUS on a full disk: stay well away
	maxRow        = 900 << 10
)

// kept is how much is kept in memory to be read again, queued how much may wait to be
// written; beyond it a put is forgotten, and chunks leave a half of it to nodes and hints,
// without which nothing is found offline. What is left of Memory is what lists and maps cost.
func (o Options) kept() int     { return int(o.Memory / 4) }
func (o Options) queued() int64 { return o.Memory / 3 * 2 }

// The kinds of names.
const (
	kindNode  = 'n'
	kindHint  = 'h'
	kindChunk = 'c'
	kindSum   = 's'
	kindCache = 'v'
)

// Cache is an open cache. Its methods may be called concurrently.
type Cache struct {
	dir     string
	key     seal.Key
	nameKey seal.Key
	opt     Options
	lock    *os.File
	mem     *memory
	blocks  *blocks

	io   sync.Mutex
	rows *rows // guarded by io for changes, by its own lock for use

	mu      sync.Mutex
	waiting []*job
	pending map[name]*job
	bytes   int64 // in waiting
	closed  bool

	wake chan struct{}
	done chan struct{}

	nodes, hits, misses atomic.Int64
}

// name is a keyed hash of a kind and what is named.
type name [32]byte

func (c *Cache) name(kind byte, id []byte) name {
	h := hmac.New(sha256.New, c.nameKey[:])
	h.Write([]byte{kind})
	h.Write(id)
	return name(h.Sum(nil))
}

// Open opens the cache in dir, made if need be. What it finds there and does
// not understand is removed. It fails only if the directory cannot be made or
// is locked.
func Open(dir string, key seal.Key, opt Options) (*Cache, error) {
	if opt.Budget <= 0 {
		opt.Budget = defaultBudget
	}
	if opt.Memory <= 0 {
		opt.Memory = defaultMemory
	}
	if opt.free == nil {
		opt.free = freeOn
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the cache: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	c := &Cache{
		dir: dir, key: key, nameKey: seal.DeriveKey(key, seal.LabelCacheNameKey, nil), opt: opt, lock: lock,
		mem: newMemory(opt.kept()), pending: map[name]*job{},
		wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	c.checkVersion()
	c.blocks = newBlocks(filepath.Join(dir, "chunks"), key)
	mac := func(list []byte) name { return c.name(kindSum, list) }
	c.rows = newRows(filepath.Join(dir, "db"), key, mac, opt.Log)
	if c.safe() {
		c.rows.start()
	}
	go c.writer()
	return c, nil
}

func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the cache: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrLocked
		}
		return nil, fmt.Errorf("locking the cache: %w", err)
	}
	return f, nil
}

// checkVersion empties a cache of another version or key.
func (c *Cache) checkVersion() {
	id := c.name(kindCache, nil)
	want := []byte("kist cache 1 " + hex.EncodeToString(id[:]) + "\n")
	path := filepath.Join(c.dir, "version")
	have, err := readFile(path)
	if err == nil && bytes.Equal(have, want) {
		return
	}
	if !errors.Is(err, fs.ErrNotExist) {
		c.opt.Log.Info("the cache is of another version or key and begins anew")
	}
	// What cannot be removed or written here is never believed anyway.
	_ = os.RemoveAll(filepath.Join(c.dir, "db"))
	_ = os.RemoveAll(filepath.Join(c.dir, "chunks"))
	_ = writeFile(path, want)
}

// Node returns an immutable object by the fingerprint of its sealed bytes.
func (c *Cache) Node(fp [32]byte) ([]byte, bool) {
	return c.count(c.row(c.name(kindNode, fp[:]), true))
}

// PutNode keeps the plaintext of an immutable object.
func (c *Cache) PutNode(fp [32]byte, plain []byte) {
	if c.put(c.name(kindNode, fp[:]), plain, false, c.opt.queued()) {
		c.nodes.Add(1)
	}
}

// Hint returns what was last, or earlier, put under key: not to be relied on.
func (c *Cache) Hint(key []byte) ([]byte, bool) { return c.count(c.row(c.name(kindHint, key), false)) }

// PutHint replaces a mutable row.
func (c *Cache) PutHint(key, val []byte) { c.put(c.name(kindHint, key), val, false, c.opt.queued()) }

// Chunk returns n bytes at off of a chunk's plaintext. Only the units that
// hold them are read and opened.
func (c *Cache) Chunk(fp [32]byte, off, n int) ([]byte, bool) {
	return c.count(c.part(c.name(kindChunk, fp[:]), off, n))
}

// PutChunk keeps a chunk's plaintext, up to 1 MiB.
func (c *Cache) PutChunk(fp [32]byte, plain []byte) {
	c.put(c.name(kindChunk, fp[:]), plain, len(plain) > unitSize, c.opt.queued()/2)
}

func (c *Cache) count(b []byte, ok bool) ([]byte, bool) {
	if ok {
		c.hits.Add(1)
	} else {
		c.misses.Add(1)
	}
	return b, ok
}

// row finds a row. One that may change is kept in memory by put only: what is
// read here may be replaced meanwhile.
func (c *Cache) row(n name, fixed bool) ([]byte, bool) {
	if b, ok := c.waitingFor(n); ok {
		return bytes.Clone(b), true
	}
	if b, ok := c.mem.get(unit{n, 0}); ok {
		return bytes.Clone(b), true
	}
	b, ok := c.rows.get(n)
	if ok && fixed {
		c.mem.put(unit{n, 0}, bytes.Clone(b))
	}
	return b, ok
}

func (c *Cache) part(n name, off, length int) ([]byte, bool) {
	if off < 0 || length < 0 || length > maxChunk {
		return nil, false
	}
	if b, ok := c.waitingFor(n); ok {
		return slice(b, off, length)
	}
	if b, ok := c.units(n, off, length); ok {
		return b, true
	}
	if off+length <= unitSize {
		if b, ok := c.row(n, true); ok {
			return slice(b, off, length)
		}
	}
	return nil, false
}

func slice(b []byte, off, length int) ([]byte, bool) {
	if off+length > len(b) {
		return nil, false
	}
	return bytes.Clone(b[off : off+length]), true
}

// units serves a part of a chunk file from memory, else from the file.
func (c *Cache) units(n name, off, length int) ([]byte, bool) {
	first, last := off/unitSize, max(off+length-1, off)/unitSize
	var units [][]byte
	for i := first; i <= last; i++ {
		b, ok := c.mem.get(unit{n, i + 1})
		if !ok {
			return c.fromFile(n, first, last, off, length)
		}
		units = append(units, b)
	}
	return join(units, off-first*unitSize, length)
}

func (c *Cache) fromFile(n name, first, last, off, length int) ([]byte, bool) {
	units, ok := c.blocks.read(n, first, last)
	if !ok {
		return nil, false
	}
	for i, b := range units {
		c.mem.put(unit{n, first + i + 1}, b)
	}
	return join(units, off-first*unitSize, length)
}

// join copies length bytes from off on; off lies in the first unit.
func join(units [][]byte, off, length int) ([]byte, bool) {
	out := make([]byte, 0, length)
	for _, b := range units {
		b = b[min(off, len(b)):]
		out = append(out, b[:min(len(b), length-len(out))]...)
		off = 0
	}
	return out, len(out) == length
}

// Stats is a snapshot.
func (c *Cache) Stats() Stats {
	chunks, size := c.blocks.stats()
	c.mu.Lock()
	waiting := c.bytes
	c.mu.Unlock()
	return Stats{
		Bytes: size + c.rows.size(), Budget: c.opt.Budget, Memory: waiting + c.mem.size(),
		Nodes: c.nodes.Load(), Chunks: chunks,
		Hits: c.hits.Load(), Misses: c.misses.Load(),
	}
}

// Drop forgets everything.
func (c *Cache) Drop() {
	c.io.Lock()
	defer c.io.Unlock()
	c.mu.Lock()
	c.waiting, c.bytes = nil, 0
	clear(c.pending)
	closed := c.closed
	c.mu.Unlock()
	if closed {
		return
	}
	c.rows.reset()
	c.blocks.drop()
	c.mem.drop()
}

// Yield gives up chunks if the volume is short of space, and says whether it did.
func (c *Cache) Yield() bool {
	c.io.Lock()
	defer c.io.Unlock()
	_, before := c.blocks.stats()
	c.freeSpace()
	_, after := c.blocks.stats()
	return after < before
}

// Close writes what waits and closes.
func (c *Cache) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	c.mu.Unlock()
	c.blocks.closed.Store(true)
	c.poke()
	<-c.done
	c.io.Lock()
	defer c.io.Unlock()
	c.freeSpace() // Badger writes its memory out when it is closed
	c.rows.close(c.safe())
	c.mem.drop()
	return c.lock.Close()
}
