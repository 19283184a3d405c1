package pack

import (
	"container/list"
	"context"
	"errors"
	"sync"

	"kist/backend"
)

const (
	smallWindow = 256 << 10
	largeWindow = 1 << 20
	maxKnown    = 1 << 16 // packs whose extent is remembered
)

// window is a range of a pack, as it came from the store. done is closed when
// the request has ended; then data or err is set.
type window struct {
	pack     [32]byte
	off, end uint32
	done     chan struct{}
	data     []byte
	err      error
	keep     bool
	elem     *list.Element // in windows.used, once data is there and kept
}

func (w *window) holds(off, end uint32) bool { return w.off <= off && end <= w.end }

func (w *window) slice(off, end uint32) []byte { return w.data[off-w.off : end-w.off] }

// windows is the set of ranges that are at hand or under way. mu guards all of
// it; no request is made while it is held.
type windows struct {
	mu     sync.Mutex
	packs  map[[32]byte][]*window
	known  map[[32]byte]uint32 // up to where a pack is known to reach
	used   *list.List          // kept windows, the last used in front
	bytes  int64
	budget int64
	get    func(ctx context.Context, pack [32]byte, off, n uint32) ([]byte, error)
}

// note remembers that a pack reaches to end.
func (c *windows) note(pack [32]byte, end uint32) {
	c.mu.Lock()
	c.noteLocked(pack, end)
	c.mu.Unlock()
}

func (c *windows) noteLocked(pack [32]byte, end uint32) {
	if len(c.known) >= maxKnown {
		clear(c.known)
	}
	c.known[pack] = max(c.known[pack], end)
}

// wish says what may come along with a range that is not at hand.
type wish int

const (
	withNeighbours wish = iota // as much as is likely to be wanted next
	once                       // the range only, and it need not be kept
	kept                       // the range only
)

// load brings in a window that holds the range.
func (c *windows) load(ctx context.Context, pack [32]byte, off, end uint32, as wish) (*window, error) {
	for {
		w, mine := c.claim(pack, off, end, as)
		if mine {
			c.fetch(ctx, w)
			return w, w.err
		}
		select {
		case <-w.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if w.err == nil {
			return w, nil
		}
		// Whoever asked first failed, maybe for a reason of their own.
		if !errors.Is(w.err, context.Canceled) && !errors.Is(w.err, context.DeadlineExceeded) {
			return nil, w.err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
}

// claim finds the window that holds the range or makes one, which the caller
// then has to fetch.
func (c *windows) claim(pack [32]byte, off, end uint32, as wish) (w *window, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.packs[pack] {
		if w.holds(off, end) {
			if w.elem != nil {
				c.used.MoveToFront(w.elem)
			}
			return w, false
		}
	}
	w = &window{pack: pack, off: off, end: end, keep: as == kept, done: make(chan struct{})}
	if as == withNeighbours {
		w.off, w.end = c.widen(pack, off, end)
		// A large blob alone is not asked for twice: whoever reads it keeps it.
		w.keep = end-off < smallWindow || w.end-w.off > end-off
	}
	c.noteLocked(pack, end)
	c.packs[pack] = append(c.packs[pack], w)
	return w, true
}

// widen chooses what to read along with a range: what follows it, as far as the
// pack is known to reach, since siblings are read in order; else what precedes it,
// since children are placed before parents. It stops at what is at hand.
func (c *windows) widen(pack [32]byte, off, end uint32) (from, to uint32) {
	size := uint32(smallWindow)
	if len(c.packs[pack]) > 1 { // this pack is being walked through
		size = largeWindow
	}
	size = min(size, uint32(min(c.budget/4, largeWindow))) // larger ones are not kept
	if end-off >= size {
		return off, end
	}
	low, high := uint32(0), max(end, c.known[pack])
	for _, w := range c.packs[pack] {
		if w.end <= off {
			low = max(low, w.end)
		} else if w.off >= end {
			high = min(high, w.off)
		}
	}
	to = max(end, min(high, off+size))
	if to-low > size {
		low = to - size
	}
	return min(off, low), to
}

func (c *windows) fetch(ctx context.Context, w *window) {
	data, err := c.get(ctx, w.pack, w.off, w.end-w.off)
	c.mu.Lock()
	defer c.mu.Unlock()
	w.data, w.err = data, err
	if errors.Is(err, backend.ErrShort) {
		delete(c.known, w.pack) // somebody was wrong about it
	}
	if err != nil || !w.keep || int64(len(data)) > c.budget/4 {
		c.forget(w)
	} else {
		w.elem = c.used.PushFront(w)
		c.bytes += int64(len(data))
	}
	for c.bytes > c.budget {
		c.drop(c.used.Back().Value.(*window))
	}
	close(w.done)
}

// drop takes a window out of the cache; who holds it may read on.
func (c *windows) drop(w *window) {
	if w.elem != nil {
		c.used.Remove(w.elem)
		w.elem = nil
		c.bytes -= int64(len(w.data))
	}
	c.forget(w)
}

func (c *windows) forget(w *window) {
	ws := c.packs[w.pack]
	for i := range ws {
		if ws[i] == w {
			ws[i] = ws[len(ws)-1]
			ws[len(ws)-1] = nil
			ws = ws[:len(ws)-1]
			break
		}
	}
	if len(ws) == 0 {
		delete(c.packs, w.pack)
	} else {
		c.packs[w.pack] = ws
	}
}
