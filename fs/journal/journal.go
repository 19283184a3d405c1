package journal

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"syscall"

	"kist/crypto/seal"
)

var (
	// ErrFull: there is no room on the disk, or the byte budget is used up.
	// From Append and Reserve: nothing was promised. From Sync: nothing was
	// lost, the records wait in memory. Once there is room it works again: after
	// Trim, with free space on the disk. It wraps syscall.ENOSPC.
	ErrFull = fmt.Errorf("the journal has no room: nothing is lost, free some space: %w", syscall.ENOSPC)
	// ErrBroken: the disk failed twice in a row. What Sync acknowledged is
	// safe; nothing more is recorded until the journal is opened again.
	ErrBroken = errors.New("the journal's disk failed: what was synced is safe, nothing more is accepted")
	// ErrKey: there is a journal, but nothing in it opens with this key.
	ErrKey = errors.New("the journal does not open with this key, or all its files are damaged; nothing was changed")
	// ErrGone: the record was trimmed, or never was.
	ErrGone = errors.New("the journal does not hold this record")
	// ErrDamaged: the bytes on disk are not those that were written.
	ErrDamaged = errors.New("a record of the journal is damaged; it was not used")
	// ErrTooLarge: meta or payload exceed MaxMeta or MaxPayload.
	ErrTooLarge = errors.New("the record is too large for the journal")
	// ErrClosed: the journal was closed.
	ErrClosed = errors.New("the journal is closed")
)

const (
	MaxMeta    = 256 << 10     // bytes of meta in a record
	MaxPayload = 1<<20 + 4<<10 // bytes of payload: a whole sealed chunk
)

// Options for Open; the zero value of a field means its default.
type Options struct {
	Vault    [32]byte // bound into every segment: another vault's journal does not open here
	Budget   int64    // bytes on disk; a sixteenth of them is for urgent records only; 0: no limit
	Floor    int64    // bytes that ordinary records leave free on the volume
	Segment  int64    // roll at this size; 64 MiB
	Unsynced int64    // at most this much in memory only; 32 MiB
	Reserve  int64    // kept aside for urgent records on a full disk; 4 MiB
}

func (o Options) withDefaults() Options {
	for _, d := range []struct {
		field *int64
		value int64
	}{{&o.Segment, 64 << 20}, {&o.Unsynced, 32 << 20}, {&o.Reserve, 4 << 20}} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if o.Budget > 0 {
		o.Segment = min(o.Segment, o.Budget/4) // else what is trimmed would not come free
		o.Reserve = min(o.Reserve, o.Budget/32)
	}
	o.Segment = min(o.Segment, 1<<30)
	return o
}

// step is how much space is allocated at a time.
func (o Options) step() int64 { return max(o.Segment/16, 1) }

// most is how many bytes of records there may be so that they, the reserve and what is
// allocated ahead stay within the budget.
func (o Options) most(urgent bool) int64 {
	switch {
	case o.Budget <= 0:
		return math.MaxInt64
	case urgent:
		return o.Budget - o.Reserve - o.step()
	}
	return o.Budget - o.Budget/16
}

// Flags of one Append.
type Flags uint8

const (
	Raw      Flags = 1 << iota // the payload is already sealed: its bytes are kept as they are
	Urgent                     // may use the reserve and all of the budget: deletions
	Promised                   // room was made before: taken also if it is gone by now, to wait in memory for it
)

// Pos is a place in the history: after record N, with the running hash over
// all records up to it. Before the first record N is 0.
type Pos struct {
	N   uint64
	Run [32]byte
}

// Loc is where a record stands. It stays good until the record is trimmed,
// also when the record had to be moved to another segment.
type Loc struct {
	N       uint64
	Segment uint64
	Off     uint32
	Meta    uint32 // bytes of meta
	Payload uint32 // bytes of payload as given to Append
}

// Rec is what Append returns.
type Rec struct {
	Pos
	Loc Loc
}

// Record is one record of the replay. Its payload is read with
// Journal.Payload.
type Record struct {
	Pos
	Kind uint8
	Raw  bool
	Meta []byte
	Loc  Loc
}

// Journal is an open journal. Its methods may be called concurrently.
type Journal struct {
	disk Disk
	key  seal.Key
	opt  Options
	id   [16]byte

	io  sync.Mutex // see the package comment
	buf []byte     // what is being written; guarded by io

	mu      sync.Mutex
	segs    []*segment // oldest first; the last one is written to
	next    uint64     // number of the next segment
	last    Pos        // last record appended
	durable Pos        // last record synced
	queue   []*pending // records after durable, in order
	written int        // so many of the queue are in the file
	bytes   int64      // size of the queue on disk
	unwrit  int64      // part of bytes that is not in the file
	moved   map[uint64]Loc
	spare   File // the reserve
	hasRoom bool // the reserve is allocated
	broken  bool
	closed  bool

	damage []Damage // set by Open
}

// pending is a record that is not yet synced. Only its place may change.
type pending struct {
	frame
	pos     Pos
	sum     [32]byte
	data    []byte // meta
	payload []byte
	off     uint32
}

// segment is one live file. Its fields are guarded by Journal.mu, but for
// those that never change: coder, first, run, file.
type segment struct {
	coder
	file    File
	first   uint64
	run     [32]byte
	end     int64 // bytes of header and records, unwritten ones included
	synced  int64 // bytes up to the last record synced
	alloc   int64
	failed  bool // a write or sync failed: nothing more goes in
	unsure  bool // failed before its name was durable: it may not be there
	damaged bool // .dmg
	readers int
	dropped bool // closed when the last reader is done
}

func (s *segment) name() string {
	if s.damaged {
		return segmentName(s.number, extDamaged)
	}
	return segmentName(s.number, extLive)
}

func (j *Journal) cur() *segment { return j.segs[len(j.segs)-1] }

// limit is the last record that counts in segs[i].
func (j *Journal) limit(i int) uint64 {
	if i+1 < len(j.segs) {
		return j.segs[i+1].first - 1
	}
	return j.last.N
}

// ID is the journal's random name.
func (j *Journal) ID() [16]byte { return j.id }

// Pos is the place after the last record appended.
func (j *Journal) Pos() Pos {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.last
}

// Durable is the place after the last record synced.
func (j *Journal) Durable() Pos {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.durable
}

// Usage says how much is only in memory, and how much the journal takes on
// disk with it.
func (j *Journal) Usage() (unsynced, onDisk int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.bytes, j.size()
}

func (j *Journal) size() int64 {
	n := int64(0)
	for _, s := range j.segs {
		n += s.end
	}
	return n
}

// Payload returns the payload of a record, from memory or from disk, always
// authenticated. The bytes must not be changed.
func (j *Journal) Payload(l Loc) ([]byte, error) {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return nil, ErrClosed
	}
	if l.N > j.durable.N && l.N <= j.last.N {
		p := j.queue[l.N-j.durable.N-1].payload
		j.mu.Unlock()
		return p, nil
	}
	if to, ok := j.moved[l.N]; ok {
		l = to
	}
	s := j.hold(l)
	j.mu.Unlock()
	if s == nil {
		return nil, ErrGone
	}
	defer j.release(s)
	return s.payload(l)
}

// hold finds the segment of l and keeps it open. j.mu is held.
func (j *Journal) hold(l Loc) *segment {
	for i, s := range j.segs {
		if s.number == l.Segment && l.N >= s.first && l.N <= j.limit(i) {
			s.readers++
			return s
		}
	}
	return nil
}

func (j *Journal) release(s *segment) {
	j.mu.Lock()
	defer j.mu.Unlock()
	s.readers--
	s.closeIfUnused()
}

func (s *segment) closeIfUnused() {
	if s.dropped && s.readers == 0 {
		s.file.Close() // read to the end or removed: there is nothing left to lose
	}
}

func (s *segment) payload(l Loc) ([]byte, error) {
	want := frame{n: l.N, meta: l.Meta, payload: l.Payload}
	if l.Meta > MaxMeta || l.Payload > MaxPayload {
		return nil, ErrGone
	}
	buf := make([]byte, want.size())
	n, err := s.file.ReadAt(buf, int64(l.Off))
	f, bad := decodeFrame(buf[:n])
	switch {
	case bad != nil && n < frameSize && err != nil:
		return nil, fmt.Errorf("reading the journal: %w", err)
	case bad != nil, f.n != l.N, f.meta != l.Meta, f.payload != l.Payload, n < f.size():
		return nil, ErrDamaged
	}
	rest := buf[frameSize+f.metaSize() : f.size()]
	sum, _, err := s.openMeta(f, buf[frameSize:frameSize+f.metaSize()])
	if err != nil {
		return nil, ErrDamaged
	}
	p, err := s.openPayload(f, sum, rest)
	if err != nil {
		return nil, ErrDamaged
	}
	return p, nil
}
