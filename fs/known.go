package fs

import (
	"bytes"
	"context"
	"errors"

	"kist/fs/log"
	"kist/fs/tree"
)

// known says which operations of a former device the log contains, although its journal
// does not know of that: the journal is yesterday's, or that of a copy that went on by
// itself. A commit says up to which operation it goes, but not whether these operations
// are the same; so the tree is asked. A journal is one line: what one operation has left
// behind proves all before it. The others are left out if what they would do is there
// already, and kept if that cannot be told: at worst a file stands there twice.
type known struct {
	v, was *Vault
	last   uint64 // all operations up to here are contained
	all    bool   // and that is all that can be known

	// What the device's first commit that the journal does not know has done.
	recs    map[Ino]*tree.Inode // inodes made or changed, as it has left them
	names   map[place]Ino       // names given
	removed map[place]Ino       // names taken
	same    map[Ino]bool        // answers of sameContent
}

// knownOf looks at the first commit behind the fork: no later one can tell more.
func (v *Vault) knownOf(ctx context.Context, f fork, was *Vault) (*known, error) {
	k := &known{v: v, was: was, last: f.row.Op, all: f.next == nil,
		recs: map[Ino]*tree.Inode{}, names: map[place]Ino{}, removed: map[place]Ino{}, same: map[Ino]bool{}}
	if k.all {
		return k, nil
	}
	before, err := v.commitBefore(ctx, f.next)
	if err != nil {
		return nil, err
	}
	if err := k.look(ctx, before, f.next); err != nil {
		return nil, err
	}
	for _, o := range was.ops {
		rec := k.recs[o.Ino]
		if rec != nil && o.N > 0 && rec.VerDev == was.number && rec.VerOp == o.N && rec.Ctime == o.Time {
			k.last = max(k.last, o.N)
		}
	}
	return k, nil
}

func (v *Vault) commitBefore(ctx context.Context, c *log.Commit) (*log.Commit, error) {
	for seq := c.Seq - 1; ; seq-- { // genesis is never the device's own
		before, err := v.log.At(ctx, seq)
		if before != nil || err != nil {
			return before, err
		}
	}
}

func (k *known) look(ctx context.Context, from, to *log.Commit) error {
	a, err := tree.ParseState(from.Root)
	if err != nil {
		return err
	}
	b, err := tree.ParseState(to.Root)
	if err != nil {
		return err
	}
	load := func(m *tree.Miss) error { return k.v.fill(ctx, m) }
	return tree.Diff(a, b, load, func(c tree.Change) error {
		at := place{c.Parent, c.Name}
		if !c.Table && c.Old != nil && (c.New == nil || c.New.Ino != c.Old.Ino) {
			k.removed[at] = c.Old.Ino
		}
		if c.New == nil {
			return nil
		}
		fresh := c.Old == nil || c.Old.Ino != c.New.Ino
		k.see(at, *c.New, fresh && !c.Table)
		if fresh && c.New.Type == tree.TypeDir {
			return k.below(load, c.New.Inode)
		}
		return nil
	})
}

func (k *known) see(at place, e tree.Entry, named bool) {
	if named {
		k.names[at] = e.Ino
	}
	if !e.Linked {
		k.recs[e.Ino] = e.Inode
	}
}

// below sees everything in a directory that was made or moved, which a Diff leaves out.
func (k *known) below(load func(*tree.Miss) error, dir *tree.Inode) error {
	var inner []*tree.Inode
	err := tree.Load(load, func() error {
		inner = inner[:0]
		return dir.Dir.Scan("", func(name string, e tree.Entry) bool {
			if k.see(place{dir.Ino, name}, e, true); e.Type == tree.TypeDir {
				inner = append(inner, e.Inode)
			}
			return true
		})
	})
	for _, d := range inner {
		if err == nil {
			err = k.below(load, d)
		}
	}
	return err
}

// upTo reports whether the first of some operations is one of those that must be
// contained. One that a rebase has made has no number: the next one that has counts.
func (k *known) upTo(ops []*op) bool {
	if ops[0].N > 0 {
		return ops[0].N <= k.last
	}
	for _, o := range ops {
		if o.N > 0 {
			return o.N-1 <= k.last
		}
	}
	return false
}

// holds reports whether what an operation would do is there already.
func (k *known) holds(ctx context.Context, o *op) (bool, error) {
	if k.all {
		return false, nil
	}
	switch o.Kind {
	case opCreate:
		return k.made(o)
	case opPut:
		if rec := k.recs[o.Ino]; rec != nil && k.names[o.To] == o.Ino {
			return k.sameContent(ctx, rec)
		}
		return false, nil
	case opLink, opRename:
		return k.names[o.To] == o.Ino, nil
	case opExchange:
		return k.names[o.To] == o.Ino && k.names[o.At] == o.ToIno, nil
	case opUnlink:
		return k.removed[o.At] == o.Ino, nil
	}
	rec := k.recs[o.Ino]
	if rec == nil {
		return false, nil
	}
	if o.Kind == opWrite || o.Kind == opPunch || o.Kind == opAttr && o.Mask&SetSize != 0 {
		if o.Kind == opWrite && rec.Type == tree.TypeFile {
			if same, err := k.sameExtent(ctx, rec, extentAt{o.Off, tree.Extent{Len: o.Len, Blob: o.Blob}}); same || err != nil {
				return same, err
			}
		}
		return k.sameContent(ctx, rec)
	}
	// Of attributes, which are never kept twice, the later ones stand.
	return rec.VerDev == k.was.number && !earlier(rec.Ctime, o.Time), nil
}

func earlier(a, b tree.Time) bool { return a.Sec < b.Sec || a.Sec == b.Sec && a.Nsec < b.Nsec }

// made reports whether the inode with the number of one that was made here is that one:
// it has the name with which ours was made, or the one that it has in the end.
func (k *known) made(o *op) (bool, error) {
	rec := k.recs[o.Ino]
	if rec == nil {
		return false, nil
	}
	end, ok := k.was.w.where[o.Ino]
	if k.names[o.To] != o.Ino && !(ok && end.Parent != 0 && k.names[end] == o.Ino) {
		return false, nil
	}
	ours, err := decodeRec(o.Ino, o.Rec)
	return err == nil && ours.Type == rec.Type && ours.Target == rec.Target, err
}

// sameContent reports whether a file has all bytes that were written to ours, in the same
// places: then nothing is lost if the log's version stands.
func (k *known) sameContent(ctx context.Context, rec *tree.Inode) (bool, error) {
	if same, asked := k.same[rec.Ino]; asked {
		return same, nil
	}
	load := func(m *tree.Miss) error { return k.v.fill(ctx, m) }
	var xs []extentAt
	err := tree.Load(load, func() error {
		ours, err := k.was.w.get(rec.Ino)
		if err != nil {
			return err
		}
		xs = xs[:0]
		return ours.Extents.Scan("", func(key string, x tree.Extent) bool {
			if at := (extentAt{tree.KeyUint(key), x}); pendingBlob(at) {
				xs = append(xs, at)
			}
			return true
		})
	})
	if errors.Is(err, errNoInode) {
		err = nil // removed in the end
	}
	same := rec.Type == tree.TypeFile
	for _, x := range xs {
		if !same || err != nil {
			break
		}
		same, err = k.sameExtent(ctx, rec, x)
	}
	k.same[rec.Ino] = same
	return same, err
}

// sameExtent reports whether a file has the bytes of a piece of ours in the same place.
func (k *known) sameExtent(ctx context.Context, rec *tree.Inode, x extentAt) (bool, error) {
	if rec.Size < x.off+x.Len {
		return false, nil
	}
	ours, err := k.was.gather(ctx, []extentAt{x})
	if err != nil {
		return false, err
	}
	var segs []segment
	load := func(m *tree.Miss) error { return k.v.fill(ctx, m) }
	if err := tree.Load(load, func() error { segs, err = segments(rec, x.off, x.Len); return err }); err != nil {
		return false, err
	}
	theirs := make([]byte, x.Len)
	if _, err := k.v.readSegments(ctx, segs, theirs); err != nil {
		return false, err
	}
	return bytes.Equal(ours, theirs), nil
}
