package journal

import (
	"errors"
	"fmt"
	"syscall"

	"kist/crypto/seal"
)

var (
	// ErrFull: there is no room on the disk, or the byte budget is used up.
	// Nothing was promised; once there is room it works again. It wraps
	// syscall.ENOSPC.
	ErrFull = fmt.Errorf("the journal has no room: nothing was lost; free space or let it be delivered: %w", syscall.ENOSPC)
	// ErrBroken: the disk failed twice in a row. What Sync acknowledged is
	// safe; nothing more can be recorded until the journal is opened again.
	ErrBroken = errors.New("the journal's disk failed: what was synced is safe, nothing more is accepted")
	// ErrKey: there is a journal, but nothing in it opens with this key.
	ErrKey = errors.New("the journal does not open with this key, or its files are damaged; nothing was changed")
	// ErrGone: the record is not in the journal (any more), or its bytes do
	// not verify.
	ErrGone = errors.New("the journal does not hold this record")
	// ErrTooLarge: meta or payload exceed MaxMeta or MaxPayload.
	ErrTooLarge = errors.New("the record is too large for the journal")
	// ErrClosed: the journal was closed.
	ErrClosed = errors.New("the journal is closed")
)

const (
	MaxMeta    = 256 << 10     // bytes of meta in a record
	MaxPayload = 1<<20 + 4<<10 // bytes of payload in a record: a whole sealed chunk
)

// Options for Open; the zero value of each field means its default.
type Options struct {
	Vault    [32]byte // bound into every segment: another vault's journal does not open here
	Budget   int64    // bytes on disk beyond which only urgent records are taken; 0: no limit
	Segment  int64    // roll at this size; 64 MiB
	Unsynced int64    // at most this much in memory only; 32 MiB
	Reserve  int64    // kept aside for urgent records on a full disk; 4 MiB
}

// Flags of one Append.
type Flags uint8

const (
	Raw    Flags = 1 << iota // the payload is already sealed: keep its bytes as they are
	Urgent                   // may use the reserve and exceed the budget: deletions
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
// Journal.Payload(Loc).
type Record struct {
	Pos
	Kind uint8
	Raw  bool
	Meta []byte
	Loc  Loc
}

// Damage is one stretch of the journal that could not be replayed. Its bytes
// are put aside, not deleted.
type Damage struct {
	Segment uint64 // number of the segment file
	Off     int64  // from this byte on
	Bytes   int64  // so many bytes
	First   uint64 // the first record that is missing
	Last    uint64 // the last record known to be missing; 0: not known
}

// Replay says what Open found.
type Replay struct {
	Start  Pos      // what was trimmed before; the first record is Start.N+1
	End    Pos      // the last record that verified
	Cut    int64    // bytes of a torn tail: written, never synced
	Damage []Damage // empty after anything but damage
	j      *Journal
}

type Journal struct{}

func Open(disk Disk, key seal.Key, opt Options) (*Journal, *Replay, error) { panic("shape") }

// Each calls fn for every verified record after position n, in order.
func (r *Replay) Each(after uint64, fn func(Record) error) error { panic("shape") }

// Contains says whether this history passed through p: false means that p
// belongs to another history, or was trimmed.
func (r *Replay) Contains(p Pos) (bool, error) { panic("shape") }

func (j *Journal) Append(kind uint8, meta, payload []byte, flags Flags) (Rec, error) { panic("shape") }
func (j *Journal) Sync() error                                                      { panic("shape") }
func (j *Journal) Payload(l Loc) ([]byte, error)                                    { panic("shape") }
func (j *Journal) Reserve(n int64) error                                            { panic("shape") }
func (j *Journal) Trim(n uint64) error                                              { panic("shape") }
func (j *Journal) Pos() Pos                                                         { panic("shape") }
func (j *Journal) Usage() (unsynced, onDisk int64)                                  { panic("shape") }
func (j *Journal) ID() [16]byte                                                     { panic("shape") }
func (j *Journal) Close() error                                                     { panic("shape") }

// AsideInfo tells what a put-aside segment holds.
type AsideInfo struct {
	Name    string
	Bytes   int64
	Records []AsideRecord
}
type AsideRecord struct {
	N             uint64
	Kind          uint8
	Meta, Payload uint32
}

func (j *Journal) Inspect() ([]AsideInfo, error) { panic("shape") }

// OpenDisk opens the directory, made if need be, and locks it.
func OpenDisk(dir string) (Disk, error) { panic("shape") }
