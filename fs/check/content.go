package check

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"kist/fs/tree"
)

// mapped is what is known of an extent map.
type mapped struct {
	end uint64 // of the last extent
	bad uint64 // pieces that cannot be had
	why string // of the first of these
	cut bool   // a page of the map cannot be had
}

// content checks the extents of a file: each within its size, and each piece
// there. Files may share maps and pieces; what was verified once is not again.
func (c *checker) content(ctx context.Context, in *tree.Inode, path string) error {
	if in.Extents.Empty() {
		return nil
	}
	ptr, paged := in.Extents.Pointer()
	m, known := c.extents[ptr.Fingerprint]
	if !paged || !known {
		var err error
		m, err = c.mapped(ctx, in)
		if errors.Is(err, errShared) {
			c.found(KindContent, in.Ino, path, "its map shares "+err.Error()+"; it was not read")
			return nil
		}
		if err != nil {
			return err
		}
		if paged {
			c.extents[ptr.Fingerprint] = m
		}
	}
	if m.end > in.Size {
		c.found(KindInode, in.Ino, path, "content beyond its size")
	}
	if m.cut {
		c.found(KindContent, in.Ino, path, "a part of its map cannot be read")
	}
	if m.bad > 0 {
		c.found(KindContent, in.Ino, path, fmt.Sprintf("%d pieces cannot be read: %s", m.bad, m.why))
	}
	return nil
}

func (c *checker) mapped(ctx context.Context, in *tree.Inode) (m mapped, err error) {
	drop := func() {}
	if _, paged := in.Extents.Pointer(); paged {
		if drop, err = dropExtents(in); err != nil {
			return m, err
		}
		defer drop()
	}
	whole, err := scan(in.Extents, c.counted(ctx), drop, func(key string, x tree.Extent) error {
		m.end = tree.KeyUint(key) + x.Len
		blob, _ := x.Resolve()
		ptr, _ := blob.Pointer()
		why, err := c.chunk(ctx, ptr)
		if why != "" {
			if m.bad++; m.why == "" {
				m.why = why
			}
		}
		return err
	})
	m.cut = !whole
	return m, err
}

// dropExtents makes a function that takes the map's pages from memory. Evict
// finds them through a directory, so that one is made.
func dropExtents(in *tree.Inode) (func(), error) {
	var d tree.Dir
	err := d.Set(tree.NewEdit(), "x", tree.Entry{Inode: &tree.Inode{Ino: in.Ino, Type: tree.TypeFile, Nlink: 1, Size: in.Size, Extents: in.Extents}})
	return func() { tree.Evict(onlyDir(d), 0) }, err
}

// chunk verifies a piece of content as far as the run goes. why is empty if it
// is as it should be.
func (c *checker) chunk(ctx context.Context, ptr tree.Pointer) (why string, err error) {
	end := ptr.Offset + ptr.SealedLen
	if !c.cfg.ReadData {
		c.report.Chunks++
		return c.packs.reach(ctx, ptr.Pack, end)
	}
	sum := sha256.Sum256(tree.AppendPointer(nil, ptr))
	id := [16]byte(sum[:16])
	if _, known := c.chunks[id]; known {
		return "", nil
	}
	if why, known := c.bad[id]; known {
		return why, nil
	}
	c.packs.refer(ptr.Pack, end)
	_, err = c.reader.Fetch(ctx, ptr)
	if away(err) {
		return "", err
	}
	if err != nil {
		c.bad[id] = "a piece " + which(reason(err)) + " (" + atPack(ptr.Pack) + ")"
		return c.bad[id], nil
	}
	c.chunks[id] = struct{}{}
	c.report.Chunks++
	return "", nil
}
