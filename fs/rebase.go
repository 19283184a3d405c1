package fs

import (
	"context"
	"errors"
	"syscall"

	"kist/fs/log"
	"kist/fs/tree"
)

// rebase carries pending operations over to another commit. The same code follows a
// lost race, an offline month and a crash; merge.go has the rules, docs/CONFLICTS.md
// the table of them.
//
// Three trees meet: base, on which the operations were made; theirs, the new commit;
// and between them the operations, one after the other. Each is carried out twice: on
// base as it was made, so that it is known what its author saw, and on theirs in the
// form that its rule gives it. Nothing else decides: not what comes later, not the
// clock, not what is open. So a replay after a crash ends in the same tree, to the
// number, and what the journal says next fits it. What the operations have become
// takes their place: v.ops, carried out on v.baseState, always make the live tree.
type rebase struct {
	v    *Vault
	from *Vault // whose operations these are; v itself, but for Adopt
	head *log.Commit
	own  bool // theirs is our own commit: nothing can conflict
	ops  []*op
	skip int // of these, so many are contained in theirs
	done int // so many are carried over
	out  []*op
	wait *waits // what out is about
	load func(*tree.Miss) error

	base   tree.State
	theirs tree.State
	then   *world // base, growing into what the author of the operations saw
	w      *world // theirs, growing into the new live tree

	moved map[Ino]place // where theirs has an inode, as far as a Diff tells
	lost  map[Ino]bool  // no longer where base had it; true: a directory
	named map[Ino]bool  // has another name than in base, or none: by our operations, or in the inode table
	fresh []*tree.Inode // directories of theirs that base has not, or elsewhere
	deep  map[Ino]place // what stands below fresh, nil before anybody asked

	alias   map[Ino]Ino     // under which number theirs has an inode of ours
	merged  map[Ino]bool    // directories of theirs that took one of ours in
	stands  map[place]place // our name → where it really went, if not there
	made    map[Ino]bool    // came by our operations: nobody else has changed it
	differs map[Ino]bool    // whether others changed a file's content
	copies  map[Ino]Ino     // inode → the conflict copy that takes our changes
	spared  map[Ino]place   // a last name that we took, which stays for now

	given []Ino // numbers that this rebase took when it ran before the crash
	used  []Ino // numbers it takes now
}

// newRebase begins to carry the pending operations of a vault over to a commit that
// contains the first skip of them. Under turn.
func (v *Vault) newRebase(from *Vault, head *log.Commit, theirs tree.State, skip int) *rebase {
	return &rebase{v: v, from: from, head: head, skip: skip, done: skip, base: from.baseState, theirs: theirs, wait: newWaits(),
		then: newWorld(from.baseState, from.number), w: newWorld(theirs, v.number),
		moved: map[Ino]place{}, lost: map[Ino]bool{}, named: map[Ino]bool{}, alias: map[Ino]Ino{}, merged: map[Ino]bool{}, stands: map[place]place{},
		made: map[Ino]bool{}, differs: map[Ino]bool{}, copies: map[Ino]Ino{}, spared: map[Ino]place{}}
}

// rebase runs r to its end and makes its tree the live one.
func (v *Vault) rebase(ctx context.Context, r *rebase) error {
	r.load = func(m *tree.Miss) error { return v.fill(ctx, m) }
	if !r.own {
		if err := r.compare(); err != nil {
			return err
		}
	}
	var old *world
	for first := true; ; first = false {
		v.mu.Lock()
		if err := v.closeTail(); err != nil {
			v.mu.Unlock()
			return err
		}
		search := r.places()
		missing := r.missing()
		if !first && !search && missing == nil && r.done == len(v.ops) {
			old = v.swap(r)
			v.mu.Unlock()
			break
		}
		r.ops = v.ops[:len(v.ops):len(v.ops)]
		v.mu.Unlock()
		if missing != nil {
			if err := r.load(missing); err != nil {
				return err
			}
		}
		if search {
			if err := r.deepen(); err != nil {
				return err
			}
		}
		for ; r.done < len(r.ops); r.done++ {
			if err := r.carry(r.ops[r.done]); err != nil {
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
	into := func(parent Ino, name string, dir Ino) {
		if dir != RootIno {
			r.moved[dir] = place{parent, name}
		}
	}
	return tree.DiffDirs(r.base, r.theirs, r.load, into, func(c tree.Change) error {
		if c.Table {
			if c.New != nil {
				r.moved[c.New.Ino] = place{}
			} else {
				r.named[c.Old.Ino] = true
			}
			return nil
		}
		other := c.Old == nil || c.New == nil || c.Old.Ino != c.New.Ino
		if other && c.Old != nil {
			r.lost[c.Old.Ino] = c.Old.Type == tree.TypeDir
		}
		if c.New != nil && !c.New.Linked && c.New.Ino != RootIno {
			r.moved[c.New.Ino] = place{c.Parent, c.Name}
			if other && c.New.Type == tree.TypeDir {
				r.fresh = append(r.fresh, c.New.Inode)
			}
		}
		return nil
	})
}

// places gives both trees the places that inodes had before the operations, the new
// one with what theirs changed on top. Called again, it adds what has become known
// meanwhile. It says whether something that is known here must be looked for below
// fresh directories. Under mu of the vault whose operations these are.
func (r *rebase) places() (search bool) {
	where := cloneMap(r.from.w.where)
	search = len(r.from.w.orphans) > 0 // what has no name here may have one there
	for i := len(r.from.ops) - 1; i >= r.skip; i-- {
		undoPlace(where, r.from.ops[i])
	}
	if r.done == r.skip {
		for ino, at := range r.moved {
			r.w.where[ino] = at
		}
	}
	for ino, at := range where {
		if _, known := r.then.where[ino]; known {
			continue
		}
		r.then.where[ino] = at
		_, seen := r.moved[ino]
		dir, lost := r.lost[ino]
		search = search || lost && (dir || !seen)
		if d, ok := r.deep[ino]; ok {
			at = d
		}
		if _, ok := r.w.where[ino]; !ok {
			r.w.where[ino] = at
		}
	}
	return search && len(r.fresh) > 0 && r.deep == nil
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

// missing returns a page that swap needs to tell whether what is held here is still
// there. Of a commit of our own it asks nothing: what has no name there never had one.
// Under mu.
func (r *rebase) missing() (miss *tree.Miss) {
	if r.own {
		return nil
	}
	for ino := range r.v.w.orphans {
		if _, err := r.w.get(ino); errors.As(err, &miss) {
			return miss
		}
	}
	for ino := range r.v.refs {
		if !r.mayBeGone(ino) {
			continue
		}
		if _, err := r.w.get(ino); errors.As(err, &miss) {
			return miss
		}
	}
	return nil
}

// mayBeGone says whether an inode that is known here may not be in the new tree, or not
// under its number. Others and our operations change few; to look for all that a kernel
// knows would cost what is known, not what was changed. Under mu.
func (r *rebase) mayBeGone(ino Ino) bool {
	for {
		if _, lost := r.lost[ino]; lost || r.named[ino] {
			return true
		}
		at, ok := r.v.w.where[ino]
		if !ok || at.Parent == 0 {
			return !ok
		}
		ino = at.Parent
		if ino == RootIno {
			return false
		}
	}
}

// swap makes the rebased tree live. Under mu. It returns the tree that was live.
func (v *Vault) swap(r *rebase) *world {
	old := v.w
	// Until a mount is open nobody holds anything, and the journal may still give a
	// name to what has none.
	replaying := v.kick == nil
	for ino, rec := range v.w.orphans {
		if _, err := r.w.get(ino); err != nil && (replaying || v.refs[ino] != nil) {
			r.w.orphans[ino] = rec // open here, without a name: it stays as it is
		}
	}
	if !r.own {
		for ino := range v.refs {
			if r.mayBeGone(ino) {
				r.keepOpen(ino)
			}
		}
	}
	for ino := range r.w.orphans {
		if !replaying && v.refs[ino] == nil {
			delete(r.w.orphans, ino)
		}
	}
	v.w = r.w
	v.w.edit = tree.NewEdit()
	v.base, v.baseState, v.ops = r.head, r.theirs, r.out
	v.waits = r.wait
	v.described = map[Ino]bool{}
	base := baseRecord{Seq: r.head.Seq, Hash: r.head.Hash, Made: r.used}
	_ = v.record(recBase, base.encode(), nil, 0) // an error stands in v.failed
	v.baseAt = v.jrn.Pos().N
	v.witness()
	return old
}

// keepOpen keeps an inode that others removed readable for who holds it here.
func (r *rebase) keepOpen(ino Ino) {
	if ino == RootIno {
		return
	}
	if r.merged[r.as(ino)] {
		return // one with another's folder: who holds it must look its name up again
	}
	if _, err := r.w.get(ino); err == nil {
		return
	}
	if rec, err := r.v.w.get(ino); err == nil {
		n := *rec
		n.Nlink = 0
		r.w.orphans[ino] = &n
		delete(r.w.where, ino)
	}
}

// carry takes one operation over to theirs, changed as its rule says, or not at all.
func (r *rebase) carry(o *op) error {
	if r.own {
		return r.again(o)
	}
	r.hint(o.Ino, o.At)
	r.hint(o.ToIno, o.To)
	switch o.Kind {
	case opCreate, opLink, opUnlink, opRename, opExchange, opPut:
		r.named[o.Ino], r.named[o.ToIno] = true, true
	}
	if err := r.merge(o); err != nil {
		return err
	}
	return r.see(o)
}

// see lets then catch up with what the author of an operation saw after it.
func (r *rebase) see(o *op) error {
	err := tree.Load(r.load, func() error { return r.then.apply(o) })
	if errors.Is(err, errNoInode) && o.Kind == opLink {
		r.nameless(o, r.then)
		err = tree.Load(r.load, func() error { return r.then.apply(o) })
	}
	return fits(err)
}

// hint remembers where an operation saw its inode.
func (r *rebase) hint(ino Ino, at place) {
	if _, ok := r.then.where[ino]; !ok && ino != 0 {
		r.then.where[ino] = at
	}
	if _, ok := r.w.where[r.as(ino)]; !ok && ino != 0 {
		r.w.where[r.as(ino)] = r.at(at)
	}
}

// again applies an operation to the very tree it was made on. Only inodes without a
// name are missing there: swap brings them along as they are now.
func (r *rebase) again(o *op) error {
	err := r.do(o)
	switch {
	case !errors.Is(err, errNoInode):
		return err
	case o.Kind == opLink:
		r.nameless(o, r.w)
		return r.do(o)
	case o.Kind == opUnlink || o.Kind == opRename || o.Kind == opExchange:
		return err
	}
	return nil
}

// nameless brings the file without a name to which an operation gave one into a tree, as
// it is now. It is in no commit, so operations before are not carried over; those that
// come after, repeated, change nothing. If it is gone by now, operations that come after
// have taken its name again: until then anything stands for it.
func (r *rebase) nameless(o *op, w *world) {
	n := tree.Inode{Ino: o.Ino, Type: tree.TypeFile, Mode: 0o600, Atime: o.Time, Mtime: o.Time, Ctime: o.Time}
	r.from.mu.Lock()
	if rec, err := r.from.w.get(o.Ino); err == nil {
		n = *rec
		r.from.w.freeze() // what is taken out of it stays as it is
	}
	r.from.mu.Unlock()
	n.Nlink = 0
	w.orphans[o.Ino] = &n
}

// do carries an operation out on theirs, in the form it has become.
func (r *rebase) do(o *op) error {
	err := tree.Load(r.load, func() error { return r.w.apply(o) })
	if err == nil {
		r.out = append(r.out, o)
		r.wait.note(r.w, o)
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

// as returns the number under which the new tree has an inode.
func (r *rebase) as(ino Ino) Ino {
	for {
		to, ok := r.alias[ino]
		if !ok {
			return ino
		}
		ino = to
	}
}

// at returns where a name of ours stands in the new tree.
func (r *rebase) at(p place) place {
	if s, ok := r.stands[p]; ok {
		p = s
	}
	return place{r.as(p.Parent), p.Name}
}

// number takes a number for an inode that the rebase makes: after a crash the same.
func (r *rebase) number() Ino {
	r.v.mu.Lock()
	defer r.v.mu.Unlock()
	var n Ino
	if len(r.given) > 0 {
		n, r.given = r.given[0], r.given[1:]
	} else {
		n = r.v.alloc()
	}
	r.used = append(r.used, n)
	return n
}
