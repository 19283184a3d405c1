package fs

import (
	"errors"
	"time"

	"kist/fs/tree"
)

// merge is the table of docs/CONFLICTS.md: what becomes of one operation on theirs.
func (r *rebase) merge(o *op) error {
	n := *o // what is carried out may differ from what was recorded
	n.Ino, n.ToIno = r.as(o.Ino), r.as(o.ToIno)
	n.At, n.To = r.at(o.At), place{r.as(o.To.Parent), o.To.Name}
	switch o.Kind {
	case opCreate:
		return r.create(o, &n)
	case opLink:
		return r.link(o, &n)
	case opUnlink:
		err := r.unlink(o, &n)
		delete(r.stands, o.At)
		return err
	case opRename:
		err := r.rename(o, &n)
		delete(r.stands, o.At)
		return err
	case opExchange:
		return r.exchange(o, &n)
	case opPut:
		return r.replace(o, &n)
	}
	return r.edit(o, &n)
}

// create: a free name is taken; two directories of one name become one; else ours
// gets a name that says whose it is.
func (r *rebase) create(o, n *op) error {
	if o.To.Parent == 0 {
		r.made[n.Ino] = true
		return r.do(n)
	}
	if o.put != nil { // made again by an earlier rebase: maybe not only by us
		if rec, err := r.find(n.Ino); err == nil && rec.Nlink > 0 {
			r.stands[o.To] = r.w.where[n.Ino]
			return nil
		} else if err != nil && !errors.Is(err, errNoInode) {
			return err
		}
	}
	if err := r.parent(o.To.Parent); err != nil {
		return err
	}
	rec, err := decodeRec(o.Ino, o.Rec)
	if err != nil {
		return err
	}
	n.To.Parent = r.as(o.To.Parent)
	if there, _, err := r.child(n.To); err != nil || r.join(n.Ino, rec.Type, there, n.To) {
		return err
	}
	return r.settle(o.To, n, opTime(o))
}

// join makes one directory of ours and the one that stands there already.
func (r *rebase) join(ino Ino, t tree.Type, there tree.Entry, at place) bool {
	if t != tree.TypeDir || there.Type != tree.TypeDir {
		return false
	}
	if ino != there.Ino {
		r.alias[ino] = there.Ino
	}
	r.merged[there.Ino] = true
	r.w.where[there.Ino] = at
	return true
}

// settle carries out an operation that brings an inode under a name, or under a
// conflict name if that is taken.
func (r *rebase) settle(asked place, n *op, day time.Time) error {
	name, err := r.freeName(n.To, place{}, day)
	if err != nil {
		return err
	}
	if name != n.To.Name {
		n.To.Name = name
		r.stands[asked] = n.To
	}
	if n.Kind != opLink {
		r.made[n.Ino] = true
	}
	return r.do(n)
}

// link: as create; of a file that theirs removed, the file is made again.
func (r *rebase) link(o, n *op) error {
	if _, err := r.subject(o.Ino); errors.Is(err, errNoInode) {
		return r.revive(o, o.To)
	} else if err != nil {
		return err
	}
	if err := r.parent(o.To.Parent); err != nil {
		return err
	}
	n.At, n.To.Parent = r.w.where[n.Ino], r.as(o.To.Parent)
	if there, _, err := r.child(n.To); err != nil || there.Ino == n.Ino {
		return err // both gave it this name
	}
	return r.settle(o.To, n, opTime(o))
}

// unlink: only what was seen is removed. A name that leads elsewhere by now stays, and
// so does the last name of a file whose content others have changed.
func (r *rebase) unlink(o, n *op) error {
	if err := r.take(o.Ino, n); err != nil {
		return err
	}
	was, err := r.get(r.then, o.Ino)
	if err != nil || was.Nlink > 1 {
		return fits(err)
	}
	// It was the last name: what was kept for the sake of another goes, and our version
	// of it, where that has become a conflict copy.
	if at, ok := r.spared[n.Ino]; ok {
		delete(r.spared, n.Ino)
		if err := r.take(o.Ino, &op{Kind: opUnlink, Ino: n.Ino, At: at, Time: o.Time, N: o.N}); err != nil {
			return err
		}
	}
	c, ok := r.copies[n.Ino]
	if !ok {
		return nil
	}
	delete(r.copies, n.Ino)
	return fits(r.do(&op{Kind: opUnlink, Ino: c, At: r.w.where[c], Time: o.Time}))
}

// take removes a name, unless something else stands there, or it is still needed.
func (r *rebase) take(ours Ino, n *op) error {
	there, rec, err := r.child(n.At)
	if err != nil || there.Ino != n.Ino || r.merged[n.Ino] {
		return err
	}
	if stays, err := r.needed(ours, rec); err != nil || stays {
		if rec.Nlink == 1 {
			r.spared[n.Ino] = n.At
		}
		return err
	}
	return fits(r.do(n))
}

// needed says whether taking a name from a file would lose what others did to it, or,
// because they took the other names, what we left it.
func (r *rebase) needed(ours Ino, rec *tree.Inode) (bool, error) {
	if rec.Nlink > 1 {
		return false, nil
	}
	was, err := r.get(r.then, ours)
	if err == nil && was.Nlink > 1 {
		return true, nil
	} else if fits(err) != nil {
		return false, err
	}
	return r.changed(rec)
}

// rename: moved to where it was to go, unless it was moved elsewhere meanwhile (the
// log's order decides), was removed (then it is made again there), or would close a
// circle. What stands at the target by now is kept: ours takes another name.
func (r *rebase) rename(o, n *op) error {
	there, rec, err := r.child(n.At)
	if err != nil {
		return err
	}
	if there.Ino != n.Ino {
		return r.elsewhere(o, n)
	}
	if err := r.parent(o.To.Parent); err != nil {
		return err
	}
	if n.To.Parent = r.as(o.To.Parent); o.ToIno != 0 {
		n.To = r.at(o.To)
	}
	if rec.Type == tree.TypeDir {
		in, err := r.w.inside(n.To.Parent, n.Ino)
		if in {
			r.stands[o.To] = n.At
			r.v.complain("a folder was moved into itself by two machines: the earlier move stands")
		}
		if in || err != nil {
			return err
		}
	}
	if err := r.target(o, n, there); err != nil {
		return err
	}
	if n.To != n.At {
		if err := r.do(n); err != nil {
			return fits(err)
		}
	}
	if want := (place{r.as(o.To.Parent), o.To.Name}); n.To != want {
		r.stands[o.To] = n.To
	}
	return r.bring(n)
}

// elsewhere: the inode of a rename is not where it was seen.
func (r *rebase) elsewhere(o, n *op) error {
	if _, err := r.subject(o.Ino); errors.Is(err, errNoInode) {
		return r.revive(o, o.To)
	} else if err != nil {
		return err
	}
	if r.w.where[n.Ino] != n.To {
		r.v.complain("a file was moved on two machines: the earlier move stands")
	}
	return nil
}

// target decides what a rename does about its target: replace it, or go beside it.
func (r *rebase) target(o, n *op, moving tree.Entry) error {
	old, rec, err := r.child(n.To)
	n.ToIno = old.Ino
	if err != nil || rec == nil {
		return err
	}
	if old.Ino == n.Ino {
		if n.ToIno = 0; n.To != n.At { // another name of the file itself: one of the two goes
			n.Kind = opUnlink
		}
		return nil
	}
	replace := o.ToIno != 0 && old.Ino == r.as(o.ToIno) && (old.Type == tree.TypeDir) == (moving.Type == tree.TypeDir)
	if replace {
		keep, err := r.needed(o.ToIno, rec)
		if err != nil {
			return err
		}
		replace = !keep && rec.Dir.Empty()
	}
	if replace {
		return nil
	}
	return r.beside(o, n, moving)
}

// beside gives a rename a conflict name for its target. What was to replace a version
// of a file takes the place of the conflict copy that this device made of it before,
// and stays where it is if it is that very copy.
func (r *rebase) beside(o, n *op, moving tree.Entry) error {
	if o.ToIno != 0 && moving.Type != tree.TypeDir {
		n.N, n.copyOf = 0, n.ToIno
		at, prior, err := r.prior(n.To, r.as(o.ToIno), moving.Type)
		if err != nil {
			return err
		}
		if prior != 0 {
			n.To, n.ToIno = at, prior
			return nil
		}
	}
	name, err := r.freeName(n.To, n.At, opTime(o))
	n.To.Name, n.ToIno = name, 0
	return err
}

// bring lets the conflict copy of a file follow it.
func (r *rebase) bring(n *op) error {
	c, ok := r.copies[n.Ino]
	if !ok || n.Kind != opRename {
		return nil
	}
	name, err := r.freeName(n.To, place{}, opTime(n))
	if err != nil {
		return err
	}
	return fits(r.do(&op{Kind: opRename, Ino: c, At: r.w.where[c], To: place{n.To.Parent, name}, Time: n.Time}))
}

// exchange: only of what both still stand where they were seen. Where one is gone, the
// other is renamed.
func (r *rebase) exchange(o, n *op) error {
	n.To = r.at(o.To)
	a, _, err := r.child(n.At)
	if err != nil {
		return err
	}
	b, _, err := r.child(n.To)
	if err != nil {
		return err
	}
	if a.Ino == n.Ino && b.Ino == n.ToIno {
		return fits(r.do(n))
	}
	one := op{Kind: opRename, Time: o.Time, N: o.N}
	switch {
	case a.Ino == n.Ino && b.Ino == 0:
		one.Ino, one.At, one.To = o.Ino, o.At, o.To
	case b.Ino == n.ToIno && a.Ino == 0:
		one.Ino, one.At, one.To = o.ToIno, o.To, o.At
	default:
		r.v.complain("two files were to change places, but were moved on another machine: the earlier move stands")
		return nil
	}
	return r.merge(&one)
}

// edit: attributes are set on what is there now. Content that others changed is kept,
// and so is ours, in a conflict copy; what was removed comes back.
func (r *rebase) edit(o, n *op) error {
	content := o.Kind == opWrite || o.Kind == opPunch || o.Kind == opAttr && o.Mask&SetSize != 0
	if c, ok := r.copies[n.Ino]; ok {
		return r.both(n, c, content)
	}
	rec, err := r.subject(o.Ino)
	n.At = r.w.where[n.Ino]
	_, unlinked := r.then.orphans[o.Ino]
	switch {
	case errors.Is(err, errNoInode):
		if content && !unlinked {
			return r.revived(o, n)
		}
		return nil // the removal stands, theirs or our own
	case err != nil:
		return err
	case unlinked && rec.Nlink > 0:
		return nil // removed by ourselves, kept for what others did to it: that is theirs
	case content:
		if changed, err := r.changed(rec); err != nil {
			return err
		} else if changed && o.Kind == opWrite && o.Flags&flagAppend != 0 {
			return r.append(n, rec)
		} else if changed {
			return r.copy(o, n)
		}
	}
	return fits(r.do(n))
}

// both sets an attribute on a file and on its conflict copy. Content is the copy's, and
// so are times: on a content that is not ours they would deceive.
func (r *rebase) both(n *op, c Ino, content bool) error {
	mine := *n
	mine.Ino, mine.At, mine.N, mine.copyOf = c, r.w.where[c], 0, n.Ino
	if err := r.do(&mine); err != nil {
		return fits(err)
	}
	theirs := *n
	if theirs.Mask &^= SetAtime | SetMtime; content || n.Kind == opAttr && theirs.Mask == 0 {
		return nil
	}
	return fits(r.do(&theirs))
}

// append writes at the end that the file has now, one piece a chunk.
func (r *rebase) append(n *op, rec *tree.Inode) error {
	off := rec.Size
	for done := uint64(0); done < n.Len; {
		step := min(n.Len-done, chunkSize-(off+done)%chunkSize)
		part := *n
		part.Off, part.Len = off+done, step
		if step < n.Len {
			part.Blob = tree.NewBlob(uint32(step), nil)
			part.Blob.Move(n.Blob, uint32(done))
		}
		if err := r.do(&part); err != nil {
			return fits(err)
		}
		done += step
	}
	return nil
}

// revived makes a file again that theirs removed, and carries the change out on it.
func (r *rebase) revived(o, n *op) error {
	at, err := r.nameIn(r.then, o.Ino)
	if err != nil || at.Parent == 0 {
		return err
	}
	if err := r.revive(o, at); err != nil {
		return err
	}
	return fits(r.do(n))
}

// changed says whether others changed a file's content. It is asked before the first
// change of ours is carried out: then one tree has it as it was, the other theirs.
func (r *rebase) changed(rec *tree.Inode) (bool, error) {
	if rec.Type != tree.TypeFile || r.made[rec.Ino] {
		return false, nil
	}
	if known, ok := r.differs[rec.Ino]; ok {
		return known, nil
	}
	was, err := r.get(r.then, rec.Ino)
	if err != nil && !errors.Is(err, errNoInode) {
		return false, err
	}
	same := was != nil && sameContent(was, rec) // versions are ours by now, where we set an attribute
	r.differs[rec.Ino] = !same
	return !same, nil
}

// sameContent compares what two versions of a file hold, as far as can be told without
// reading it.
func sameContent(a, b *tree.Inode) bool {
	if a.Size != b.Size || string(a.Inline) != string(b.Inline) || a.Target != b.Target {
		return false
	}
	if a.Extents.Same(b.Extents) {
		return true
	}
	xs, errA := overlapping(a.Extents, 0, a.Size)
	ys, errB := overlapping(b.Extents, 0, b.Size)
	if errA != nil || errB != nil || len(xs) != len(ys) {
		return false
	}
	for i, x := range xs {
		if y := ys[i]; x.off != y.off || x.Len != y.Len || !sameBytes(x.Extent, y.Extent) {
			return false
		}
	}
	return true
}

func sameBytes(x, y tree.Extent) bool {
	a, at := x.Resolve()
	b, bt := y.Resolve()
	if a == b {
		return at == bt
	}
	p, stored := a.Pointer()
	q, also := b.Pointer()
	return at == bt && stored && also && p.Fingerprint == q.Fingerprint
}
