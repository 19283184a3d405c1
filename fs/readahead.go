package fs

import (
	"sync"
	"sync/atomic"

	"kist/fs/tree"
)

// readahead remembers where each reader went on, and fetches what comes next. It has a
// lock of its own, never held while anything is waited for.
type readahead struct {
	mu   sync.Mutex
	next map[Ino]uint64 // where a sequential reader would go on
	upTo map[Ino]uint64 // fetched, or being fetched, up to here
	runs int

	bytes atomic.Int64 // being fetched
}

const (
	aheadRuns    = 2    // fetches at once
	aheadReaders = 1024 // files remembered; then all are forgotten
)

// advance notes a read and says which range to fetch now, if any, up to reach ahead of it.
func (r *readahead) advance(ino Ino, off, n, reach uint64) (from, to uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next == nil || len(r.next) > aheadReaders {
		r.next, r.upTo = map[Ino]uint64{}, map[Ino]uint64{}
	}
	sequential := off > 0 && r.next[ino] == off
	r.next[ino] = off + n
	if !sequential {
		r.upTo[ino] = off + n
		return 0, 0
	}
	from = max(r.upTo[ino], off+n)
	if r.runs >= aheadRuns || from > off+n+reach/2 {
		return 0, 0
	}
	to = off + n + reach
	r.upTo[ino] = to
	r.runs++
	return from, to
}

func (r *readahead) finished() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.runs--
}

// readAhead fetches what a sequential reader will want next, behind its back.
func (v *Vault) readAhead(ino Ino, off, n uint64) {
	if v.opt.Manual {
		return
	}
	// A run brings whole chunks: one more at each end than it reaches.
	from, to := v.ahead.advance(ino, off, n, max(uint64(v.share.ahead)/aheadRuns, 3*chunkSize)-2*chunkSize)
	if to == 0 {
		return
	}
	// Under mu: Close says that it closes before it waits for what was begun.
	v.mu.Lock()
	defer v.mu.Unlock()
	blobs := v.storedBlobs(ino, from, to)
	if len(blobs) == 0 {
		v.ahead.finished()
		return
	}
	size := int64(0)
	for _, b := range blobs {
		size += int64(b.Len())
	}
	v.ahead.bytes.Add(size)
	v.done.Go(func() {
		defer v.ahead.finished()
		defer v.ahead.bytes.Add(-size)
		v.fetchBlobs(blobs)
	})
}

// storedBlobs lists the blobs of a range that are in the store and not in memory. Under mu.
func (v *Vault) storedBlobs(ino Ino, from, to uint64) []*tree.Blob {
	rec, err := v.w.get(ino)
	if err != nil || v.closed || rec.Type != tree.TypeFile {
		return nil
	}
	segs, err := segments(rec, from, to-from)
	if err != nil {
		return nil // a page is missing: the reader itself will bring it
	}
	var out []*tree.Blob
	for _, s := range segs {
		if s.blob == nil || s.mem != nil {
			continue
		}
		if _, stored := s.blob.Pointer(); stored {
			if _, hot := v.hot.get(s.blob); !hot {
				out = append(out, s.blob)
			}
		}
	}
	return out
}

// fetchBlobs brings blobs into memory. Errors are the reader's to see, when it comes there.
func (v *Vault) fetchBlobs(blobs []*tree.Blob) {
	ctx, cancel := v.within(v.life)
	defer cancel()
	var ptrs []tree.Pointer
	var want []*tree.Blob
	for _, b := range blobs {
		p, _ := b.Pointer()
		if v.opt.Cache != nil {
			if plain, ok := v.opt.Cache.Chunk(p.Fingerprint, 0, int(p.PlainLen)); ok {
				v.hot.put(b, plain)
				continue
			}
		}
		ptrs, want = append(ptrs, p), append(want, b)
	}
	if len(ptrs) == 0 {
		return
	}
	plains, err := v.packs.FetchMany(ctx, ptrs)
	if err != nil {
		return
	}
	for i, plain := range plains {
		v.cacheChunk(ptrs[i].Fingerprint, plain)
		v.hot.put(want[i], plain)
	}
}

// noteContent tells the pack reader where a small file's content is: whoever lists a
// directory often reads it next, and neighbours come in one request.
func (v *Vault) noteContent(n *tree.Inode) {
	if n.Type != tree.TypeFile || n.Size > chunkSize {
		return
	}
	_ = n.Extents.Scan("", func(_ string, x tree.Extent) bool {
		if b, _ := x.Resolve(); b != nil {
			if p, ok := b.Pointer(); ok {
				v.packs.Note(p)
			}
		}
		return false
	})
}
