package tree

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
)

// Change is a difference between two states: of an entry of a directory, of a
// record in the inode table (Table is set, Parent and Name are empty), or of the
// root's own record (Parent is 0). Old or New is nil where there was nothing.
// A directory whose record is the same but for its contents is not a Change.
type Change struct {
	Table    bool
	Parent   uint64
	Name     string
	Old, New *Entry
}

// Diff calls fn for each difference, directories in both states included, at a
// cost that is that of the change. Pages that both states have, and that are in
// memory for the first, are so for the second afterwards. Of a directory that is in one state only, it
// reports the entry and does not look inside. It needs load to bring in missing
// pages (fetch and Fill); without it, it returns the Miss, and what was reported
// so far will be reported again when the caller tries again.
func Diff(from, to State, load func(*Miss) error, fn func(Change) error) error {
	return DiffDirs(from, to, load, func(uint64, string, uint64) {}, fn)
}

// DiffDirs is a Diff that also tells, by into, where each directory stands that it
// looks into, before what is in it: so the way to every change is known.
func DiffDirs(from, to State, load func(*Miss) error, into func(parent uint64, name string, dir uint64), fn func(Change) error) error {
	d := differ{load: load, fn: fn, into: into, seen: map[uint64]bool{}}
	err := diffMaps(&d, from.Table, to.Table, func(_ string, a, b **Inode) error {
		if a != nil && b != nil && sameInode(*a, *b) {
			return nil
		}
		return fn(Change{Table: true, Old: tableEntry(a), New: tableEntry(b)})
	})
	if err != nil {
		return err
	}
	a := Entry{Inode: from.Root, Ino: from.Root.Ino, Type: TypeDir}
	b := Entry{Inode: to.Root, Ino: to.Root.Ino, Type: TypeDir}
	return d.entry(0, "", &a, &b)
}

// DiffDir compares what two versions of one directory hold, and looks into none of the
// directories there.
func DiffDir(from, to *Inode, load func(*Miss) error, fn func(Change) error) error {
	d := differ{load: load}
	return diffMaps(&d, from.Dir, to.Dir, func(name string, a, b *Entry) error {
		if a != nil && b != nil && sameEntry(a, b) {
			return nil
		}
		return fn(Change{Parent: to.Ino, Name: name, Old: a, New: b})
	})
}

func tableEntry(in **Inode) *Entry {
	if in == nil {
		return nil
	}
	return &Entry{Inode: *in, Ino: (*in).Ino, Type: (*in).Type}
}

type differ struct {
	load func(*Miss) error
	fn   func(Change) error
	into func(parent uint64, name string, dir uint64)
	seen map[uint64]bool
}

func (d *differ) entry(parent uint64, name string, a, b *Entry) error {
	if a == nil || b == nil || !sameEntry(a, b) {
		if err := d.fn(Change{Parent: parent, Name: name, Old: a, New: b}); err != nil {
			return err
		}
	}
	if a == nil || b == nil || a.Inode == nil || b.Inode == nil || a.Ino != b.Ino ||
		a.Type != TypeDir || b.Type != TypeDir {
		return nil
	}
	if a.Inode.Dir.Same(b.Inode.Dir) {
		b.Inode.Dir.root.adopt(a.Inode.Dir.root, atRoot, atRoot)
		return nil
	}
	// A directory has one place in a tree. One with more would be a hostile
	// writer's way to make this walk long.
	if d.seen[b.Ino] {
		return fmt.Errorf("%w: a directory in two places", ErrMalformed)
	}
	d.seen[b.Ino] = true
	d.into(parent, name, b.Ino)
	return diffMaps(d, a.Inode.Dir, b.Inode.Dir, func(name string, x, y *Entry) error {
		return d.entry(b.Ino, name, x, y)
	})
}

func sameEntry(a, b *Entry) bool {
	if a.Linked || b.Linked {
		return a.Linked == b.Linked && a.Ino == b.Ino && a.Type == b.Type
	}
	return sameInode(a.Inode, b.Inode)
}

// sameInode compares records, but not what is in a directory.
func sameInode(a, b *Inode) bool {
	return a == b || a.Ino == b.Ino && a.VerOp == b.VerOp && a.VerDev == b.VerDev &&
		a.Mode == b.Mode && a.Type == b.Type && a.Uid == b.Uid && a.Gid == b.Gid &&
		a.Rdev == b.Rdev && a.Nlink == b.Nlink && a.Size == b.Size &&
		a.Atime == b.Atime && a.Mtime == b.Mtime && a.Ctime == b.Ctime &&
		a.Target == b.Target && bytes.Equal(a.Inline, b.Inline) &&
		slices.EqualFunc(a.Xattrs, b.Xattrs, sameXattr) && sameExtents(a.Extents, b.Extents)
}

func sameXattr(a, b Xattr) bool { return a.Name == b.Name && bytes.Equal(a.Value, b.Value) }

func sameExtents(a, b Extents) bool {
	if a.Same(b) {
		return true
	}
	p, q := a.embedded(), b.embedded()
	return p != nil && q != nil && slices.Equal(p.keys, q.keys) && slices.EqualFunc(p.vals, q.vals, sameExtent)
}

func sameExtent(a, b Extent) bool {
	x, at := a.Resolve()
	y, bt := b.Resolve()
	if a.Len != b.Len || at != bt {
		return false
	}
	p, q := x.ptr.Load(), y.ptr.Load()
	return x == y || p != nil && q != nil && p.Fingerprint == q.Fingerprint
}

// cursor stands before an item of a map: an entry, or a page not looked into
// that begins with key. Below it on the stack are the pages it came through.
type cursor[V any, C Codec[V]] struct {
	stack []frame[V, C]
}

type frame[V any, C Codec[V]] struct {
	p  *page[V, C]
	at place
	i  int
}

// side is what a cursor stands before.
type side[V any, C Codec[V]] struct {
	end   bool
	key   string
	level int // of the page; -1 for an entry
	kid   *ref[V, C]
	v     *V
}

func (c *cursor[V, C]) look() (s side[V, C]) {
	for n := len(c.stack); n > 0; n = len(c.stack) {
		f := &c.stack[n-1]
		switch {
		case f.i == len(f.p.keys):
			c.stack = c.stack[:n-1]
		case f.p.level == 0:
			return side[V, C]{key: f.p.keys[f.i], level: -1, v: &f.p.vals[f.i]}
		default:
			return side[V, C]{key: f.p.keys[f.i], level: int(f.p.level) - 1, kid: f.p.kids[f.i]}
		}
	}
	return side[V, C]{end: true}
}

func (c *cursor[V, C]) next() { c.stack[len(c.stack)-1].i++ }

// enter looks into the page the cursor stands before.
func (c *cursor[V, C]) enter(d *differ) error {
	f := &c.stack[len(c.stack)-1]
	err := c.push(d, f.p.kids[f.i], f.p.below(f.at, f.i))
	if err == nil {
		c.stack[len(c.stack)-2].i++
	}
	return err
}

func (c *cursor[V, C]) push(d *differ, r *ref[V, C], at place) error {
	for {
		p, err := r.load(at)
		if err == nil {
			c.stack = append(c.stack, frame[V, C]{p: p, at: at})
			return nil
		}
		var miss *Miss
		if d.load == nil || !errors.As(err, &miss) {
			return err
		}
		if err := d.load(miss); err != nil {
			return err
		}
	}
}

// diffMaps walks two maps side by side and steps over pages they share. Of two
// different pages it looks into the higher one, or the one that begins first: the
// other may yet meet its equal.
func diffMaps[V any, C Codec[V]](d *differ, a, b Map[V, C], fn func(key string, a, b *V) error) error {
	if a.Same(b) {
		b.root.adopt(a.root, atRoot, atRoot)
		return nil
	}
	var ca, cb cursor[V, C]
	if a.root != nil {
		if err := ca.push(d, a.root, atRoot); err != nil {
			return err
		}
	}
	if b.root != nil {
		if err := cb.push(d, b.root, atRoot); err != nil {
			return err
		}
	}
	for {
		x, y := ca.look(), cb.look()
		if x.end && y.end {
			return nil
		}
		if err := diffStep(d, &ca, &cb, x, y, fn); err != nil {
			return err
		}
	}
}

func diffStep[V any, C Codec[V]](d *differ, ca, cb *cursor[V, C], x, y side[V, C], fn func(string, *V, *V) error) error {
	xFirst := y.end || !x.end && x.key < y.key
	yFirst := x.end || !y.end && y.key < x.key
	switch {
	case x.kid != nil && x.kid.same(y.kid):
		f, g := cb.stack[len(cb.stack)-1], ca.stack[len(ca.stack)-1]
		y.kid.adopt(x.kid, f.p.below(f.at, f.i), g.p.below(g.at, g.i))
		ca.next()
		cb.next()
		return nil
	case x.kid != nil && y.kid != nil:
		if x.level > y.level || x.level == y.level && !yFirst {
			return ca.enter(d)
		}
		return cb.enter(d)
	case x.kid != nil && !yFirst:
		return ca.enter(d)
	case y.kid != nil && !xFirst:
		return cb.enter(d)
	case xFirst:
		ca.next()
		return fn(x.key, x.v, nil)
	case yFirst:
		cb.next()
		return fn(y.key, nil, y.v)
	}
	ca.next()
	cb.next()
	return fn(x.key, x.v, y.v)
}
