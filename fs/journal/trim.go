package journal

import (
	"errors"
	"io/fs"
	"slices"
)

// Trim says that records up to n are no longer needed. Whole segments go;
// what a segment shares with later records stays until those are trimmed.
func (j *Journal) Trim(n uint64) error {
	j.io.Lock()
	defer j.io.Unlock()
	if err := j.usable(); err != nil {
		return err
	}
	j.mu.Lock()
	n = min(n, j.durable.N)
	old := j.trimmable(n)
	j.mu.Unlock()

	for _, s := range old {
		if err := j.discard(s); err != nil {
			return err
		}
		j.mu.Lock()
		j.forget(s)
		j.mu.Unlock()
	}
	return nil
}

// Cut ends the current segment, if it is worth it and nothing waits to be written, so
// that a Trim of what is in it frees its space at once. Without room for another one it
// takes the reserve's.
func (j *Journal) Cut() error {
	j.io.Lock()
	defer j.io.Unlock()
	if err := j.usable(); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if s := j.cur(); len(j.queue) > 0 || s.failed || s.end <= j.opt.Segment/4 {
		return nil
	}
	err := j.advance()
	if noSpace(err) && j.dropSpare() {
		err = j.advance()
	}
	if noSpace(err) {
		return ErrFull
	}
	return err
}

// trimmable lists the segments that may go. One that is surely on disk must
// stay, for the position in it. j.mu is held.
func (j *Journal) trimmable(n uint64) []*segment {
	stay := len(j.segs) - 1
	for stay > 0 && j.segs[stay].unsure {
		stay--
	}
	i := 0
	for i < stay && j.limit(i) <= n {
		i++
	}
	return slices.Clone(j.segs[:i])
}

// discard removes a segment's file for good, or puts it aside if it holds
// something that was never understood.
func (j *Journal) discard(s *segment) error {
	var err error
	if s.damaged {
		_, err = j.aside(s.name(), s.number)
	} else {
		err = j.disk.Remove(s.name())
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return j.disk.SyncDir()
}

// forget takes a discarded segment from the list. j.mu is held.
func (j *Journal) forget(s *segment) {
	for i := range j.segs {
		if j.segs[i] == s {
			j.segs = append(j.segs[:i:i], j.segs[i+1:]...)
			break
		}
	}
	for n, l := range j.moved {
		if l.Segment == s.number {
			delete(j.moved, n)
		}
	}
	s.dropped = true
	s.closeIfUnused()
}

// Close syncs and closes the journal and its disk.
func (j *Journal) Close() error {
	j.io.Lock()
	defer j.io.Unlock()
	err := j.commit(false)
	if errors.Is(err, ErrClosed) {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if s := j.cur(); err == nil && !s.failed {
		// Both are help only: the mark tells damage from a torn tail, and the
		// other gives back allocated space.
		_, _ = s.file.WriteAt(s.endMark(j.durable.N), s.end)
		_ = s.file.Truncate(s.end + endSize)
	}
	j.closed = true
	for _, s := range j.segs {
		s.dropped = true
		s.closeIfUnused()
	}
	j.key.Wipe()
	return errors.Join(err, j.spare.Close(), j.disk.Close())
}
