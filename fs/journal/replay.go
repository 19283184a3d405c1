package journal

import "errors"

// Damage is one stretch of the journal that could not be replayed although it
// was synced. Its bytes are kept in the named file, not deleted.
type Damage struct {
	Segment uint64 // number of the segment
	File    string // where the bytes are now, in the journal's directory
	Off     int64  // from this byte on
	Bytes   int64  // so many bytes
	First   uint64 // the first record that is missing; 0: none, or not known
	Last    uint64 // the last record known to be missing; 0: not known
}

// Replay says what Open found, and reads it again.
type Replay struct {
	Start  Pos      // the place before the first record: up to here all was trimmed
	End    Pos      // the place after the last record
	Cut    int64    // bytes of a torn tail: written but never synced
	Damage []Damage // empty after anything but damage

	j     *Journal
	spans []span
}

// span is the part of a segment that counts.
type span struct {
	seg  *segment
	last uint64
}

// Each calls fn for every record after the given number, in order. Payloads
// are not read: see Journal.Payload. It may be called while the journal is in
// use, but not for what was trimmed.
func (r *Replay) Each(after uint64, fn func(Record) error) error {
	for _, sp := range r.spans {
		if sp.last <= after || sp.last < sp.seg.first {
			continue
		}
		err := r.walk(sp, sp.last, func(rec Record) error {
			if rec.N <= after {
				return nil
			}
			return fn(rec)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Contains says whether this history passed through p. If not, p belongs to
// another history, or lies before Start.
func (r *Replay) Contains(p Pos) (bool, error) {
	if p == r.Start {
		return true, nil
	}
	for _, sp := range r.spans {
		if p.N < sp.seg.first || p.N > sp.last {
			continue
		}
		found := false
		err := r.walk(sp, p.N, func(rec Record) error {
			found = rec.Pos == p
			return nil
		})
		return found, err
	}
	return false, nil
}

func (r *Replay) walk(sp span, last uint64, fn func(Record) error) error {
	r.j.mu.Lock()
	if r.j.closed || sp.seg.dropped {
		r.j.mu.Unlock()
		return ErrGone
	}
	sp.seg.readers++
	r.j.mu.Unlock()
	defer r.j.release(sp.seg)
	_, _, err := sp.seg.walk(last, false, fn)
	if errors.Is(err, errVerify) || errors.Is(err, errEnd) {
		return ErrDamaged
	}
	return err
}

// AsideInfo tells what a file holds in which damage was found.
type AsideInfo struct {
	File    string
	Bytes   int64
	Records []AsideRecord // those that still verify
}

// AsideRecord is one record of such a file.
type AsideRecord struct {
	N       uint64
	Kind    uint8
	Meta    uint32
	Payload uint32
	Whole   bool // the payload verifies, too
}

// Inspect lists what can still be read in the files in which damage was found.
func (j *Journal) Inspect() ([]AsideInfo, error) {
	j.io.Lock()
	defer j.io.Unlock()
	if err := j.usable(); errors.Is(err, ErrClosed) {
		return nil, err
	}
	return j.asides()
}

func (j *Journal) asides() ([]AsideInfo, error) {
	names, err := j.disk.List()
	if err != nil {
		return nil, err
	}
	var infos []AsideInfo
	for _, name := range names {
		if _, ext, ok := parseName(name); !ok || ext == extLive {
			continue
		}
		info, err := j.inspect(name)
		if err != nil {
			return nil, err
		}
		infos = append(infos, info)
	}
	return infos, nil
}

func (j *Journal) inspect(name string) (AsideInfo, error) {
	c, err := j.candidate(name)
	if err != nil {
		return AsideInfo{}, err
	}
	defer c.file.Close()
	w, err := newWindow(c.file)
	info := AsideInfo{File: name, Bytes: w.size}
	if err != nil || !c.ok {
		return info, err
	}
	off, n := int64(headerSize), uint64(0)
	for {
		at, ok := c.find(w, off, n, 0)
		if !ok {
			return info, nil
		}
		r, err := c.read(w, at, false)
		if err != nil {
			return info, err
		}
		if !r.end {
			_, bad := c.read(w, at, true)
			info.Records = append(info.Records, AsideRecord{r.n, r.kind, r.meta, r.frame.payload, bad == nil})
		}
		off, n = at+int64(r.size()), r.n
	}
}
