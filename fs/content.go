package fs

import (
	"kist/fs/tree"
)

// chunkSize is the fixed grid on which content is cut: 1 MiB.
const chunkSize = 1 << 20

// segment is a stretch of a file as read: bytes of a blob, or a hole where blob is nil.
type segment struct {
	off  uint64
	len  uint64
	at   uint32
	blob *tree.Blob
	mem  []byte // the bytes themselves, where they are in memory already
}

// spill turns inline content into an extent, so that it can be changed in place.
func (w *world) spill(n *tree.Inode) error {
	if len(n.Inline) == 0 {
		return nil
	}
	data := n.Inline
	n.Inline = nil
	w.dirty[n.Ino] = struct{}{}
	b := tree.NewBlob(uint32(len(data)), &local{data: data})
	return n.Extents.Set(w.edit, tree.Key(0), tree.Extent{Len: uint64(len(data)), Blob: b})
}

// overlapping returns the extents that touch [off, off+n), with their offsets.
// It reads every page that a change of that range will touch.
func overlapping(m tree.Extents, off, n uint64) ([]extentAt, error) {
	from := uint64(0)
	if off >= chunkSize {
		from = off - chunkSize + 1
	}
	end := off + n
	if end < off {
		end = ^uint64(0)
	}
	var out []extentAt
	err := m.Scan(tree.Key(from), func(key string, x tree.Extent) bool {
		o := tree.KeyUint(key)
		if o >= end {
			return false
		}
		if o+x.Len > off {
			out = append(out, extentAt{o, x})
		}
		return true
	})
	return out, err
}

type extentAt struct {
	off uint64
	tree.Extent
}

// punch makes [off, off+n) a hole; the size stays.
func (w *world) punch(rec *tree.Inode, off, n uint64) error {
	if n == 0 {
		return nil
	}
	old, err := overlapping(rec.Extents, off, n)
	if err != nil {
		return err
	}
	end := off + n
	if end < off {
		end = ^uint64(0)
	}
	for _, x := range old {
		if x.off < off {
			left := x.Extent
			left.Len = off - x.off
			if err := rec.Extents.Set(w.edit, tree.Key(x.off), left); err != nil {
				return err
			}
		} else if _, err := rec.Extents.Delete(w.edit, tree.Key(x.off)); err != nil {
			return err
		}
		if x.off+x.Len > end {
			cut := end - x.off
			right := tree.Extent{Len: x.Len - cut, At: x.At + uint32(cut), Blob: x.Blob}
			if err := rec.Extents.Set(w.edit, tree.Key(end), right); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *world) truncate(rec *tree.Inode, size uint64) error {
	if size < rec.Size {
		if len(rec.Inline) > 0 {
			rec.Inline = rec.Inline[:size:size]
		} else if err := w.punch(rec, size, rec.Size-size); err != nil {
			return err
		}
	} else if size > rec.Size {
		if err := w.spill(rec); err != nil {
			return err
		}
	}
	rec.Size = size
	return nil
}

func (w *world) writeContent(rec *tree.Inode, o *op) error {
	if _, err := overlapping(rec.Extents, o.Off, o.Len); err != nil {
		return err // a page is missing: nothing has been changed
	}
	if err := w.spill(rec); err != nil {
		return err
	}
	if err := w.punch(rec, o.Off, o.Len); err != nil {
		return err
	}
	// On the grid of chunks, so that each window can be packed by itself.
	for done := uint64(0); done < o.Len; {
		n := min(o.Len-done, chunkSize-(o.Off+done)%chunkSize)
		x := tree.Extent{Len: n, At: uint32(done), Blob: o.Blob}
		if err := rec.Extents.Set(w.edit, tree.Key(o.Off+done), x); err != nil {
			return err
		}
		done += n
	}
	rec.Size = max(rec.Size, o.Off+o.Len)
	return nil
}

// segments describes [off, off+n) of a file, holes included, in order.
func segments(rec *tree.Inode, off, n uint64) ([]segment, error) {
	if off >= rec.Size {
		return nil, nil
	}
	end := min(rec.Size, off+n)
	if len(rec.Inline) > 0 {
		return []segment{{off: off, len: end - off, mem: rec.Inline[off:end]}}, nil
	}
	xs, err := overlapping(rec.Extents, off, end-off)
	if err != nil {
		return nil, err
	}
	var out []segment
	pos := off
	for _, x := range xs {
		if x.off > pos {
			out = append(out, segment{off: pos, len: x.off - pos})
			pos = x.off
		}
		stop := min(x.off+x.Len, end)
		blob, at := x.Resolve()
		s := segment{off: pos, len: stop - pos, at: at + uint32(pos-x.off), blob: blob}
		if l, ok := blob.Local().(*local); ok && l.data != nil {
			s.mem = l.data[s.at : uint64(s.at)+s.len]
		}
		out = append(out, s)
		pos = stop
	}
	if pos < end {
		out = append(out, segment{off: pos, len: end - pos})
	}
	return out, nil
}

// allocated counts the bytes of content that are not holes.
func allocated(rec *tree.Inode) (uint64, error) {
	n := uint64(len(rec.Inline))
	err := rec.Extents.Scan("", func(_ string, x tree.Extent) bool { n += x.Len; return true })
	return n, err
}
