package fs

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"syscall"
	"time"

	"kist/fs/log"
	"kist/fs/tree"
)

// rebase carries pending operations over to another commit. The same code follows a
// lost race, an offline month and a crash; docs/CONFLICTS.md has the table that it
// implements, row by row.
//
// Three trees meet: base, on which the operations were made; ours, base with the
// operations; theirs, the new commit, which becomes ours with the operations that
// still fit. What has changed on both sides is kept twice.
type rebase struct {
	v      *Vault
	head   *log.Commit
	own    bool       // theirs is our own commit: nothing can conflict
	ops    []*op      // what was pending when the rebase began
	skip   int        // of these, so many are contained in theirs
	done   int        // carried over so far
	base   tree.State // the state that ops were made on
	ours   *world     // base with all of ops: where conflict copies take their content
	w      *world     // theirs, growing into the new live tree
	theirs tree.State

	moved   map[Ino]place // where an inode stands in theirs, if not where base had it
	gone    map[Ino]bool  // names that theirs no longer has, inode not seen elsewhere
	alias   map[Ino]Ino   // our directory → theirs of the same name
	placed  map[Ino]place // where ours went, if its own name was taken
	copied  map[Ino]int   // inodes whose content is that of ours already, up to this operation
	to      map[Ino]Ino   // inode → the conflict copy that has its content
	dropped map[Ino]bool  // inodes made here whose creation did not fit
	index   *index        // all of theirs, built when an inode is nowhere else
	load    func(*tree.Miss) error
}

// newRebase begins to carry v.ops over to the given commit, which contains the first
// skip of them. Under turn.
func (v *Vault) newRebase(head *log.Commit, theirs tree.State, skip int) *rebase {
	r := &rebase{v: v, head: head, base: v.baseState, theirs: theirs, skip: skip, done: skip,
		moved: map[Ino]place{}, gone: map[Ino]bool{}, alias: map[Ino]Ino{}, copied: map[Ino]int{}, to: map[Ino]Ino{},
		placed: map[Ino]place{}, dropped: map[Ino]bool{}}
	r.w = newWorld(theirs, v.number)
	return r
}

// rebase runs r to its end and makes its tree the live one.
func (v *Vault) rebase(ctx context.Context, r *rebase) error {
	r.load = func(m *tree.Miss) error { return v.fill(ctx, m) }
	if !r.own {
		if err := r.compare(); err != nil {
			return err
		}
	}
	var old tree.State
	for first := true; ; first = false {
		v.mu.Lock()
		if err := v.closeTail(); err != nil {
			v.mu.Unlock()
			return err
		}
		if first {
			r.places()
		}
		if !first && r.done == len(v.ops) {
			old = v.swap(r)
			v.mu.Unlock()
			break
		}
		r.ops = v.ops[:len(v.ops):len(v.ops)]
		r.ours = &world{root: v.w.root, table: v.w.table, where: v.w.where, orphans: v.w.orphans}
		v.w.edit = tree.NewEdit() // ours stays as it is from here on
		r.ours.where = cloneMap(v.w.where)
		r.ours.orphans = cloneMap(v.w.orphans)
		v.mu.Unlock()
		for ; r.done < len(r.ops); r.done++ {
			if err := tree.Load(r.load, func() error { return r.carry(r.ops[r.done]) }); err != nil {
				return err
			}
		}
	}
	if r.own {
		return nil
	}
	return v.announce(ctx, old)
}

func cloneMap[K comparable, V any](m map[K]V) map[K]V {
	out := make(map[K]V, len(m))
	for k, x := range m {
		out[k] = x
	}
	return out
}

// compare learns what theirs changed, so that an inode is found where it went.
func (r *rebase) compare() error {
	removed := map[Ino]bool{}
	err := tree.Diff(r.base, r.theirs, r.load, func(c tree.Change) error {
		switch {
		case c.Table && c.New != nil:
			r.moved[c.New.Ino] = place{}
		case c.Table:
			removed[c.Old.Ino] = true
		default:
			if c.Old != nil && !c.Old.Linked && (c.New == nil || c.New.Ino != c.Old.Ino) {
				removed[c.Old.Ino] = true
			}
			if c.New != nil && !c.New.Linked {
				r.moved[c.New.Ino] = place{c.Parent, c.Name}
			}
		}
		return nil
	})
	for ino := range removed {
		if _, ok := r.moved[ino]; !ok {
			r.gone[ino] = true
		}
	}
	return err
}

// places gives the new tree the places that inodes had before the operations, with
// what theirs changed on top. Under mu.
func (r *rebase) places() {
	r.w.where = cloneMap(r.v.w.where)
	for i := len(r.v.ops) - 1; i >= r.skip; i-- {
		undoPlace(r.w.where, r.v.ops[i])
	}
	for ino, at := range r.moved {
		if ino != RootIno {
			r.w.where[ino] = at
		}
	}
}

func undoPlace(where map[Ino]place, o *op) {
	back := func(ino Ino, at place) {
		if cur, ok := where[ino]; !ok || cur.Parent != 0 {
			where[ino] = at
		}
	}
	switch o.Kind {
	case opCreate:
		delete(where, o.Ino)
	case opLink:
		if o.At.Parent != 0 {
			where[o.Ino] = o.At
		}
	case opUnlink:
		back(o.Ino, o.At)
	case opRename:
		back(o.Ino, o.At)
		if o.ToIno != 0 {
			back(o.ToIno, o.To)
		}
	case opExchange:
		back(o.Ino, o.At)
		back(o.ToIno, o.To)
	}
}

// swap makes the rebased tree live. Under mu. It returns the tree that was live.
func (v *Vault) swap(r *rebase) tree.State {
	old := tree.State{Root: v.w.root, Table: v.w.table}
	for ino, rec := range v.w.orphans {
		if _, err := r.w.get(ino); err != nil && v.refs[ino] != nil {
			r.w.orphans[ino] = rec // open here, without a name: it stays as it is
		}
	}
	if !r.own {
		for ino := range v.refs {
			r.keepOpen(ino)
		}
	}
	for ino := range r.w.orphans {
		if v.refs[ino] == nil {
			delete(r.w.orphans, ino)
		}
	}
	v.w = r.w
	v.w.edit = tree.NewEdit()
	v.base, v.baseState = r.head, r.theirs
	v.ops = append([]*op(nil), v.ops[r.skip:]...)
	v.described = map[Ino]bool{}
	base := baseRecord{Seq: r.head.Seq, Hash: r.head.Hash}
	_ = v.record(recBase, base.encode(), nil, 0) // an error stands in v.failed
	return old
}

// keepOpen keeps an inode that others removed readable for who holds it here.
func (r *rebase) keepOpen(ino Ino) {
	if ino == RootIno {
		return
	}
	var miss *tree.Miss
	if _, err := r.w.get(ino); err == nil || errors.As(err, &miss) {
		return
	}
	if rec, err := r.v.w.get(ino); err == nil {
		n := *rec
		n.Nlink = 0
		r.w.orphans[ino] = &n
		delete(r.w.where, ino)
	}
}

// carry applies one operation to theirs, changed as its rule says, or not at all.
func (r *rebase) carry(o *op) error {
	if r.own {
		return r.again(o)
	}
	return r.merge(o)
}

// again applies an operation to the very tree it was made on. Only inodes without a
// name are missing there: swap brings them along as they are now.
func (r *rebase) again(o *op) error {
	err := r.w.apply(o)
	rec, orphan := r.ours.orphans[o.Ino]
	switch {
	case !errors.Is(err, errNoInode):
		return err
	case o.Kind == opLink:
		if rec, err = r.ours.get(o.Ino); err != nil {
			return err
		}
		n := *rec
		n.Nlink = 0
		r.w.orphans[o.Ino] = &n
		return r.w.apply(o)
	case orphan:
		return nil
	}
	return err
}

// fits turns the answers that mean «no longer possible» into nil.
func fits(err error) error {
	var errno syscall.Errno
	if errors.Is(err, errNoInode) || errors.As(err, &errno) {
		return nil
	}
	return err
}

// merge is the table of docs/CONFLICTS.md.
func (r *rebase) merge(o *op) error {
	n := *o // what is applied may differ from what was recorded
	n.Ino, n.ToIno = r.as(o.Ino), r.as(o.ToIno)
	n.At.Parent, n.To.Parent = r.as(o.At.Parent), r.as(o.To.Parent)
	if r.dropped[o.Ino] {
		return nil
	}
	if at, ok := r.placed[o.Ino]; ok {
		n.At = at
	}
	switch o.Kind {
	case opCreate:
		return r.create(&n)
	case opLink:
		return r.link(&n)
	case opUnlink:
		return r.unlink(&n)
	case opRename:
		return r.rename(&n)
	case opExchange:
		if err := r.settle(&n.Ino, &n.ToIno); err != nil {
			return err
		}
		return fits(r.w.apply(&n))
	}
	return r.edit(&n)
}

func (r *rebase) as(ino Ino) Ino {
	for {
		to, ok := r.alias[ino]
		if !ok {
			return ino
		}
		ino = to
	}
}

// settle makes sure that where is right for inodes that theirs may have moved.
func (r *rebase) settle(inos ...*Ino) error {
	for _, ino := range inos {
		if *ino == 0 {
			continue
		}
		if _, err := r.find(*ino); err != nil && !errors.Is(err, errNoInode) {
			return err
		}
	}
	return nil
}

// find returns an inode of the new tree wherever it is: where it was seen, where
// theirs moved it, or, before it counts as gone, anywhere.
func (r *rebase) find(ino Ino) (*tree.Inode, error) {
	rec, err := r.w.get(ino)
	if !errors.Is(err, errNoInode) || r.gone[ino] || uint16(ino>>32) == r.v.number && r.madeHere(ino) {
		return rec, err
	}
	if r.index == nil {
		if r.index, err = r.walk(r.theirs); err != nil {
			return nil, err
		}
	}
	at, ok := r.index.at[ino]
	if !ok {
		r.gone[ino] = true
		return nil, errNoInode
	}
	for p := at.Parent; p != 0 && p != RootIno; p = r.index.at[p].Parent {
		if _, err := r.w.get(p); errors.Is(err, errNoInode) {
			r.w.where[p] = r.index.at[p]
		}
	}
	r.w.where[ino] = at
	return r.w.get(ino)
}

// madeHere says whether an inode was made by one of the pending operations.
func (r *rebase) madeHere(ino Ino) bool {
	for _, o := range r.ops[r.skip:] {
		if o.Kind == opCreate && o.Ino == ino {
			return true
		}
	}
	return false
}

// index says where everything in a tree is.
type index struct {
	at   map[Ino]place // as in world.where
	name map[Ino]place // some name of each inode with several
}

// walk lists a whole tree.
func (r *rebase) walk(st tree.State) (*index, error) {
	x := &index{map[Ino]place{}, map[Ino]place{}}
	todo := []*tree.Inode{st.Root}
	for len(todo) > 0 {
		d := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		var below []*tree.Inode
		err := tree.Load(r.load, func() error {
			below = below[:0]
			return d.Dir.Scan("", func(name string, e tree.Entry) bool {
				if x.at[e.Ino] = placeOf(e, d.Ino, name); e.Linked {
					x.name[e.Ino] = place{d.Ino, name}
				} else if e.Type == tree.TypeDir {
					below = append(below, e.Inode)
				}
				return true
			})
		})
		if err != nil {
			return nil, err
		}
		todo = append(todo, below...)
	}
	return x, nil
}

// nameIn returns a name of an inode in one of the trees, for one that has several.
func (r *rebase) nameIn(w *world, ino Ino) (place, error) {
	if at, ok := w.where[ino]; ok && at.Parent != 0 {
		return at, nil
	}
	x, err := r.walk(tree.State{Root: w.root, Table: w.table})
	if err != nil {
		return place{}, err
	}
	return x.name[ino], nil
}

// parent makes sure that the directory an operation needs is there. One that theirs
// removed is made again from its description, and those above it too.
func (r *rebase) parent(dir Ino) error {
	if dir == 0 || dir == RootIno {
		return nil
	}
	rec, err := r.find(dir)
	if err == nil && rec.Nlink > 0 || err != nil && !errors.Is(err, errNoInode) {
		return err
	}
	d := r.v.dirRecord(dir)
	if d == nil {
		return errNoInode
	}
	up := r.as(d.At.Parent)
	if err := r.parent(up); err != nil {
		return err
	}
	name, err := r.freeName(place{up, d.At.Name}, time.Time{})
	if err != nil {
		return err
	}
	delete(r.w.orphans, dir)
	delete(r.gone, dir)
	made := &op{Kind: opCreate, Ino: dir, Time: r.v.now(), To: place{up, name}, Rec: d.Rec}
	return r.w.apply(made)
}

func (v *Vault) dirRecord(ino Ino) *dirRecord {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.dirs[ino]
}

// create: a free name is taken; two directories of one name become one; else ours
// gets a name that says whose it is.
func (r *rebase) create(o *op) error {
	if o.To.Parent == 0 {
		return r.w.apply(o)
	}
	if err := r.parent(o.To.Parent); err != nil {
		return r.lose(o, err)
	}
	there, taken, err := r.w.child(o.To.Parent, o.To.Name)
	if err != nil {
		return err
	}
	if taken {
		rec, err := decodeRec(o.Ino, o.Rec)
		if err != nil {
			return err
		}
		if rec.Type == tree.TypeDir && there.Type == tree.TypeDir {
			r.alias[o.Ino] = there.Ino
			r.w.where[there.Ino] = o.To
			return nil
		}
		if o.To.Name, err = r.freeName(o.To, opTime(o)); err != nil {
			return err
		}
		r.placed[o.Ino] = o.To
	}
	return r.w.apply(o)
}

// lose gives up an operation whose directory cannot be had back; inodes made by it
// are left out, and so is what was done to them.
func (r *rebase) lose(o *op, err error) error {
	if !errors.Is(err, errNoInode) && fits(err) != nil {
		return err
	}
	r.dropped[o.Ino] = true
	r.v.complain("an operation could not be carried over: its folder is gone and was not described")
	return nil
}

// link: as create; of an inode that theirs removed, the file is made again.
func (r *rebase) link(o *op) error {
	if err := r.parent(o.To.Parent); err != nil {
		return r.lose(o, err)
	}
	if _, err := r.find(o.Ino); err != nil {
		if !errors.Is(err, errNoInode) {
			return err
		}
		return r.revive(o.Ino, o.To, opTime(o))
	}
	name, err := r.freeName(o.To, opTime(o))
	if err != nil {
		return err
	}
	o.To.Name = name
	return r.w.apply(o)
}

// unlink: only what was seen is removed. A name that leads elsewhere by now stays, and
// so does a file whose content others have changed.
func (r *rebase) unlink(o *op) error {
	there, ok, err := r.w.child(o.At.Parent, o.At.Name)
	if err != nil {
		return fits(err)
	}
	if !ok || there.Ino != o.Ino {
		return nil
	}
	rec, err := r.w.inodeOf(there)
	if err != nil {
		return fits(err)
	}
	if changed, err := r.changed(rec, o.Seen); err != nil || changed {
		return err
	}
	return fits(r.w.apply(o))
}

// rename: moved to where it was to go, unless it was moved elsewhere meanwhile (the
// log's order decides), was removed (then it is made again there), or would close a
// circle. What stands at the target by now is kept: ours takes another name.
func (r *rebase) rename(o *op) error {
	if err := r.parent(o.To.Parent); err != nil {
		return r.lose(o, err)
	}
	rec, err := r.find(o.Ino)
	if errors.Is(err, errNoInode) {
		return r.revive(o.Ino, o.To, opTime(o))
	}
	if err != nil {
		return err
	}
	there, ok, err := r.w.child(o.At.Parent, o.At.Name)
	if err != nil && fits(err) != nil {
		return err
	}
	if err != nil || !ok || there.Ino != o.Ino {
		r.v.complain("a file was moved on two machines: the earlier move stands")
		return nil
	}
	if rec.Type == tree.TypeDir {
		if in, err := r.w.inside(o.To.Parent, o.Ino); err == nil && in {
			r.v.complain("a folder was moved into itself by two machines: the earlier move stands")
			return nil
		}
	}
	old, taken, err := r.w.child(o.To.Parent, o.To.Name)
	if err != nil {
		return err
	}
	if !taken {
		o.ToIno = 0
		return r.move(o, false)
	}
	keep := old.Ino != o.ToIno
	if !keep {
		oldRec, err := r.w.inodeOf(old)
		if err != nil {
			return err
		}
		if keep, err = r.changed(oldRec, o.ToSeen); err != nil {
			return err
		}
		if oldRec.Type == tree.TypeDir && !oldRec.Dir.Empty() {
			keep = true
		}
	}
	if keep {
		o.ToIno = 0
		if o.To.Name, err = r.freeName(o.To, opTime(o)); err != nil {
			return err
		}
	}
	return r.move(o, keep)
}

// move applies a rename and remembers a name that is not the one asked for.
func (r *rebase) move(o *op, renamed bool) error {
	if err := r.w.apply(o); err != nil {
		return fits(err)
	}
	delete(r.placed, o.Ino)
	if renamed {
		r.placed[o.Ino] = o.To
	}
	return nil
}

// changed says whether others changed an inode's content since it was seen.
func (r *rebase) changed(rec *tree.Inode, seen version) (bool, error) {
	now := version{rec.VerDev, rec.VerOp}
	if now == seen || now.Dev == r.v.number || rec.Type != tree.TypeFile {
		return false, nil
	}
	was, err := r.inBase(rec.Ino)
	if err != nil {
		return false, err
	}
	return was == nil || !sameContent(was, rec), nil
}

// inBase returns an inode as it was before our operations and theirs, if it was where
// it is now.
func (r *rebase) inBase(ino Ino) (*tree.Inode, error) {
	bw := &world{root: r.base.Root, table: r.base.Table, where: r.w.where}
	rec, err := bw.get(ino)
	if errors.Is(err, errNoInode) {
		return nil, nil
	}
	return rec, err
}

func sameContent(a, b *tree.Inode) bool {
	return a.Size == b.Size && string(a.Inline) == string(b.Inline) && a.Target == b.Target && a.Extents.Same(b.Extents)
}

// edit: attributes are set on what is there now. Content that others changed since it
// was seen is kept, and so is ours, in a conflict copy; what was removed comes back.
func (r *rebase) edit(o *op) error {
	content := o.Kind == opWrite || o.Kind == opPunch || o.Kind == opAttr && o.Mask&SetSize != 0
	rec, err := r.find(o.Ino)
	if errors.Is(err, errNoInode) {
		if !content {
			return nil // the removal stands: nothing was lost but an attribute of it
		}
		if _, kept := r.ours.where[o.Ino]; !kept {
			return nil // removed by ourselves later
		}
		at, err := r.nameIn(r.ours, o.Ino)
		if err != nil || at.Parent == 0 {
			return err
		}
		return r.revive(o.Ino, place{r.as(at.Parent), at.Name}, opTime(o))
	}
	if err != nil {
		return err
	}
	if upTo, ok := r.copied[o.Ino]; ok && content {
		if r.done < upTo {
			return nil // the copy has it: it was made from the end of ours
		}
		if to, ok := r.to[o.Ino]; ok {
			o.Ino = to
		}
		return fits(r.w.apply(o))
	}
	if content && o.Flags&flagAppend != 0 && o.Kind == opWrite && rec.Size != o.Off {
		o.Off = rec.Size // both appended: one after the other
		return fits(r.w.apply(o))
	}
	if content {
		changed, err := r.changed(rec, o.Seen)
		if err != nil {
			return err
		}
		if changed {
			return r.copy(o)
		}
	}
	return fits(r.w.apply(o))
}

// copy puts the end of our version beside theirs, under one name a file and device.
func (r *rebase) copy(o *op) error {
	ours, err := r.ours.get(o.Ino)
	if errors.Is(err, errNoInode) || err == nil && ours.Nlink == 0 {
		return nil // removed by ourselves later: theirs stays
	}
	if err != nil {
		return err
	}
	at, err := r.nameIn(r.w, o.Ino)
	if err != nil {
		return err
	}
	n := *ours
	n.VerDev, n.VerOp, n.Nlink = r.w.dev, o.N, 1
	n.Ino = r.v.copyIno(o.Ino)
	if at, err = r.copyPlace(at, n.Ino, opTime(o)); err != nil {
		return err
	}
	if err := r.w.link(at, tree.Entry{Inode: &n}, o.Time); err != nil {
		return err
	}
	r.w.where[n.Ino] = at
	r.w.dirty[n.Ino] = struct{}{}
	r.copied[o.Ino], r.to[o.Ino] = len(r.ops), n.Ino
	r.v.complain("a file was changed on two machines: both versions were kept")
	return nil
}

// copyPlace is where the conflict copy of the file at a place goes: over the copy that
// this mount made of it before, if it is still there, else under a free name.
func (r *rebase) copyPlace(at place, copy Ino, day time.Time) (place, error) {
	if old, err := r.w.get(copy); err == nil && old.VerDev == r.w.dev {
		return r.w.where[copy], nil
	} else if err != nil && !errors.Is(err, errNoInode) {
		return place{}, err
	}
	name, err := r.freeName(at, day)
	return place{at.Parent, name}, err
}

// revive makes an inode again that theirs removed, as it is at the end of ours.
func (r *rebase) revive(ino Ino, at place, day time.Time) error {
	ours, err := r.ours.get(ino)
	if errors.Is(err, errNoInode) {
		return nil
	}
	if err != nil {
		return err
	}
	if ours.Type == tree.TypeDir {
		return r.parent(ino)
	}
	if err := r.parent(at.Parent); err != nil {
		return fits(err)
	}
	name, err := r.freeName(at, day)
	if err != nil {
		return err
	}
	n := *ours
	n.Nlink = 1
	at.Name = name
	if err := r.w.link(at, tree.Entry{Inode: &n}, n.Ctime); err != nil {
		return err
	}
	delete(r.gone, ino)
	delete(r.w.orphans, ino)
	r.w.where[ino] = at
	r.w.dirty[ino] = struct{}{}
	r.copied[ino] = len(r.ops) // its content is the end of ours already
	return nil
}

// copyIno gives the conflict copy of an inode its number, the same each time.
func (v *Vault) copyIno(of Ino) Ino {
	v.mu.Lock()
	defer v.mu.Unlock()
	if n, ok := v.copies[of]; ok {
		return n
	}
	n := v.alloc()
	v.copies[of] = n
	return n
}

// freeName returns the name itself if it is free, else the first form of
// «name (conflict, NAME's DEVICE, DATE).ext» that is.
func (r *rebase) freeName(at place, day time.Time) (string, error) {
	for i := 0; ; i++ {
		name := at.Name
		if i > 0 {
			name = conflictName(at.Name, r.v.opt.Session.User, r.v.opt.Session.DeviceName, day, i)
		}
		_, taken, err := r.w.child(at.Parent, name)
		if err != nil || !taken {
			return name, err
		}
	}
}

func opTime(o *op) time.Time { return time.Unix(o.Time.Sec, int64(o.Time.Nsec)).UTC() }

// conflictName keeps the extension and fits into 255 bytes.
func conflictName(name, user, device string, day time.Time, n int) string {
	ext := path.Ext(name)
	if ext == name || len(ext) > 32 {
		ext = ""
	}
	stem := strings.TrimSuffix(name, ext)
	clean := strings.NewReplacer("/", "-", "\x00", "-")
	mark := fmt.Sprintf(" (conflict, %s's %s, %s", clean.Replace(user), clean.Replace(device), day.Format(time.DateOnly))
	if n > 1 {
		mark += fmt.Sprintf(" %d", n)
	}
	mark += ")"
	if over := len(stem) + len(mark) + len(ext) - tree.MaxName; over > 0 {
		stem = strings.ToValidUTF8(stem[:max(1, len(stem)-over)], "")
	}
	return stem + mark + ext
}
