package tree

import "encoding/binary"

// DirCodec is the codec of Dir.
type DirCodec struct{}

// ExtentCodec is the codec of Extents.
type ExtentCodec struct{}

// TableCodec is the codec of Table.
type TableCodec struct{}

const (
	tagRecord uint8 = 0
	tagLinked uint8 = 1

	extentSize = 8 + 4 + 4 + PointerSize
	// maxEmbedded is the size of the largest extent map that stands in its record.
	maxEmbedded = 512
)

func (DirCodec) nodeKind() uint8                { return KindDir }
func (DirCodec) keyOK(key string) bool          { return nameOK(key) }
func (DirCodec) keySize(key string) int         { return 1 + len(key) }
func (DirCodec) rootOK(level uint8, n int) bool { return true }

func (DirCodec) follows(key string, _ Entry, next string) bool { return key < next }

func (DirCodec) appendKey(dst []byte, key string) []byte {
	return append(append(dst, byte(len(key))), key...)
}

func (DirCodec) parseKey(r *reader) string { return string(r.take(int(r.u8()))) }

func (DirCodec) valid(_ string, v Entry) bool {
	if v.Linked {
		return v.Inode == nil && v.linkOK()
	}
	return v.Inode != nil && v.Inode.Nlink == 1 && v.Inode.ok()
}

func (v Entry) linkOK() bool {
	return v.Ino > 0 && v.Ino <= MaxIno && v.Type >= TypeFile && v.Type <= TypeBlock && v.Type != TypeDir
}

// complete makes Ino and Type those of the record.
func (DirCodec) complete(v Entry) Entry {
	if v.Inode != nil {
		v.Ino, v.Type = v.Inode.Ino, v.Inode.Type
	}
	return v
}

func (DirCodec) appendValue(dst []byte, v Entry, w *writer) []byte {
	if v.Linked {
		dst = binary.BigEndian.AppendUint64(append(dst, tagLinked), v.Ino)
		return append(dst, byte(v.Type))
	}
	return v.Inode.append(append(dst, tagRecord), w)
}

func (c DirCodec) parseValue(r *reader, _ string) Entry {
	switch r.u8() {
	case tagRecord:
		return c.complete(Entry{Inode: r.inode()})
	case tagLinked:
		return Entry{Linked: true, Ino: r.u64(), Type: Type(r.u8())}
	}
	r.bad = true
	return Entry{}
}

func (DirCodec) valueSize(v Entry) int {
	if v.Linked {
		return 1 + 8 + 1
	}
	return 1 + v.Inode.size()
}

func (DirCodec) inode(v Entry) *Inode { return v.Inode }

func (ExtentCodec) nodeKind() uint8                         { return KindExtents }
func (ExtentCodec) keyOK(key string) bool                   { return len(key) == 8 }
func (ExtentCodec) keySize(string) int                      { return 8 }
func (ExtentCodec) appendKey(dst []byte, key string) []byte { return append(dst, key...) }
func (ExtentCodec) parseKey(r *reader) string               { return string(r.take(8)) }
func (ExtentCodec) valueSize(Extent) int                    { return extentSize - 8 }
func (ExtentCodec) inode(Extent) *Inode                     { return nil }
func (ExtentCodec) rootOK(level uint8, n int) bool          { return level > 0 || n > maxEmbedded }

func (ExtentCodec) follows(key string, v Extent, next string) bool {
	return KeyUint(key)+v.Len <= KeyUint(next)
}

func (ExtentCodec) complete(v Extent) Extent { return v }

func (ExtentCodec) appendValue(dst []byte, v Extent, w *writer) []byte {
	blob, at := v.Resolve()
	dst = binary.BigEndian.AppendUint32(dst, uint32(v.Len))
	dst = binary.BigEndian.AppendUint32(dst, at)
	return w.blob(dst, blob, uint64(at)+v.Len)
}

func (ExtentCodec) parseValue(r *reader, _ string) Extent {
	n, at := r.u32(), r.u32()
	return Extent{Len: uint64(n), At: at, Blob: StoredBlob(r.pointer(KindChunk))}
}

func (ExtentCodec) valid(key string, v Extent) bool {
	return v.Blob != nil && v.Len > 0 && v.Len <= MaxChunk &&
		uint64(v.At)+v.Len <= uint64(v.Blob.Len()) && KeyUint(key) <= MaxFileSize-v.Len
}

func (TableCodec) nodeKind() uint8                                { return KindTable }
func (TableCodec) keyOK(key string) bool                          { return len(key) == 8 }
func (TableCodec) keySize(string) int                             { return 8 }
func (TableCodec) appendKey(dst []byte, key string) []byte        { return append(dst, key...) }
func (TableCodec) parseKey(r *reader) string                      { return string(r.take(8)) }
func (TableCodec) valueSize(v *Inode) int                         { return v.size() }
func (TableCodec) inode(v *Inode) *Inode                          { return v }
func (TableCodec) rootOK(uint8, int) bool                         { return true }
func (TableCodec) follows(key string, _ *Inode, next string) bool { return key < next }

func (TableCodec) complete(v *Inode) *Inode { return v }

func (TableCodec) appendValue(dst []byte, v *Inode, w *writer) []byte { return v.append(dst, w) }

func (TableCodec) parseValue(r *reader, _ string) *Inode { return r.inode() }

func (TableCodec) valid(key string, v *Inode) bool {
	return v != nil && v.Type != TypeDir && KeyUint(key) == v.Ino && v.ok()
}
