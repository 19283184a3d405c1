package pack

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"sync/atomic"

	"kist/crypto/seal"
	"kist/fs/tree"
)

// Pack is a finished pack.
type Pack struct {
	Name  [32]byte // SHA-256 of Bytes
	Bytes []byte
}

// Row is what a footer says about a blob.
type Row struct {
	Kind        uint8
	Offset, Len uint32
	Fingerprint seal.Fingerprint
}

// Writer fills packs. It is a tree.Sink.
type Writer struct {
	footer Footer
	done   func(Pack) error
	buf    []byte
	rows   []Row
	held   atomic.Int64
}

var _ tree.Sink = (*Writer)(nil)

// NewWriter makes a Writer that gives each pack it closes to done, which owns it
// then; an error of done is returned by the call that closed the pack.
func NewWriter(f Footer, done func(Pack) error) *Writer { return &Writer{footer: f, done: done} }

// Room implements tree.Sink.
func (w *Writer) Room(n int) (rolled *[32]byte, err error) {
	if len(w.rows) == 0 || packSize(len(w.buf)+n, len(w.rows)+1) <= MaxSize {
		return nil, nil
	}
	name, err := w.Close()
	if err != nil {
		return nil, err
	}
	return &name, nil
}

// Place implements tree.Sink.
func (w *Writer) Place(kind uint8, b seal.Blob) (off uint32, err error) {
	if len(b.Sealed) < seal.MinBlob || len(b.Sealed) > seal.MaxBlob || !kindOK(kind) {
		return 0, fmt.Errorf("pack: a blob of kind %d and %d bytes does not fit the format; it was not placed", kind, len(b.Sealed))
	}
	off = uint32(len(w.buf))
	if len(w.buf) > 1<<20 && cap(w.buf)-len(w.buf) < len(b.Sealed) {
		w.buf = slices.Grow(w.buf, MaxSize-len(w.buf)) // it will be a full one
	}
	w.buf = append(w.buf, b.Sealed...)
	w.held.Store(int64(cap(w.buf)))
	w.rows = append(w.rows, Row{Kind: kind, Offset: off, Len: uint32(len(b.Sealed)), Fingerprint: b.Fingerprint})
	return off, nil
}

// Close closes the pack being filled and returns its name: zero if it is empty.
// The Writer can be used on.
func (w *Writer) Close() (name [32]byte, err error) {
	if len(w.rows) == 0 {
		return name, nil
	}
	p := Pack{Bytes: w.footer.finish(w.buf, w.rows)}
	p.Name = sha256.Sum256(p.Bytes)
	w.buf, w.rows = nil, nil
	err = w.done(p)
	w.held.Store(0)
	return p.Name, err
}

// Buffered is how many bytes the pack takes that is being filled or handed over. It may
// be called from any goroutine.
func (w *Writer) Buffered() int64 { return w.held.Load() }

func packSize(blobs, rows int) int { return seal.Padded(blobs + fixedSize + rows*rowSize) }

func kindOK(kind uint8) bool { return kind >= tree.KindChunk && kind <= tree.KindTable }

// finish appends footer and trailer to the blobs.
func (f Footer) finish(blobs []byte, rows []Row) []byte {
	sealedLen := packSize(len(blobs), len(rows)) - len(blobs) - trailerSize
	pt := make([]byte, 0, sealedLen-seal.OverheadK)
	pt = binary.BigEndian.AppendUint32(pt, uint32(len(rows)))
	for _, r := range rows {
		pt = append(append(pt, r.Fingerprint[:]...), r.Kind)
		pt = binary.BigEndian.AppendUint32(pt, r.Len)
		pt = append(pt, make([]byte, 32)...)
	}
	pt = pt[:cap(pt)] // fresh from make: zeros
	b := append(blobs, seal.SealK(f.Key, seal.LabelFooter, f.context(), pt)...)
	b = binary.BigEndian.AppendUint32(b, f.Epoch)
	b = binary.BigEndian.AppendUint32(b, uint32(sealedLen))
	return append(b, magic...)
}

func (f Footer) context() []byte { return binary.BigEndian.AppendUint32(f.Vault[:], f.Epoch) }
