package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// window reads a file forwards in large pieces.
type window struct {
	file File
	size int64
	at   int64
	buf  []byte
}

const windowSize = 256 << 10

func newWindow(f File) (*window, error) {
	size, err := f.Size()
	return &window{file: f, size: size}, err
}

// bytes returns n bytes at off, good until the next call.
func (w *window) bytes(off int64, n int) ([]byte, error) {
	if off < 0 || off+int64(n) > w.size {
		return nil, errVerify
	}
	if off < w.at || off+int64(n) > w.at+int64(len(w.buf)) {
		if err := w.fill(off, n); err != nil {
			return nil, err
		}
	}
	return w.buf[off-w.at:][:n], nil
}

func (w *window) fill(off int64, n int) error {
	want := int(min(max(int64(n), windowSize), w.size-off))
	if cap(w.buf) < want {
		w.buf = make([]byte, want)
	}
	got, err := w.file.ReadAt(w.buf[:want], off)
	w.at, w.buf = off, w.buf[:got]
	switch {
	case got >= n:
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return errVerify
	}
	return fmt.Errorf("reading the journal: %w", err)
}

// record is one record as it was read.
type record struct {
	frame
	sum  [32]byte
	data []byte
}

// read opens the record at off and, if asked, verifies its payload.
func (c coder) read(w *window, off int64, payload bool) (record, error) {
	b, err := w.bytes(off, frameSize)
	if err != nil {
		return record{}, err
	}
	f, err := decodeFrame(b)
	if err != nil {
		return record{}, err
	}
	if off+int64(f.size()) > w.size {
		return record{}, errVerify
	}
	off += frameSize
	if b, err = w.bytes(off, f.metaSize()); err != nil {
		return record{}, err
	}
	rec := record{frame: f}
	if rec.sum, rec.data, err = c.openMeta(f, b); err != nil || !payload {
		return rec, err
	}
	if b, err = w.bytes(off+int64(f.metaSize()), f.payloadSize()); err != nil {
		return record{}, err
	}
	_, err = c.openPayload(f, rec.sum, b)
	return rec, err
}

// walk reads records from the beginning of the segment up to limit and stops
// with errVerify at the first that is not the expected one, with errEnd at the
// end mark. It returns the
// place behind the last good record.
func (s *segment) walk(limit uint64, payload bool, fn func(Record) error) (Pos, int64, error) {
	pos, off := s.start(), int64(headerSize)
	w, err := newWindow(s.file)
	for err == nil && pos.N < limit {
		var r record
		if r, err = s.read(w, off, payload); err != nil {
			break
		}
		if r.n != pos.N+1 {
			return pos, off, errVerify
		}
		if r.end {
			return pos, off, errEnd
		}
		next := Pos{r.n, nextRun(pos.Run, r.kind, r.data, r.sum)}
		loc := Loc{r.n, s.number, uint32(off), r.meta, r.frame.payload}
		if err = fn(Record{next, r.kind, r.raw, r.data, loc}); err != nil {
			break
		}
		pos, off = next, off+int64(r.size())
	}
	return pos, off, err
}

func (s *segment) start() Pos { return Pos{s.first - 1, s.run} }

// maxTrials bounds what a crafted file can make find do.
const maxTrials = 10_000

// find looks for the next record at or behind off that verifies, byte by byte,
// with a number above n and at least so much synced when it was written.
func (c coder) find(w *window, off int64, n, synced uint64) (int64, bool) {
	for trials := 0; trials < maxTrials; off++ {
		b, err := w.bytes(off, frameSize)
		if err != nil {
			return 0, false
		}
		number := binary.BigEndian.Uint64(b)
		if number <= n || number-n > 1<<32 || binary.BigEndian.Uint64(b[8:]) < synced {
			continue
		}
		if _, err := decodeFrame(b); err != nil {
			continue
		}
		trials++
		if _, err := c.read(w, off, false); err == nil {
			return off, true
		}
	}
	return 0, false
}
