// Package disktest is a disk in memory that forgets, for tests.
//
// It keeps apart what was synced and what was only written. Crash(seed) cuts
// the power: each unsynced write survives wholly, in part, as garbage, in some
// of its sectors or not at all, in any order, but a sector written with the
// bytes that it had keeps them; each unsynced change of the directory survives
// or not.
// After a failed Sync the writes before it can still be read, but are lost at
// the next crash, as on Linux. The same seed gives the same outcome.
package disktest

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"

	"kist/fs/journal"
)

// ErrCrashed is what files get that were open when the power was cut.
var ErrCrashed = errors.New("disktest: the power was cut")

// Op names a call for the hook.
type Op string

// The calls that a hook sees.
const (
	OpCreate   Op = "create"
	OpOpen     Op = "open"
	OpRead     Op = "read"
	OpWrite    Op = "write"
	OpSync     Op = "sync"
	OpAllocate Op = "allocate"
	OpTruncate Op = "truncate"
	OpRemove   Op = "remove"
	OpRename   Op = "rename"
	OpList     Op = "list"
	OpSyncDir  Op = "syncdir"
)

// Disk implements journal.Disk. The zero value is an empty disk without
// limit.
type Disk struct {
	mu       sync.Mutex
	names    map[string]*inode // as the running system sees it
	durable  map[string]*inode // as of the last SyncDir
	changes  []change          // since then
	hook     func(op Op, name string) error
	capacity int64
	boot     int // raised by Crash: older files are dead
	counts   map[Op]int
}

// change is one unsynced change of the directory: from is taken away, to is
// set. Either may be empty.
type change struct {
	from, to string
	ino      *inode
}

type inode struct {
	name   string // for the hook
	data   []byte // as the running system sees it
	synced []byte
	writes []write // since synced
	alloc  int64
}

// write is a piece of data, or with nil data a new size.
type write struct {
	off  int64
	data []byte
}

var _ journal.Disk = (*Disk)(nil)

// SetHook installs a function that is called before each call, without a lock.
// Its error is the call's; a write then stores half of its bytes.
func (d *Disk) SetHook(hook func(op Op, name string) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hook = hook
}

// SetCapacity limits the bytes of all files; 0 means no limit.
func (d *Disk) SetCapacity(n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.capacity = n
}

// Count says how often a call was made.
func (d *Disk) Count(op Op) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.counts[op]
}

// Used is the space that files take, allocated space included.
func (d *Disk) Used() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.used()
}

func (d *Disk) used() int64 {
	n := int64(0)
	for _, f := range d.names {
		n += f.space()
	}
	return n
}

func (f *inode) space() int64 { return max(int64(len(f.data)), f.alloc) }

// Names lists the files.
func (d *Disk) Names() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.names))
}

// Bytes is a copy of a file, nil if there is none.
func (d *Disk) Bytes(name string) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.names[name]
	if f == nil {
		return nil
	}
	return append([]byte{}, f.data...)
}

// SetBytes replaces or makes a file, durably; nil removes it.
func (d *Disk) SetBytes(name string, b []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.init()
	if b == nil {
		delete(d.names, name)
		delete(d.durable, name)
		return
	}
	f := &inode{name: name, data: slices.Clone(b), synced: slices.Clone(b)}
	d.names[name], d.durable[name] = f, f
}

// Clone is a copy of the disk as the running system sees it, with everything
// in it durable.
func (d *Disk) Clone() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := &Disk{capacity: d.capacity}
	for name, f := range d.names {
		c.SetBytes(name, append([]byte{}, f.data...))
	}
	return c
}

func (d *Disk) init() {
	if d.names == nil {
		d.names, d.durable, d.counts = map[string]*inode{}, map[string]*inode{}, map[Op]int{}
	}
}

// enter counts a call, asks the hook, and returns with d.mu held unless it
// fails.
func (d *Disk) enter(op Op, name string) error {
	d.mu.Lock()
	d.init()
	d.counts[op]++
	hook := d.hook
	d.mu.Unlock()
	if hook != nil {
		if err := hook(op, name); err != nil {
			return err
		}
	}
	d.mu.Lock()
	return nil
}

// Create makes a file.
func (d *Disk) Create(name string) (journal.File, error) {
	if err := d.enter(OpCreate, name); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	if d.names[name] != nil {
		return nil, fs.ErrExist
	}
	f := &inode{name: name}
	d.names[name] = f
	d.changes = append(d.changes, change{to: name, ino: f})
	return &file{d, f, d.boot}, nil
}

// Open opens a file.
func (d *Disk) Open(name string) (journal.File, error) {
	if err := d.enter(OpOpen, name); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	if d.names[name] == nil {
		return nil, fs.ErrNotExist
	}
	return &file{d, d.names[name], d.boot}, nil
}

// Remove takes a name away.
func (d *Disk) Remove(name string) error {
	if err := d.enter(OpRemove, name); err != nil {
		return err
	}
	defer d.mu.Unlock()
	if d.names[name] == nil {
		return fs.ErrNotExist
	}
	d.changes = append(d.changes, change{from: name, ino: d.names[name]})
	delete(d.names, name)
	return nil
}

// Rename moves a name over another.
func (d *Disk) Rename(from, to string) error {
	if err := d.enter(OpRename, from); err != nil {
		return err
	}
	defer d.mu.Unlock()
	f := d.names[from]
	if f == nil {
		return fs.ErrNotExist
	}
	f.name = to
	d.names[to] = f
	delete(d.names, from)
	d.changes = append(d.changes, change{from, to, f})
	return nil
}

// List lists the files.
func (d *Disk) List() ([]string, error) {
	if err := d.enter(OpList, ""); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.names)), nil
}

// SyncDir makes all names durable.
func (d *Disk) SyncDir() error {
	if err := d.enter(OpSyncDir, ""); err != nil {
		return err
	}
	defer d.mu.Unlock()
	d.durable, d.changes = maps.Clone(d.names), nil
	return nil
}

// Free is what is left of the capacity.
func (d *Disk) Free() (int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.capacity == 0 {
		return math.MaxInt64, nil
	}
	return max(d.capacity-d.used(), 0), nil
}

// Close does nothing: a disk can be opened again.
func (d *Disk) Close() error { return nil }

// Kill ends the process that uses the disk: its files are dead, nothing is lost.
func (d *Disk) Kill() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.boot++
}

// Crash cuts the power.
func (d *Disk) Crash(seed uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.init()
	r := rand.New(rand.NewPCG(seed, 0))
	for _, c := range d.changes {
		if r.IntN(2) == 0 {
			continue
		}
		if d.durable[c.from] == c.ino {
			delete(d.durable, c.from)
		}
		if c.to != "" {
			d.durable[c.to] = c.ino
		}
	}
	d.names, d.changes = maps.Clone(d.durable), nil
	d.boot++
	seen := map[*inode]bool{}
	for _, name := range slices.Sorted(maps.Keys(d.names)) {
		if f := d.names[name]; !seen[f] {
			seen[f] = true
			f.crash(r)
			f.name = name
		}
	}
}

func (f *inode) crash(r *rand.Rand) {
	for _, i := range r.Perm(len(f.writes)) {
		w := f.writes[i]
		n := len(w.data)
		switch fate := r.IntN(9); {
		case fate < 3: // lost
		case fate < 6 || n == 0:
			f.synced = w.apply(f.synced)
		case fate == 6:
			f.synced = write{w.off, w.data[:r.IntN(n)]}.apply(f.synced)
		case fate == 7:
			f.synced = w.sectors(r, f.synced, true)
		default:
			f.synced = w.sectors(r, f.synced, false)
		}
	}
	f.data, f.writes, f.alloc = slices.Clone(f.synced), nil, 0
}

const sector = 512

// sectors applies a write of which each sector arrives, or arrives as garbage, or does
// not. A sector that held these very bytes still does.
func (w write) sectors(r *rand.Rand, b []byte, allGarbage bool) []byte {
	for from := 0; from < len(w.data); {
		to := min(len(w.data), from+sector-int(w.off+int64(from))%sector)
		part := write{w.off + int64(from), w.data[from:to]}
		fate := r.IntN(8)
		switch {
		case part.there(b) || fate < 2 && !allGarbage:
		case fate == 2 || allGarbage:
			part.data = make([]byte, to-from)
			for i := range part.data {
				part.data[i] = byte(r.Uint32())
			}
			fallthrough
		default:
			b = part.apply(b)
		}
		from = to
	}
	return b
}

func (w write) there(b []byte) bool {
	end := int(w.off) + len(w.data)
	return end <= len(b) && bytes.Equal(b[w.off:end], w.data)
}

func (w write) apply(b []byte) []byte {
	end := int(w.off) + len(w.data)
	if w.data == nil {
		b = b[:min(len(b), end)]
	}
	if end > len(b) {
		b = append(b, make([]byte, end-len(b))...)
	}
	copy(b[w.off:], w.data)
	return b
}

type file struct {
	d    *Disk
	f    *inode
	boot int
}

// enter is Disk.enter for a file that was opened since the last crash.
func (f *file) enter(op Op) error {
	f.d.mu.Lock()
	name, alive := f.f.name, f.boot == f.d.boot
	f.d.mu.Unlock()
	if !alive {
		return ErrCrashed
	}
	return f.d.enter(op, name)
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if err := f.enter(OpRead); err != nil {
		return 0, err
	}
	defer f.d.mu.Unlock()
	if off >= int64(len(f.f.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.f.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	err := f.enter(OpWrite)
	if errors.Is(err, ErrCrashed) {
		return 0, err
	}
	if err != nil {
		f.d.mu.Lock()
		p = p[:len(p)/2]
	}
	defer f.d.mu.Unlock()
	if !f.fits(off + int64(len(p))) {
		return 0, syscall.ENOSPC
	}
	w := write{off, append([]byte{}, p...)}
	f.f.data = w.apply(f.f.data)
	f.f.writes = append(f.f.writes, w)
	return len(p), err
}

func (f *file) fits(end int64) bool {
	more := end - f.f.space()
	return more <= 0 || f.d.capacity == 0 || f.d.used()+more <= f.d.capacity
}

func (f *file) Allocate(end int64) error {
	if err := f.enter(OpAllocate); err != nil {
		return err
	}
	defer f.d.mu.Unlock()
	if !f.fits(end) {
		return syscall.ENOSPC
	}
	f.f.alloc = max(f.f.alloc, end)
	return nil
}

func (f *file) Truncate(size int64) error {
	if err := f.enter(OpTruncate); err != nil {
		return err
	}
	defer f.d.mu.Unlock()
	w := write{off: size}
	f.f.data = w.apply(f.f.data)
	f.f.alloc = 0
	f.f.writes = append(f.f.writes, w)
	return nil
}

func (f *file) Sync() error {
	err := f.enter(OpSync)
	if errors.Is(err, ErrCrashed) {
		return err
	}
	if err != nil {
		f.d.mu.Lock()
		defer f.d.mu.Unlock()
		f.f.writes = nil // still to be read, never on disk
		return err
	}
	defer f.d.mu.Unlock()
	for _, w := range f.f.writes {
		f.f.synced = w.apply(f.f.synced)
	}
	f.f.writes = nil
	return nil
}

func (f *file) Size() (int64, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.boot != f.d.boot {
		return 0, ErrCrashed
	}
	return int64(len(f.f.data)), nil
}

func (f *file) Close() error { return nil }
