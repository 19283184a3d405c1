package cache

import (
	"bytes"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// job is one value to be written. Its bytes are its own.
type job struct {
	name  name
	plain []byte
	file  bool
}

func (c *Cache) put(n name, plain []byte, file bool, limit int64) bool {
	if len(plain) > maxRow && !file || len(plain) > maxChunk {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.bytes+int64(len(plain)) > limit {
		return false
	}
	if old := c.pending[n]; old != nil && bytes.Equal(old.plain, plain) {
		return true
	}
	j := &job{n, slices.Clone(plain), file}
	c.waiting = append(c.waiting, j)
	c.pending[n] = j
	c.bytes += int64(len(plain))
	if !file {
		c.mem.put(unit{n, 0}, j.plain)
	}
	c.poke()
	return true
}

// waitingFor returns a value that is not written yet. It must not be changed.
func (c *Cache) waitingFor(n name) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if j := c.pending[n]; j != nil {
		return j.plain, true
	}
	return nil, false
}

func (c *Cache) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// writer is the one goroutine that writes. It ends when the cache is closed
// and nothing waits.
func (c *Cache) writer() {
	defer close(c.done)
	c.io.Lock()
	c.blocks.scan()
	c.evict()
	c.io.Unlock()
	for range c.wake {
		for c.writeBatch() {
		}
		c.mu.Lock()
		closed := c.closed && len(c.waiting) == 0
		c.mu.Unlock()
		if closed {
			return
		}
	}
}

// writeBatch writes what waits and says whether there was something.
func (c *Cache) writeBatch() bool {
	c.io.Lock()
	defer c.io.Unlock()
	c.mu.Lock()
	batch := c.waiting
	c.waiting = nil
	c.mu.Unlock()
	if len(batch) == 0 {
		return false
	}
	c.freeSpace()
	if c.room() {
		c.rows.start()
		c.write(batch)
	}
	c.mu.Lock()
	for _, j := range batch {
		c.bytes -= int64(len(j.plain))
		if c.pending[j.name] == j {
			delete(c.pending, j.name)
		}
	}
	c.mu.Unlock()
	c.evict()
	return true
}

func (c *Cache) write(batch []*job) {
	var rows []*job
	for _, j := range batch {
		if j.file {
			c.blocks.write(j.name, j.plain)
		} else {
			rows = append(rows, j)
		}
	}
	c.rows.put(rows)
}

// evict holds the budget: at most a third, and 512 MiB, for rows, the rest for chunks.
func (c *Cache) evict() {
	if c.rows.size() > min(c.opt.Budget/3, maxRows) && c.safe() {
		c.rows.reset()
	}
	c.blocks.shrink(c.opt.Budget - c.rows.size())
}

func (c *Cache) reserve() int64 { return max(c.opt.FreeFloor, minReserve) }

func (c *Cache) free() int64 {
	_ = os.MkdirAll(c.dir, 0o700) // someone may have deleted it
	return c.opt.free(c.dir)
}

func freeOn(dir string) int64 {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0 // nothing to be written
	}
	return int64(st.Bavail) * int64(st.Bsize)
}

// room says whether there is enough space to write.
func (c *Cache) room() bool { return c.free() >= c.reserve()+c.opt.queued() }

// safe says whether there is enough for Badger to be opened and closed: its files are
// mapped, and a page for which there is no room ends the process.
func (c *Cache) safe() bool { return c.free() >= minReserve }

// freeSpace gives up chunks when the volume is short of space.
func (c *Cache) freeSpace() {
	short := c.reserve() + c.opt.queued() - c.free()
	if _, size := c.blocks.stats(); short > 0 && size > 0 {
		c.blocks.shrink(max(size-short, 0))
	}
}
