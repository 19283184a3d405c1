package cache

import (
	"bytes"
	"container/list"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"kist/crypto/seal"
)

const (
	blockMagic  = "kistchnk"
	maxChunk    = 1 << 20
	unitSize    = 64 << 10
	sealedUnit  = unitSize + seal.OverheadStream
	blockHeader = 8 + 4 + 32 + seal.OverheadK
	diskBlock   = 4096
)

// blocks keeps chunks as one file each. A read looks for the file; the list in
// memory serves eviction alone and is filled by a scan.
type blocks struct {
	dir string
	key seal.Key

	mu     sync.Mutex
	bytes  int64
	order  *list.List // of block, the most recently used in front
	files  map[name]*list.Element
	closed atomic.Bool // ends a scan
}

type block struct {
	name name
	size int64 // on disk
}

func newBlocks(dir string, key seal.Key) *blocks {
	return &blocks{dir: dir, key: key, order: list.New(), files: map[name]*list.Element{}}
}

func (b *blocks) path(n name) string {
	s := hex.EncodeToString(n[:])
	return filepath.Join(b.dir, s[:2], s)
}

func blockSize(n int) int64 {
	return blockHeader + int64(n) + int64((n+unitSize-1)/unitSize)*seal.OverheadStream
}

func onDisk(size int64) int64 { return (size + diskBlock - 1) / diskBlock * diskBlock }

// head is what binds a file to its name and length.
func head(n name, length uint32) []byte {
	return binary.BigEndian.AppendUint32(n[:], length)
}

func (b *blocks) encode(n name, plain []byte) []byte {
	aad := head(n, uint32(len(plain)))
	key := seal.NewKey()
	defer key.Wipe()
	out := make([]byte, 0, blockSize(len(plain)))
	out = append(out, blockMagic...)
	out = binary.BigEndian.AppendUint32(out, uint32(len(plain)))
	out = append(out, seal.SealK(b.key, seal.LabelCacheFile, aad, key[:])...)
	stream := seal.NewStream(key)
	i := uint64(0)
	for u := range slices.Chunk(plain, unitSize) {
		out = stream.Seal(out, i, aad, u)
		i++
	}
	return out
}

// read opens the units from first to last.
func (b *blocks) read(n name, first, last int) ([][]byte, bool) {
	f, err := openFile(b.path(n))
	if err != nil {
		b.forget(n)
		return nil, false
	}
	defer f.Close()
	units, ok := b.decode(f, n, first, last)
	if !ok {
		return nil, false
	}
	b.touch(n)
	return units, true
}

func (b *blocks) decode(f *os.File, n name, first, last int) ([][]byte, bool) {
	info, err := f.Stat()
	h := make([]byte, blockHeader)
	if err != nil {
		return nil, false
	}
	if _, err := f.ReadAt(h, 0); err != nil || !bytes.HasPrefix(h, []byte(blockMagic)) {
		return nil, false
	}
	length := binary.BigEndian.Uint32(h[8:])
	if length <= unitSize || length > maxChunk || info.Size() != blockSize(int(length)) || last*unitSize >= int(length) {
		return nil, false
	}
	aad := head(n, length)
	k, err := seal.OpenK(b.key, seal.LabelCacheFile, aad, h[12:])
	if err != nil || len(k) != 32 {
		return nil, false
	}
	stream := seal.NewStream(seal.Key(k))
	start := int64(first) * sealedUnit
	end := min(int64(last+1)*sealedUnit, info.Size()-blockHeader)
	sealed := make([]byte, end-start)
	if _, err := f.ReadAt(sealed, blockHeader+start); err != nil {
		return nil, false
	}
	var units [][]byte
	i := uint64(first)
	for u := range slices.Chunk(sealed, sealedUnit) {
		plain, err := stream.Open(u[:0], i, aad, u) // in place
		if err != nil {
			return nil, false
		}
		units = append(units, plain)
		i++
	}
	return units, true
}

// write makes a file. What fails is forgotten: it is a cache.
func (b *blocks) write(n name, plain []byte) {
	path := b.path(n)
	data := b.encode(n, plain)
	if makeDir(b.dir) != nil || makeDir(filepath.Dir(path)) != nil {
		return
	}
	tmp := path + ".tmp"
	if err := writeFile(tmp, data); err != nil {
		_ = os.Remove(tmp)
		return
	}
	if err := os.Rename(tmp, path); err != nil {
		_ = os.Remove(tmp)
		return
	}
	b.add(n, int64(len(data)), true)
}

func (b *blocks) add(n name, size int64, recent bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.files[n]; e != nil {
		b.order.MoveToFront(e)
		return
	}
	bl := block{n, onDisk(size)}
	if recent {
		b.files[n] = b.order.PushFront(bl)
	} else {
		b.files[n] = b.order.PushBack(bl)
	}
	b.bytes += bl.size
}

func (b *blocks) touch(n name) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.files[n]; e != nil {
		b.order.MoveToFront(e)
	}
}

func (b *blocks) forget(n name) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.files[n]; e != nil {
		b.bytes -= e.Value.(block).size
		b.order.Remove(e)
		delete(b.files, n)
	}
}

// shrink removes the least recently used files until all fit in limit.
func (b *blocks) shrink(limit int64) {
	for {
		b.mu.Lock()
		e := b.order.Back()
		if e == nil || b.bytes <= limit {
			b.mu.Unlock()
			return
		}
		n := e.Value.(block).name
		b.mu.Unlock()
		_ = os.Remove(b.path(n))
		b.forget(n)
	}
}

func (b *blocks) stats() (files, size int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return int64(len(b.files)), b.bytes
}

func (b *blocks) drop() {
	_ = os.RemoveAll(b.dir)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.order.Init()
	clear(b.files)
	b.bytes = 0
}

// found is a file that the scan met.
type found struct {
	name name
	size int64
	time int64
}

// scan fills the list from the directory, the newest files first. What does
// not belong there is removed.
func (b *blocks) scan() {
	var all []found
	if makeDir(b.dir) != nil {
		return
	}
	shards, _ := os.ReadDir(b.dir)
	for _, shard := range shards {
		if b.closed.Load() {
			return
		}
		dir := filepath.Join(b.dir, shard.Name())
		if !shard.IsDir() {
			_ = os.Remove(dir)
			continue
		}
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			f, ok := b.known(shard.Name(), e)
			if !ok {
				_ = os.RemoveAll(filepath.Join(dir, e.Name()))
				continue
			}
			all = append(all, f)
		}
	}
	slices.SortFunc(all, func(x, y found) int { return int(max(min(y.time-x.time, 1), -1)) })
	for _, f := range all {
		b.add(f.name, f.size, false)
	}
}

func (b *blocks) known(shard string, e os.DirEntry) (found, bool) {
	raw, err := hex.DecodeString(e.Name())
	if err != nil || len(raw) != 32 || e.Name() != hex.EncodeToString(raw) || e.Name()[:2] != shard {
		return found{}, false
	}
	info, err := e.Info()
	if err != nil || !info.Mode().IsRegular() {
		return found{}, false
	}
	return found{name(raw), info.Size(), info.ModTime().UnixNano()}, true
}
