package fs

import (
	"context"
	"errors"

	"kist/fs/tree"
)

// announcement tells the kernel what differs between the tree that was live and the one
// that is.
type announcement struct {
	v     *Vault
	n     Notifier
	was   *world
	load  func(*tree.Miss) error
	moved map[Ino]bool // directories that stood elsewhere, or are gone
}

func (v *Vault) announce(ctx context.Context, was *world) error {
	if v.untold == nil {
		v.untold = was // what could not be told before is a part of what has to be told now
	}
	return v.tellUntold(ctx)
}

// tellUntold tells the kernel what it has not been told. A page for which the store is
// needed may be missing: then it is tried again whenever somebody follows. Under turn.
func (v *Vault) tellUntold(ctx context.Context) error {
	if v.untold == nil {
		return nil
	}
	err := v.tellFrom(ctx, v.untold)
	if err == nil {
		v.untold = nil
	}
	return err
}

func (v *Vault) tellFrom(ctx context.Context, was *world) error {
	v.mu.Lock()
	a := &announcement{v: v, n: v.notify, was: was, moved: map[Ino]bool{},
		load: func(m *tree.Miss) error { return v.fill(ctx, m) }}
	now := v.w.freeze()
	v.mu.Unlock()
	if a.n == nil {
		return nil
	}
	if err := tree.Diff(tree.State{Root: was.root, Table: was.table}, now, a.load, a.tell); err != nil {
		return err
	}
	return a.below()
}

func (a *announcement) tell(c tree.Change) error {
	if !c.Table && c.Parent != 0 && (c.Old == nil || c.New == nil || c.Old.Ino != c.New.Ino) {
		a.n.Entry(c.Parent, c.Name)
		if c.Old != nil && c.Old.Type == tree.TypeDir {
			a.moved[c.Old.Ino] = true
		}
	}
	if c.Old == nil {
		return nil
	}
	if c.New != nil && c.Old.Inode != nil && c.New.Inode != nil && sameContent(c.Old.Inode, c.New.Inode) {
		a.n.Inode(c.Old.Ino)
	} else {
		a.n.Content(c.Old.Ino)
	}
	return nil
}

// below compares the directories that the kernel knows in and below those that have
// moved: it finds them again under their numbers, with all it knows of what is in them,
// and no Diff looks into what has another place.
func (a *announcement) below() error {
	if len(a.moved) == 0 {
		return nil
	}
	a.v.mu.Lock()
	var known []Ino
	for ino := range a.v.refs {
		if a.wasBelow(ino) {
			known = append(known, ino)
		}
	}
	a.v.mu.Unlock()
	for _, ino := range known {
		was, is, err := a.both(ino)
		switch {
		case err != nil:
		case was.Type == tree.TypeDir:
			err = tree.DiffDir(was, is, a.load, a.tell)
		default: // its folder may be gone, and it elsewhere
			err = a.tell(tree.Change{Old: &tree.Entry{Inode: was, Ino: was.Ino, Type: was.Type}, New: &tree.Entry{Inode: is, Ino: is.Ino, Type: is.Type}})
		}
		if err != nil && !errors.Is(err, errNoInode) {
			return err
		}
	}
	return nil
}

func (a *announcement) wasBelow(ino Ino) bool {
	for {
		if a.moved[ino] {
			return true
		}
		at, ok := a.was.where[ino]
		if !ok || at.Parent == 0 {
			return false
		}
		ino = at.Parent
	}
}

// both returns an inode's records, then and now; errNoInode if one is missing.
func (a *announcement) both(ino Ino) (was, is *tree.Inode, err error) {
	err = tree.Load(a.load, func() error {
		was, err = a.was.get(ino)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	err = tree.Load(a.load, func() error {
		a.v.mu.Lock()
		defer a.v.mu.Unlock()
		is, err = a.v.w.get(ino)
		a.v.w.freeze() // what is taken out of it stays as it is
		return err
	})
	return was, is, err
}
