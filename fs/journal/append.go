package journal

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"kist/crypto/seal"
)

// writeOut is how much gathers in memory before it is written: 1 MiB.
func (j *Journal) writeOut() int64 { return max(j.opt.Unsynced/32, 1) }

// Append orders one record. It is durable after the next Sync. Most calls
// only copy into memory; one that meets a full segment or too much unsynced
// data writes and syncs first.
func (j *Journal) Append(kind uint8, meta, payload []byte, flags Flags) (Rec, error) {
	if len(meta) > MaxMeta || len(payload) > MaxPayload {
		return Rec{}, ErrTooLarge
	}
	p := &pending{
		frame: frame{
			kind: kind, raw: flags&Raw != 0 && len(payload) > 0,
			meta: uint32(len(meta)), payload: uint32(len(payload)),
		},
		sum:     sha256.Sum256(payload),
		data:    bytes.Clone(meta),
		payload: payload,
	}
	if !p.raw {
		p.payload = bytes.Clone(payload)
	}
	if err := j.admit(int64(p.size()), flags); err != nil {
		return Rec{}, err
	}
	rec := j.enqueue(p)
	full := j.unwrit >= j.writeOut()
	j.mu.Unlock()

	// A failure here is kept in the segment and met by the next call: this
	// record was taken.
	if full && j.io.TryLock() {
		_ = j.write(j.writeOut())
		j.io.Unlock()
	}
	return rec, nil
}

// enqueue gives the record its number and place. j.mu is held.
func (j *Journal) enqueue(p *pending) Rec {
	s := j.cur()
	p.n = j.last.N + 1
	p.pos = Pos{p.n, nextRun(j.last.Run, p.kind, p.data, p.sum)}
	p.off = uint32(s.end)
	size := int64(p.size())
	s.end += size
	j.bytes += size
	j.unwrit += size
	j.queue = append(j.queue, p)
	j.last = p.pos
	return Rec{p.pos, j.place(p)}
}

func (j *Journal) place(p *pending) Loc {
	return Loc{p.n, j.cur().number, p.off, p.meta, uint32(len(p.payload))}
}

// Reserve says whether n more bytes would be taken now, and allocates them on
// disk as far as they belong to the current segment. It holds nothing back
// from others.
func (j *Journal) Reserve(n int64) error {
	if err := j.admit(n, 0); err != nil {
		return err
	}
	j.mu.Unlock()
	return nil
}

// ReserveUrgent is Reserve for urgent records.
func (j *Journal) ReserveUrgent(n int64) error {
	if err := j.admit(n, Urgent); err != nil {
		return err
	}
	j.mu.Unlock()
	return nil
}

// admit returns with j.mu held when a record of this size can be appended.
// Else it returns the error, without the lock.
func (j *Journal) admit(size int64, flags Flags) error {
	urgent, promised := flags&(Urgent|Promised) != 0, flags&Promised != 0
	for full := false; ; {
		j.mu.Lock()
		clear, err := j.obstacle(size, urgent)
		if err == nil && (clear == nil || full) || promised && errors.Is(err, ErrFull) {
			return nil
		}
		j.mu.Unlock()
		if err != nil {
			return err
		}
		j.io.Lock()
		err = clear(size, urgent)
		j.io.Unlock()
		full = promised && errors.Is(err, ErrFull)
		if err != nil && !full {
			return err
		}
	}
}

// obstacle returns what must be done, with j.io held, before a record of this
// size fits. j.mu is held.
func (j *Journal) obstacle(size int64, urgent bool) (func(int64, bool) error, error) {
	s := j.cur()
	switch {
	case j.closed:
		return nil, ErrClosed
	case j.broken:
		return nil, ErrBroken
	case j.size()+size > j.opt.most(urgent):
		return nil, ErrFull
	case s.failed, len(j.queue) > 0 && j.bytes+size > j.opt.Unsynced:
		return j.drain, nil
	case s.end > headerSize && s.end+size > j.opt.Segment:
		return j.roll, nil
	}
	return nil, j.makeRoom(s, s.end+size, urgent)
}

func (j *Journal) drain(_ int64, urgent bool) error { return j.commit(urgent) }

// makeRoom allocates space up to end. j.mu is held.
func (j *Journal) makeRoom(s *segment, end int64, urgent bool) error {
	if end <= s.alloc {
		return nil
	}
	floor := int64(0)
	if !urgent {
		if !j.takeSpare() {
			return ErrFull
		}
		floor = j.opt.Floor
	}
	step := j.opt.step()
	err := j.grow(s, (end+step-1)/step*step, floor)
	if noSpace(err) {
		err = j.grow(s, end, floor)
	}
	if noSpace(err) && urgent && j.dropSpare() {
		err = s.allocate(end)
	}
	switch {
	case noSpace(err):
		return ErrFull
	case err != nil:
		return fmt.Errorf("allocating space for the journal: %w", err)
	}
	return nil
}

// grow allocates space up to end if that leaves as much free as the floor asks.
func (j *Journal) grow(s *segment, end, floor int64) error {
	if floor > 0 {
		free, err := j.disk.Free()
		if err != nil {
			return err
		}
		if free-(end-s.alloc) < floor {
			return ErrFull
		}
	}
	return s.allocate(end)
}

func (s *segment) allocate(end int64) error {
	err := s.file.Allocate(end)
	if err == nil {
		s.alloc = end
	}
	return err
}

func noSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// takeSpare allocates the reserve if it is not. j.mu is held.
func (j *Journal) takeSpare() bool {
	if !j.hasRoom {
		j.hasRoom = j.spare.Allocate(j.opt.Reserve) == nil
	}
	return j.hasRoom
}

// GiveReserve gives the reserve's space to whoever needs it to bring what is
// recorded here into safety, and says whether there was any. The next ordinary
// record takes it back first.
func (j *Journal) GiveReserve() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return !j.closed && j.dropSpare()
}

// dropSpare gives the reserve's space free. j.mu is held.
func (j *Journal) dropSpare() bool {
	had := j.hasRoom
	j.hasRoom = false
	return j.spare.Truncate(0) == nil && had
}

// create makes the next segment file, durable and empty, with space for size
// bytes of records. When it fails so late that the name may be there, it
// returns the failed segment with the error. j.mu is held.
func (j *Journal) create(after Pos, size int64) (*segment, error) {
	h := header{id: j.id, number: j.next, first: after.N + 1, run: after.Run}
	j.next++
	key := seal.NewKey()
	defer key.Wipe()
	f, err := j.disk.Create(nameNew)
	if errors.Is(err, fs.ErrExist) {
		if err = j.disk.Remove(nameNew); err == nil {
			f, err = j.disk.Create(nameNew)
		}
	}
	if err != nil {
		return nil, err
	}
	s := &segment{
		coder: coder{h.number, seal.NewStream(key)},
		file:  f, first: h.first, run: h.run, end: headerSize, synced: headerSize,
	}
	if err := j.prepare(s, h.encode(j.key, j.opt.Vault, key), size); err != nil {
		f.Close()
		return nil, err
	}
	err = j.disk.Rename(nameNew, s.name())
	if err == nil {
		err = j.disk.SyncDir()
	}
	s.failed, s.unsure = err != nil, err != nil
	return s, err
}

// prepare writes the header before the file gets its name: so there is no
// moment in which a named segment lacks it.
func (j *Journal) prepare(s *segment, head []byte, size int64) error {
	if err := s.allocate(headerSize + size); err != nil {
		return err
	}
	if _, err := s.file.WriteAt(head, 0); err != nil {
		return err
	}
	return s.file.Sync()
}
