package fs

import (
	"encoding/binary"
	"errors"
	"fmt"

	"kist/fs/tree"
)

// The journal's record kinds. The journal itself does not interpret them.
const (
	recOp     uint8 = 1 // an operation: one change of the tree
	recDir    uint8 = 2 // where a directory stands and what it looks like, so that it can be made again
	recBase   uint8 = 3 // from here on operations were made on top of this commit
	recCommit uint8 = 4 // a signed commit, journalled before it is first sent
)

// opKind says what an operation did. The numbers are part of the journal format.
type opKind uint8

const (
	opCreate   opKind = 1  // inode Ino with record Rec appeared at To; To.Parent 0: without a name (O_TMPFILE)
	opLink     opKind = 2  // Ino got the further name To
	opUnlink   opKind = 3  // the name At was taken from Ino; directories too
	opRename   opKind = 4  // Ino moved from At to To, replacing ToIno if that is not 0
	opExchange opKind = 5  // Ino at At and ToIno at To changed places
	opAttr     opKind = 6  // the attributes in Mask were set
	opSetXattr opKind = 7  // xattr Name was set to Value
	opDelXattr opKind = 8  // xattr Name was removed
	opWrite    opKind = 9  // Len bytes of the record's payload were written at Off
	opPunch    opKind = 10 // [Off, Off+Len) became a hole
	opKindMax         = opPunch
)

// Bits of op.Flags.
const (
	flagAppend   uint8 = 1 // the write was an append; Off is where it landed
	flagKillPriv uint8 = 2 // suid and sgid were cleared
	flagChunk    uint8 = 4 // the payload is a full chunk, sealed as the blob that will be uploaded
	flagsAll           = flagAppend | flagKillPriv | flagChunk
)

// place is a name in a directory. Parent 0 means: in no directory.
type place struct {
	Parent Ino
	Name   string
}

// version names the operation that last changed an inode.
type version struct {
	Dev uint16
	Op  uint64
}

// op is one change of the tree, recorded as its effect: resolved numbers, names and
// times, so that applying it anywhere needs no clock, no caller and no choice.
// Fields a kind does not use are zero; decodeOp refuses anything else only where
// it would change meaning, the record as a whole being authenticated by the journal.
type op struct {
	Kind  opKind
	Flags uint8
	N     uint64    // the journal's record number; not encoded in the record
	Time  tree.Time // what the operation set as ctime, and as mtime where it sets one
	Ino   Ino
	Seen  version // the subject's version before the operation
	At    place   // where the subject stood; Parent 0 for inodes of the inode table

	To     place
	ToIno  Ino // what stood at To before
	ToSeen version

	Mask uint32 // opAttr: which of the following were set
	Mode uint32
	Uid  uint32
	Gid  uint32
	Size uint64
	Atim tree.Time
	Mtim tree.Time

	Off uint64 // opWrite, opPunch
	Len uint64

	Name  string // opSetXattr, opDelXattr
	Value []byte
	Rec   []byte // opCreate: the inode as it was made, see encodeRec

	Blob *tree.Blob  // opWrite: the payload, in memory only; its key material is in Chunk
	put  *tree.Inode // opPut, and opCreate of what had been removed: as it was, in memory only
	// copyOf is, for what a rebase makes, the file of which this is the conflict copy.
	copyOf Ino
	// Chunk is, for flagChunk, what opens the payload: key, codec, plaintext length.
	Chunk chunkKey
}

// chunkKey opens a chunk that the journal keeps as the sealed blob.
type chunkKey struct {
	Key         [32]byte
	Fingerprint [32]byte
	Codec       uint8
	PlainLen    uint32
	SealedLen   uint32
}

var errOpDecode = errors.New("fs: a journal record does not decode")

type encoder struct{ b []byte }

func (e *encoder) u8(v uint8)   { e.b = append(e.b, v) }
func (e *encoder) u16(v uint16) { e.b = binary.BigEndian.AppendUint16(e.b, v) }
func (e *encoder) u32(v uint32) { e.b = binary.BigEndian.AppendUint32(e.b, v) }
func (e *encoder) u64(v uint64) { e.b = binary.BigEndian.AppendUint64(e.b, v) }
func (e *encoder) bytes(v []byte) {
	e.u32(uint32(len(v)))
	e.b = append(e.b, v...)
}
func (e *encoder) time(t tree.Time) { e.u64(uint64(t.Sec)); e.u32(t.Nsec) }
func (e *encoder) place(p place)    { e.u64(p.Parent); e.bytes([]byte(p.Name)) }
func (e *encoder) version(v version) {
	e.u16(v.Dev)
	e.u64(v.Op)
}

type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) take(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.bad, d.b = true, nil
		return make([]byte, min(max(n, 0), 64))
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}
func (d *decoder) u8() uint8   { return d.take(1)[0] }
func (d *decoder) u16() uint16 { return binary.BigEndian.Uint16(d.take(2)) }
func (d *decoder) u32() uint32 { return binary.BigEndian.Uint32(d.take(4)) }
func (d *decoder) u64() uint64 { return binary.BigEndian.Uint64(d.take(8)) }
func (d *decoder) bytes() []byte {
	n := d.u32()
	if uint64(n) > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return nil
	}
	return append([]byte(nil), d.take(int(n))...)
}
func (d *decoder) time() tree.Time {
	t := tree.Time{Sec: int64(d.u64()), Nsec: d.u32()}
	if t.Nsec >= 1e9 {
		d.bad = true
	}
	return t
}
func (d *decoder) place() place     { return place{d.u64(), string(d.bytes())} }
func (d *decoder) version() version { return version{d.u16(), d.u64()} }

// encode gives the record's meta part: the same fields in the same order for every
// kind, about 190 bytes and the names. See docs/FORMAT.md, chapter «Operations».
func (o *op) encode() []byte {
	e := encoder{make([]byte, 0, 256+len(o.Rec)+len(o.Value))}
	e.u8(uint8(o.Kind))
	e.u8(o.Flags)
	e.time(o.Time)
	e.u64(o.Ino)
	e.version(o.Seen)
	e.place(o.At)
	e.place(o.To)
	e.u64(o.ToIno)
	e.version(o.ToSeen)
	e.u32(o.Mask)
	e.u32(o.Mode)
	e.u32(o.Uid)
	e.u32(o.Gid)
	e.u64(o.Size)
	e.time(o.Atim)
	e.time(o.Mtim)
	e.u64(o.Off)
	e.u64(o.Len)
	e.bytes([]byte(o.Name))
	e.bytes(o.Value)
	e.bytes(o.Rec)
	if o.Flags&flagChunk != 0 {
		e.b = append(e.b, o.Chunk.Key[:]...)
		e.b = append(e.b, o.Chunk.Fingerprint[:]...)
		e.u8(o.Chunk.Codec)
		e.u32(o.Chunk.PlainLen)
		e.u32(o.Chunk.SealedLen)
	}
	return e.b
}

func decodeOp(n uint64, b []byte) (*op, error) {
	d := decoder{b: b}
	o := &op{N: n, Kind: opKind(d.u8()), Flags: d.u8(), Time: d.time()}
	o.Ino, o.Seen, o.At = d.u64(), d.version(), d.place()
	o.To, o.ToIno, o.ToSeen = d.place(), d.u64(), d.version()
	o.Mask, o.Mode, o.Uid, o.Gid, o.Size = d.u32(), d.u32(), d.u32(), d.u32(), d.u64()
	o.Atim, o.Mtim = d.time(), d.time()
	o.Off, o.Len = d.u64(), d.u64()
	o.Name, o.Value, o.Rec = string(d.bytes()), d.bytes(), d.bytes()
	if o.Flags&flagChunk != 0 {
		copy(o.Chunk.Key[:], d.take(32))
		copy(o.Chunk.Fingerprint[:], d.take(32))
		o.Chunk.Codec, o.Chunk.PlainLen, o.Chunk.SealedLen = d.u8(), d.u32(), d.u32()
	}
	if d.bad || len(d.b) != 0 || o.Kind < opCreate || o.Kind > opKindMax || o.Flags&^flagsAll != 0 {
		return nil, fmt.Errorf("%w: operation %d", errOpDecode, n)
	}
	return o, nil
}

// dirRecord describes a directory: enough to make it again where it was removed elsewhere.
type dirRecord struct {
	Ino Ino
	At  place
	Rec []byte
}

func (r *dirRecord) encode() []byte {
	var e encoder
	e.u64(r.Ino)
	e.place(r.At)
	e.bytes(r.Rec)
	return e.b
}

func decodeDirRecord(b []byte) (*dirRecord, error) {
	d := decoder{b: b}
	r := &dirRecord{Ino: d.u64(), At: d.place(), Rec: d.bytes()}
	if d.bad || len(d.b) != 0 {
		return nil, fmt.Errorf("%w: description of a directory", errOpDecode)
	}
	return r, nil
}

// baseRecord names the commit that the operations after it were made on, and the
// numbers of the inodes that carrying over to it made, in their order.
type baseRecord struct {
	Seq  uint64
	Hash [32]byte
	Made []Ino
}

func (r baseRecord) encode() []byte {
	var e encoder
	e.u64(r.Seq)
	e.b = append(e.b, r.Hash[:]...)
	for _, n := range r.Made {
		e.u64(n)
	}
	return e.b
}

func decodeBaseRecord(b []byte) (baseRecord, error) {
	if len(b) < 40 || len(b)%8 != 0 {
		return baseRecord{}, fmt.Errorf("%w: base", errOpDecode)
	}
	r := baseRecord{Seq: binary.BigEndian.Uint64(b)}
	copy(r.Hash[:], b[8:])
	for b = b[40:]; len(b) > 0; b = b[8:] {
		r.Made = append(r.Made, binary.BigEndian.Uint64(b))
	}
	return r, nil
}

// encodeRec gives an inode's record without its content, for opCreate and dirRecord.
func encodeRec(n *tree.Inode) []byte {
	var e encoder
	e.u8(uint8(n.Type))
	e.u16(n.Mode)
	e.u32(n.Uid)
	e.u32(n.Gid)
	e.u32(n.Rdev)
	e.time(n.Atime)
	e.time(n.Mtime)
	e.time(n.Ctime)
	e.bytes([]byte(n.Target))
	e.u32(uint32(len(n.Xattrs)))
	for _, x := range n.Xattrs {
		e.bytes([]byte(x.Name))
		e.bytes(x.Value)
	}
	return e.b
}

func decodeRec(ino Ino, b []byte) (*tree.Inode, error) {
	d := decoder{b: b}
	n := &tree.Inode{Ino: ino, Type: tree.Type(d.u8()), Mode: d.u16(), Uid: d.u32(), Gid: d.u32(), Rdev: d.u32(), Nlink: 1}
	n.Atime, n.Mtime, n.Ctime = d.time(), d.time(), d.time()
	n.Target = string(d.bytes())
	n.Size = uint64(len(n.Target))
	for i := d.u32(); i > 0 && !d.bad; i-- {
		n.Xattrs = append(n.Xattrs, tree.Xattr{Name: string(d.bytes()), Value: d.bytes()})
	}
	if d.bad || len(d.b) != 0 {
		return nil, fmt.Errorf("%w: inode record", errOpDecode)
	}
	return n, n.Check()
}
