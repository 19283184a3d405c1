package journal

import (
	"errors"
	"fmt"
	"slices"
)

var errFailed = errors.New("the segment failed before")

// Sync makes everything durable that was appended before the call. Callers
// that come while another syncs share the next fdatasync.
func (j *Journal) Sync() error {
	target := j.Pos().N
	j.io.Lock()
	defer j.io.Unlock()
	if j.Durable().N >= target {
		return nil
	}
	return j.commit(false)
}

// commit writes and syncs the queue, in a fresh segment if the current one
// fails. j.io is held.
func (j *Journal) commit(urgent bool) error {
	if err := j.usable(); err != nil {
		return err
	}
	err := j.attempt()
	if err == nil {
		return nil
	}
	if noSpace(err) && !j.spend(urgent) {
		return ErrFull
	}
	if err = j.attempt(); err == nil {
		return nil
	}
	if noSpace(err) {
		return ErrFull
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.broken = true
	return fmt.Errorf("%w: %w", ErrBroken, err)
}

func (j *Journal) usable() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case j.closed:
		return ErrClosed
	case j.broken:
		return ErrBroken
	}
	return nil
}

// spend gives up the reserve for records that were accepted already.
func (j *Journal) spend(urgent bool) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return (urgent || len(j.queue) > 0) && j.dropSpare()
}

// attempt writes and syncs everything once. An error leaves the current
// segment failed.
func (j *Journal) attempt() error {
	j.mu.Lock()
	if j.cur().failed {
		if err := j.advance(); err != nil {
			j.mu.Unlock()
			return err
		}
	}
	s := j.cur()
	if s.end > s.alloc { // holds records for which there was no room
		if err := s.allocate(s.end); err != nil {
			s.failed = !noSpace(err)
			j.mu.Unlock()
			return err
		}
	}
	j.mu.Unlock()
	if err := j.write(1); err != nil {
		return err
	}
	j.mu.Lock()
	written := j.written
	j.mu.Unlock()
	if written == 0 {
		return nil
	}
	if err := s.file.Sync(); err != nil {
		j.fail(s)
		return err
	}
	j.acknowledge(written)
	return nil
}

func (j *Journal) fail(s *segment) {
	j.mu.Lock()
	defer j.mu.Unlock()
	s.failed = true
}

// acknowledge drops the first n records of the queue: they are durable.
func (j *Journal) acknowledge(n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, p := range j.queue[:n] {
		j.bytes -= int64(p.size())
	}
	last := j.queue[n-1]
	j.durable = last.pos
	j.cur().synced = int64(last.off) + int64(last.size())
	j.queue = append([]*pending(nil), j.queue[n:]...)
	j.written -= n
}

// write writes the queue out in pieces of about 1 MiB, as long as at least
// atLeast bytes are unwritten. j.io is held.
func (j *Journal) write(atLeast int64) error {
	for {
		j.mu.Lock()
		s := j.cur()
		if s.failed {
			j.mu.Unlock()
			return errFailed
		}
		if j.unwrit < atLeast || j.written == len(j.queue) {
			j.mu.Unlock()
			return nil
		}
		batch, size := j.batch()
		synced, off := j.durable.N, int64(batch[0].off)
		j.mu.Unlock()

		j.buf = slices.Grow(j.buf[:0], int(size))
		for _, p := range batch {
			f := p.frame
			f.synced = synced
			j.buf = s.append(j.buf, f, p.sum, p.data, p.payload)
		}
		if _, err := s.file.WriteAt(j.buf, off); err != nil {
			j.fail(s)
			return err
		}
		j.mu.Lock()
		j.written += len(batch)
		j.unwrit -= size
		j.mu.Unlock()
	}
}

// batch is the next piece of the queue to write, and its size.
func (j *Journal) batch() ([]*pending, int64) {
	size := int64(0)
	for i := j.written; i < len(j.queue); i++ {
		size += int64(j.queue[i].size())
		if size >= j.writeOut() {
			return j.queue[j.written : i+1], size
		}
	}
	return j.queue[j.written:], size
}

// advance starts a new segment after the last durable record and places all
// others in it. j.io and j.mu are held. When it fails, the current segment is
// a failed one: a name may be left behind that ends the older segment in
// replay, so nothing more may be written to that.
func (j *Journal) advance() error {
	old := j.cur()
	s, err := j.create(j.durable, j.bytes)
	if s == nil {
		old.failed = true
		return err
	}
	old.end = old.synced
	_ = old.file.Truncate(old.end) // only gives back space: what is behind is written again
	j.segs = append(j.segs, s)
	if err != nil {
		return err
	}
	j.written, j.unwrit = 0, j.bytes
	for _, p := range j.queue {
		p.off = uint32(s.end)
		s.end += int64(p.size())
		j.moved[p.n] = j.place(p)
	}
	if old.first == s.first && j.discard(old) == nil {
		j.forget(old)
	}
	return nil
}

// roll ends a segment in which a record of this size has no more room. j.io
// is held.
func (j *Journal) roll(size int64, urgent bool) error {
	for {
		if err := j.commit(urgent); err != nil {
			return err
		}
		j.mu.Lock()
		s := j.cur()
		if s.failed || s.end == headerSize || s.end+size <= j.opt.Segment {
			j.mu.Unlock()
			return nil
		}
		if len(j.queue) > 0 {
			j.mu.Unlock()
			continue
		}
		err := j.advance()
		if noSpace(err) && urgent && j.dropSpare() {
			err = j.advance()
		}
		j.mu.Unlock()
		switch {
		case noSpace(err):
			return ErrFull
		case err != nil:
			return fmt.Errorf("starting a segment of the journal: %w", err)
		}
		return nil
	}
}
