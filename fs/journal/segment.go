package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"kist/crypto/seal"
)

const (
	magic      = "kistjrnl"
	version    = 1
	clearSize  = 8 + 2 + 16 + 8 + 8 + 32
	headerSize = clearSize + 32 + seal.OverheadK
	frameSize  = 8 + 8 + 1 + 1 + 4 + 4
	sumSize    = sha256.Size
	rawBit     = 1
	endBit     = 2
)

var (
	errVerify = errors.New("does not verify")
	errEnd    = errors.New("end mark")
)

// header is the beginning of a segment; see docs/FORMAT.md.
type header struct {
	id     [16]byte
	number uint64
	first  uint64   // number of the first record
	run    [32]byte // running hash before it
}

func (h header) clear() []byte {
	b := make([]byte, 0, headerSize)
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint16(b, version)
	b = append(b, h.id[:]...)
	b = binary.BigEndian.AppendUint64(b, h.number)
	b = binary.BigEndian.AppendUint64(b, h.first)
	return append(b, h.run[:]...)
}

func (h header) encode(key seal.Key, vault [32]byte, segment seal.Key) []byte {
	b := h.clear()
	return append(b, seal.SealK(key, seal.LabelJournalSegment, append(vault[:], b...), segment[:])...)
}

func decodeHeader(key seal.Key, vault [32]byte, b []byte) (header, seal.Key, error) {
	var h header
	var k seal.Key
	if len(b) != headerSize {
		return h, k, errVerify
	}
	copy(h.id[:], b[10:])
	h.number = binary.BigEndian.Uint64(b[26:])
	h.first = binary.BigEndian.Uint64(b[34:])
	copy(h.run[:], b[42:])
	if !bytes.Equal(h.clear(), b[:clearSize]) || h.first == 0 {
		return h, k, errVerify
	}
	pt, err := seal.OpenK(key, seal.LabelJournalSegment, append(vault[:], b[:clearSize]...), b[clearSize:])
	if err != nil || len(pt) != len(k) {
		return h, k, errVerify
	}
	copy(k[:], pt)
	return h, k, nil
}

// frame is the clear beginning of a record. It is authenticated as
// associated data of what follows it.
type frame struct {
	n       uint64
	synced  uint64
	kind    uint8
	raw     bool
	end     bool // no record: the segment was closed in order
	meta    uint32
	payload uint32
}

func (f frame) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, f.n)
	b = binary.BigEndian.AppendUint64(b, f.synced)
	flags := byte(0)
	if f.raw {
		flags = rawBit
	}
	if f.end {
		flags |= endBit
	}
	b = append(b, f.kind, flags)
	b = binary.BigEndian.AppendUint32(b, f.meta)
	return binary.BigEndian.AppendUint32(b, f.payload)
}

func decodeFrame(b []byte) (frame, error) {
	if len(b) < frameSize {
		return frame{}, errVerify
	}
	f := frame{
		n:       binary.BigEndian.Uint64(b),
		synced:  binary.BigEndian.Uint64(b[8:]),
		kind:    b[16],
		raw:     b[17]&rawBit != 0,
		end:     b[17]&endBit != 0,
		meta:    binary.BigEndian.Uint32(b[18:]),
		payload: binary.BigEndian.Uint32(b[22:]),
	}
	if b[17]&^(rawBit|endBit) != 0 || f.raw && f.payload == 0 ||
		f.end && (f.meta > 0 || f.payload > 0 || f.kind > 0) || f.synced >= f.n ||
		f.meta > MaxMeta || f.payload > MaxPayload {
		return frame{}, errVerify
	}
	return f, nil
}

func (f frame) metaSize() int { return sumSize + int(f.meta) + seal.OverheadStream }

func (f frame) payloadSize() int {
	if f.raw || f.payload == 0 {
		return int(f.payload)
	}
	return int(f.payload) + seal.OverheadStream
}

func (f frame) size() int { return frameSize + f.metaSize() + f.payloadSize() }

// aad binds a part of a record to its segment and its frame.
func (f frame) aad(part string, segment uint64) []byte {
	b := make([]byte, 0, 4+8+frameSize)
	b = append(b, part...)
	b = binary.BigEndian.AppendUint64(b, segment)
	return f.append(b)
}

// coder seals and opens the records of one segment.
type coder struct {
	number uint64
	stream *seal.Stream
}

func (c coder) append(b []byte, f frame, sum [32]byte, meta, payload []byte) []byte {
	b = f.append(b)
	b = c.stream.Seal(b, 2*f.n, f.aad("meta", c.number), append(sum[:], meta...))
	switch {
	case f.payload == 0:
		return b
	case f.raw:
		return append(b, payload...)
	}
	return c.stream.Seal(b, 2*f.n+1, f.aad("data", c.number), payload)
}

const endSize = frameSize + sumSize + seal.OverheadStream

// endMark follows the last record of a segment that was closed in order. It
// proves that record to have been synced.
func (c coder) endMark(last uint64) []byte {
	f := frame{n: last + 1, synced: last, end: true}
	return c.append(nil, f, sha256.Sum256(nil), nil, nil)
}

// openMeta returns the payload's hash and the meta.
func (c coder) openMeta(f frame, sealed []byte) (sum [32]byte, meta []byte, err error) {
	pt, err := c.stream.Open(nil, 2*f.n, f.aad("meta", c.number), sealed)
	if err != nil || len(pt) < sumSize {
		return sum, nil, errVerify
	}
	copy(sum[:], pt)
	return sum, pt[sumSize:], nil
}

// openPayload returns the payload as it was given to Append.
func (c coder) openPayload(f frame, sum [32]byte, stored []byte) ([]byte, error) {
	payload := stored
	if !f.raw && f.payload > 0 {
		var err error
		if payload, err = c.stream.Open(nil, 2*f.n+1, f.aad("data", c.number), stored); err != nil {
			return nil, errVerify
		}
	}
	if sha256.Sum256(payload) != sum {
		return nil, errVerify
	}
	return payload, nil
}

func firstRun(id [16]byte) [32]byte { return sha256.Sum256(id[:]) }

func nextRun(run [32]byte, kind uint8, meta []byte, sum [32]byte) [32]byte {
	h := sha256.New()
	h.Write([]byte{kind})
	h.Write(meta)
	h.Write(sum[:])
	return sha256.Sum256(h.Sum(run[:]))
}

// The names of segment files. A live segment is .seg, or .dmg when damage was
// found in it; an .aside one is out of use.
const (
	extLive    = ".seg"
	extDamaged = ".dmg"
	extAside   = ".aside"
	nameNew    = "new.tmp"
	nameSpare  = "reserve"
)

func segmentName(number uint64, ext string) string { return fmt.Sprintf("%016x%s", number, ext) }

func parseName(name string) (number uint64, ext string, ok bool) {
	if len(name) < 16 {
		return 0, "", false
	}
	number, err := strconv.ParseUint(name[:16], 16, 64)
	ext = name[16:]
	if err != nil || strings.ToLower(name) != name || segmentName(number, ext) != name {
		return 0, "", false
	}
	return number, ext, ext == extLive || ext == extDamaged || ext == extAside
}
