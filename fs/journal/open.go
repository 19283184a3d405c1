package journal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"

	"kist/crypto/seal"
)

// Open verifies what is in the directory and begins a new segment behind it.
// It takes the disk over, also when it fails. Damage does not make it fail:
// Replay says what is missing. A read error of the disk does, and changes
// nothing.
func Open(disk Disk, key seal.Key, opt Options) (*Journal, *Replay, error) {
	j := &Journal{disk: disk, key: key, opt: opt.withDefaults(), next: 1, moved: map[uint64]Loc{}}
	found, err := j.load()
	var r *Replay
	if err == nil {
		r, err = j.open(found)
	}
	if err == nil {
		return j, r, nil
	}
	for _, c := range found {
		c.file.Close()
	}
	if j.spare != nil {
		j.spare.Close()
	}
	disk.Close()
	return nil, nil, fmt.Errorf("opening the journal: %w", err)
}

// candidate is a segment file before it is believed.
type candidate struct {
	segment
	name string
	id   [16]byte
	ok   bool // its header verifies
}

// load reads the headers of all live segments, in order of number.
func (j *Journal) load() ([]*candidate, error) {
	names, err := j.disk.List()
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var found []*candidate
	for _, name := range names {
		number, ext, ok := parseName(name)
		if !ok {
			continue
		}
		j.next = max(j.next, number+1)
		if ext == extAside {
			continue
		}
		c, err := j.candidate(name)
		if err != nil {
			return found, err
		}
		found = append(found, c)
	}
	return found, nil
}

func (j *Journal) candidate(name string) (*candidate, error) {
	number, ext, _ := parseName(name)
	f, err := j.disk.Open(name)
	if err != nil {
		return nil, err
	}
	c := &candidate{name: name}
	c.file, c.number, c.damaged = f, number, ext == extDamaged
	b := make([]byte, headerSize)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		f.Close()
		return nil, err
	}
	if c.end, err = f.Size(); err != nil {
		f.Close()
		return nil, err
	}
	c.synced = c.end
	h, key, err := decodeHeader(j.key, j.opt.Vault, b[:n])
	if err == nil && h.number == number {
		c.ok, c.id, c.first, c.run = true, h.id, h.first, h.run
		c.stream = seal.NewStream(key)
	}
	return c, nil
}

func (j *Journal) open(found []*candidate) (*Replay, error) {
	good, bad := j.sort(found)
	if len(good) == 0 && len(found) > 0 {
		return nil, ErrKey
	}
	r := &Replay{j: j}
	if len(good) == 0 {
		rand.Read(j.id[:])
		r.Start.Run = firstRun(j.id)
		r.End = r.Start
	}
	kept, err := j.replay(r, good)
	if err != nil {
		return nil, err
	}
	if len(kept) > 0 {
		if err := kept[len(kept)-1].harden(r.End.N); err != nil {
			return nil, err
		}
	}
	if err := j.putAside(r, kept, slices.Concat(bad, good[len(kept):])); err != nil {
		return nil, err
	}
	return r, j.begin(r, kept)
}

// sort parts those that verify and belong together from the others.
func (j *Journal) sort(found []*candidate) (good, bad []*candidate) {
	for _, c := range found {
		if c.ok && len(good) == 0 {
			j.id = c.id
		}
		if c.ok && c.id == j.id && (len(good) == 0 || good[len(good)-1].number < c.number) {
			good = append(good, c)
		} else {
			bad = append(bad, c)
		}
	}
	return good, bad
}

// replay verifies everything, in order, and returns the segments up to the
// first damage.
func (j *Journal) replay(r *Replay, good []*candidate) ([]*candidate, error) {
	for i, c := range good {
		if i == 0 {
			r.Start, r.End = c.start(), c.start()
		}
		if c.start() != r.End {
			return good[:i], nil
		}
		last, limit := i+1 == len(good), uint64(math.MaxUint64)
		if !last {
			limit = good[i+1].first - 1
		}
		end, off, err := c.walk(limit, true, func(Record) error { return nil })
		closed := errors.Is(err, errEnd)
		if err != nil && !closed && !errors.Is(err, errVerify) {
			return nil, err
		}
		r.End = end
		r.spans = append(r.spans, span{&c.segment, end.N})
		switch {
		case end.N >= limit, last && closed:
			continue
		case last && !j.lost(c, off, end.N+1):
			r.Cut += c.end - off
			return good, nil
		}
		c.damaged = true
		d := Damage{Segment: c.number, Off: off, Bytes: c.end - off, First: end.N + 1}
		if !last {
			d.Last = limit
		}
		r.Damage = append(r.Damage, d)
		return good[:i+1], nil
	}
	return good, nil
}

// harden makes the records up to last durable: they may be in the page cache
// only, and the next segment will say that they are on disk. A sync alone is
// not enough. If one failed before, the kernel holds pages that are neither on
// disk nor marked for writing: so what is not proven to be synced is written
// once more, byte for byte.
func (s *segment) harden(last uint64) error {
	synced, to := s.first-1, int64(headerSize)
	starts := []int64{to} // of the record with number first + index
	w, err := newWindow(s.file)
	for n := s.first; err == nil && n <= last; n++ {
		var r record
		if r, err = s.read(w, to, false); err == nil {
			synced = max(synced, r.synced)
			to += int64(r.size())
			starts = append(starts, to)
		}
	}
	if err != nil {
		return err
	}
	for from := starts[min(synced+1-s.first, last+1-s.first)]; from < to; {
		b, err := w.bytes(from, int(min(windowSize, to-from)))
		if err != nil {
			return err
		}
		if _, err := s.file.WriteAt(b, from); err != nil {
			return err
		}
		from += int64(len(b))
	}
	return s.file.Sync()
}

// lost says whether a record behind off proves that record n had been synced.
func (j *Journal) lost(c *candidate, off int64, n uint64) bool {
	w, err := newWindow(c.file)
	if err != nil {
		return false
	}
	_, ok := c.find(w, off, n, n)
	return ok
}

// putAside renames the files that are not used on, and the one that is used
// only in part, and reports them.
func (j *Journal) putAside(r *Replay, kept, rest []*candidate) error {
	for i := range kept {
		c := kept[i]
		if name := c.segment.name(); name != c.name {
			if err := j.disk.Rename(c.name, name); err != nil {
				return err
			}
		}
		if len(r.Damage) > 0 && i == len(kept)-1 {
			r.Damage[0].File = c.segment.name()
		}
	}
	for _, c := range rest {
		name, err := j.aside(c.name, c.number)
		if err != nil {
			return err
		}
		c.file.Close()
		r.Damage = append(r.Damage, j.unused(c, r, kept, name))
	}
	if len(r.Damage) > 0 {
		if err := j.disk.SyncDir(); err != nil {
			return err
		}
	}
	return j.keepReport(r.Damage)
}

// unused reports a file that is not used on.
func (j *Journal) unused(c *candidate, r *Replay, kept []*candidate, name string) Damage {
	d := Damage{Segment: c.number, File: name, Bytes: c.end}
	end := uint64(0)
	if len(kept) > 0 {
		end = kept[len(kept)-1].number
	}
	switch {
	case c.ok && c.id == j.id:
		d.First = max(c.first, r.End.N+1)
	case c.number > end:
		d.First = r.End.N + 1
	}
	return d
}

// aside renames a file to a name under which it is never touched again.
func (j *Journal) aside(name string, number uint64) (string, error) {
	to := segmentName(number, extAside)
	if f, err := j.disk.Open(to); err == nil {
		f.Close()
		to = segmentName(j.next, extAside)
		j.next++
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return to, j.disk.Rename(name, to)
}

// begin allocates the reserve and starts this process's first segment.
func (j *Journal) begin(r *Replay, kept []*candidate) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	var err error
	if j.spare, err = j.openSpare(); err != nil {
		return err
	}
	j.takeSpare()
	j.last, j.durable = r.End, r.End
	s, err := j.create(j.durable, 0)
	if noSpace(err) && j.dropSpare() {
		s, err = j.create(j.durable, 0)
	}
	if err != nil {
		return err
	}
	for _, c := range kept {
		if c.first == s.first && !c.damaged && j.discard(&c.segment) == nil {
			c.dropped = true
			c.closeIfUnused()
			continue
		}
		if !c.damaged {
			_ = c.file.Truncate(c.end) // only gives back allocated space
		}
		j.segs = append(j.segs, &c.segment)
	}
	j.segs = append(j.segs, s)
	return nil
}

func (j *Journal) openSpare() (File, error) {
	f, err := j.disk.Open(nameSpare)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = j.disk.Create(nameSpare)
	}
	return f, err
}
