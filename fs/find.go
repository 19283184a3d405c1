package fs

import (
	"errors"

	"kist/fs/tree"
)

// How a rebase finds things in trees of which not every page is in memory.

// deepen looks into the directories that are new in theirs. Something that was moved
// there is in no other difference between base and theirs.
func (r *rebase) deepen() error {
	if r.deep != nil {
		return nil
	}
	deep := map[Ino]place{}
	err := r.walk(r.fresh, func(dir Ino, name string, e tree.Entry) bool {
		if !e.Linked {
			deep[e.Ino] = place{dir, name}
		}
		return true
	})
	if err != nil {
		return err
	}
	r.deep = deep
	for ino, at := range deep {
		if _, err := r.get(r.w, ino); errors.Is(err, errNoInode) {
			r.w.where[ino] = at
		} else if err != nil {
			return err
		}
	}
	return nil
}

// find returns an inode of the new tree wherever it is: where it was seen, where
// theirs moved it, or below one of their new directories.
func (r *rebase) find(ino Ino) (*tree.Inode, error) {
	rec, err := r.get(r.w, ino)
	if !errors.Is(err, errNoInode) || r.made[ino] {
		return rec, err
	}
	if err := r.deepen(); err != nil {
		return nil, err
	}
	at, ok := r.deep[ino]
	if !ok {
		return nil, errNoInode
	}
	r.w.where[ino] = at
	for d := at.Parent; ; d = at.Parent {
		_, known := r.w.where[d]
		if at, ok = r.deep[d]; known || !ok {
			return r.get(r.w, ino)
		}
		r.w.where[d] = at
	}
}

// subject finds an inode of ours in the new tree. It is gone there, too, if it has lost
// the last of its names, one to theirs and one to us, while in ours it still has one.
func (r *rebase) subject(ino Ino) (*tree.Inode, error) {
	rec, err := r.find(r.as(ino))
	if _, nameless := r.then.orphans[ino]; err == nil && rec.Nlink == 0 && !nameless {
		err = errNoInode
	}
	return rec, err
}

// get returns a record of one of the trees.
func (r *rebase) get(w *world, ino Ino) (rec *tree.Inode, err error) {
	err = tree.Load(r.load, func() error {
		rec, err = w.get(ino)
		return err
	})
	return rec, err
}

// child looks a name up in the new tree, with the record it leads to. A directory that
// is not there has no names.
func (r *rebase) child(at place) (ent tree.Entry, rec *tree.Inode, err error) {
	err = tree.Load(r.load, func() error {
		var ok bool
		ent, ok, err = r.w.child(at.Parent, at.Name)
		if err != nil || !ok {
			ent, rec = tree.Entry{}, nil
			return fits(err)
		}
		rec, err = r.w.inodeOf(ent)
		return err
	})
	return ent, rec, err
}

// walk shows fn everything in and below some directories, until it returns false.
func (r *rebase) walk(todo []*tree.Inode, fn func(dir Ino, name string, e tree.Entry) bool) error {
	todo = append([]*tree.Inode(nil), todo...)
	for len(todo) > 0 {
		d := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		ents, err := r.entries(d)
		if err != nil {
			return err
		}
		for _, e := range ents {
			if !fn(d.Ino, e.name, e.Entry) {
				return nil
			}
			if e.Type == tree.TypeDir {
				todo = append(todo, e.Inode)
			}
		}
	}
	return nil
}

type dirEntry struct {
	name string
	tree.Entry
}

func (r *rebase) entries(d *tree.Inode) (out []dirEntry, err error) {
	err = tree.Load(r.load, func() error {
		out = out[:0]
		return d.Dir.Scan("", func(name string, e tree.Entry) bool {
			out = append(out, dirEntry{name, e})
			return true
		})
	})
	return out, err
}
