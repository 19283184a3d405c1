package tree

import "encoding/binary"

// Forms in which a record holds its content.
const (
	formNone     uint8 = 0
	formInline   uint8 = 1
	formEmbedded uint8 = 2
	formExtents  uint8 = 3
	formDir      uint8 = 4
	formTarget   uint8 = 5
)

const recordSize = 88 // of what every record has, without xattrs and content

func (in *Inode) form() uint8 {
	switch {
	case len(in.Inline) > 0:
		return formInline
	case in.Extents.embedded() != nil:
		return formEmbedded
	case !in.Extents.Empty():
		return formExtents
	case !in.Dir.Empty():
		return formDir
	case in.Target != "":
		return formTarget
	}
	return formNone
}

// embedded is the only page of a map that stands in its record, else nil. A page
// that has a pointer is larger, or was cut since.
func (m Map[V, C]) embedded() *page[V, C] {
	if m.root == nil || m.root.ptr.Load() != nil {
		return nil
	}
	if p := m.root.page.Load(); p != nil && p.level == 0 && p.size <= maxEmbedded {
		return p
	}
	return nil
}

// size is the length of the record, encoded.
func (in *Inode) size() int {
	n := recordSize + xattrsSize(in.Xattrs)
	switch in.form() {
	case formInline:
		n += 2 + len(in.Inline)
	case formEmbedded:
		n += in.Extents.embedded().size
	case formExtents, formDir:
		n += PointerSize
	case formTarget:
		n += 2 + len(in.Target)
	}
	return n
}

func (t Time) append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(t.Sec))
	return binary.BigEndian.AppendUint32(dst, t.Nsec)
}

func (in *Inode) append(dst []byte, w *writer) []byte {
	form := in.form()
	be := binary.BigEndian
	dst = be.AppendUint64(dst, in.Ino)
	dst = be.AppendUint16(dst, in.VerDev)
	dst = be.AppendUint64(dst, in.VerOp)
	dst = append(dst, byte(in.Type), form)
	dst = be.AppendUint16(dst, in.Mode)
	for _, n := range [4]uint32{in.Uid, in.Gid, in.Rdev, in.Nlink} {
		dst = be.AppendUint32(dst, n)
	}
	dst = be.AppendUint64(dst, in.Size)
	dst = in.Ctime.append(in.Mtime.append(in.Atime.append(dst)))
	dst = be.AppendUint32(dst, 0)
	dst = be.AppendUint16(dst, uint16(xattrsSize(in.Xattrs)))
	for _, x := range in.Xattrs {
		dst = append(append(dst, byte(len(x.Name))), x.Name...)
		dst = append(be.AppendUint16(dst, uint16(len(x.Value))), x.Value...)
	}
	return in.appendContent(dst, form, w)
}

func (in *Inode) appendContent(dst []byte, form uint8, w *writer) []byte {
	switch form {
	case formInline:
		return append(binary.BigEndian.AppendUint16(dst, uint16(len(in.Inline))), in.Inline...)
	case formEmbedded:
		return in.Extents.embedded().append(dst, Key(in.Size), w)
	case formExtents:
		return w.node(dst, in.Extents.root, in.Extents.root.ptr.Load())
	case formDir:
		return w.node(dst, in.Dir.root, in.Dir.root.ptr.Load())
	case formTarget:
		return append(binary.BigEndian.AppendUint16(dst, uint16(len(in.Target))), in.Target...)
	}
	return dst
}

func (r *reader) time() Time { return Time{Sec: int64(r.u64()), Nsec: r.u32()} }

func (r *reader) inode() *Inode {
	in := new(Inode)
	in.Ino, in.VerDev, in.VerOp = r.u64(), r.u16(), r.u64()
	in.Type = Type(r.u8())
	form := r.u8()
	in.Mode = r.u16()
	in.Uid, in.Gid, in.Rdev, in.Nlink = r.u32(), r.u32(), r.u32(), r.u32()
	in.Size = r.u64()
	in.Atime, in.Mtime, in.Ctime = r.time(), r.time(), r.time()
	r.require(r.u32() == 0) // reserved
	in.Xattrs = r.xattrs()
	r.content(in, form)
	r.require(!r.bad && in.ok())
	return in
}

func (r *reader) xattrs() (xs []Xattr) {
	n := int(r.u16())
	r.require(n <= MaxXattrs)
	x := reader{b: r.take(n)}
	for len(x.b) > 0 && !x.bad {
		name := string(x.take(int(x.u8())))
		value := append([]byte(nil), x.take(int(x.u16()))...)
		xs = append(xs, Xattr{name, value})
	}
	r.require(!x.bad)
	return xs
}

func (r *reader) content(in *Inode, form uint8) {
	switch form {
	case formNone:
	case formInline:
		n := int(r.u16())
		r.require(n > 0 && n <= MaxInline)
		in.Inline = append([]byte(nil), r.take(n)...)
	case formEmbedded:
		in.Extents = r.embedded(in.Size)
	case formExtents:
		in.Extents = Extents{storedRef[Extent, ExtentCodec](r.pointer(KindExtents))}
	case formDir:
		in.Dir = Dir{storedRef[Entry, DirCodec](r.pointer(KindDir))}
	case formTarget:
		n := int(r.u16())
		r.require(n > 0)
		in.Target = string(r.take(n))
	default:
		r.bad = true
	}
}

func (r *reader) embedded(size uint64) Extents {
	before := len(r.b)
	p := readPage[Extent, ExtentCodec](r, place{root: true, bound: Key(size)})
	r.require(!r.bad && p.level == 0 && before-len(r.b) <= maxEmbedded)
	if r.bad {
		return Extents{}
	}
	return Extents{newRef(p)}
}
