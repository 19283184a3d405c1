package journal

import (
	"errors"
	"io/fs"
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
	if n == j.last.N && j.cur().end > j.opt.Segment/4 && !j.cur().failed {
		// A failure is met by the next Append; trimming goes on without it.
		_ = j.advance()
	}
	var old []*segment
	for i := 0; i+1 < len(j.segs) && j.limit(i) <= n; i++ {
		old = append(old, j.segs[i])
	}
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
	if s := j.cur(); err == nil {
		_ = s.file.Truncate(s.end) // only gives back allocated space
	}
	j.closed = true
	for _, s := range j.segs {
		s.dropped = true
		s.closeIfUnused()
	}
	j.key.Wipe()
	return errors.Join(err, j.spare.Close(), j.disk.Close())
}
