package fs

import (
	"context"
	"errors"

	"kist/crypto/keys"
	"kist/crypto/seal"
	"kist/fs/journal"
	"kist/fs/log"
	"kist/fs/tree"
)

// Adopt takes over what the journal of another device of this identity holds and the log
// does not: the journal of a home that was copied or restored, and is not to be used as
// it is. The operations are carried over as in a rebase, under numbers of this device,
// and are in the store when Adopt returns nil. It returns how many there were. The old
// journal is read and closed; on an error it may be adopted again.
//
// Which of its operations the log contains: all up to the last device row that the
// journal knows, and all up to the last one that the tree shows to have been made with
// the same inode, number and time. What cannot be told is kept: at worst a file stands
// there twice.
//
// Call it on a vault that nobody else uses, before anything is written to it.
func (v *Vault) Adopt(ctx context.Context, old journal.Disk, key seal.Key, device keys.DeviceID) (int, error) {
	jrn, replay, err := journal.Open(old, key, journal.Options{Vault: v.opt.Vault})
	if err != nil {
		return 0, err
	}
	n, err := v.adopt(ctx, jrn, replay, device)
	return n, errors.Join(err, jrn.Close())
}

func (v *Vault) adopt(ctx context.Context, jrn *journal.Journal, replay *journal.Replay, device keys.DeviceID) (int, error) {
	v.turn.Lock()
	defer v.turn.Unlock()
	from, row, err := v.common(ctx, jrn, replay, device)
	if from == nil || err != nil {
		return 0, err
	}
	// The old device's vault, as it would be without what came after that row.
	was := &Vault{opt: v.opt, log: v.log, jrn: jrn, packs: v.packs, hot: v.hot, described: map[Ino]bool{}, dirs: v.dirs,
		refs: map[Ino]*ref{}, copies: v.copies, nameless: map[Ino]uint64{}, number: row.Number, next: row.HighIno}
	if err := was.stand(from); err != nil {
		return 0, err
	}
	if err := was.replay(ctx, replay, row.Op); err != nil {
		return 0, err
	}
	r := v.newRebase(v.log.Head(), v.baseState, 0)
	r.load = func(m *tree.Miss) error { return v.fill(ctx, m) }
	r.base, r.ours, r.ops = was.baseState, was.w, was.ops
	if err := r.compare(); err != nil {
		return 0, err
	}
	r.w.where = cloneMap(was.w.where)
	for i := len(r.ops) - 1; i >= 0; i-- {
		undoPlace(r.w.where, r.ops[i])
	}
	for ino, at := range r.moved {
		r.w.where[ino] = at
	}
	contained, err := r.shown(row.Number)
	if err != nil {
		return 0, err
	}
	return v.takeOver(ctx, r, contained)
}

// common returns the newest commit of a device that its journal knows of, and its row
// there; nil if the log has none.
func (v *Vault) common(ctx context.Context, jrn *journal.Journal, replay *journal.Replay, device keys.DeviceID) (*log.Commit, *log.DeviceRow, error) {
	for seq := v.log.Head().Seq; ; seq-- {
		c, err := v.log.At(ctx, seq)
		if err != nil {
			return nil, nil, err
		}
		if c != nil {
			row := c.Row(device)
			if row == nil {
				return nil, nil, nil
			}
			if c.Device == device && row.Journal == jrn.ID() {
				known, err := replay.Contains(journal.Pos{N: row.Op, Run: row.Run})
				if err != nil || known {
					return c, row, err
				}
			}
		}
		if seq == 0 {
			return nil, nil, nil
		}
	}
}

// shown returns the last operation of which theirs shows the trace: an inode last changed
// by it, at its very time. The journal is one line, so everything before is contained too.
func (r *rebase) shown(number uint16) (uint64, error) {
	byNumber := map[uint64]*op{}
	for _, o := range r.ops {
		byNumber[o.N] = o
	}
	last := uint64(0)
	see := func(rec *tree.Inode) {
		if o := byNumber[rec.VerOp]; rec.VerDev == number && o != nil && o.Ino == rec.Ino && o.Time == rec.Ctime {
			last = max(last, o.N)
		}
	}
	err := tree.Diff(r.base, r.theirs, r.load, func(c tree.Change) error {
		if c.New == nil || c.New.Inode == nil {
			return nil
		}
		see(c.New.Inode)
		if c.New.Type != tree.TypeDir || c.Old != nil {
			return nil
		}
		return r.below(c.New.Inode, see)
	})
	return last, err
}

// below calls see for everything in a directory that only theirs has.
func (r *rebase) below(dir *tree.Inode, see func(*tree.Inode)) error {
	var inner []*tree.Inode
	err := tree.Load(r.load, func() error {
		inner = inner[:0]
		return dir.Dir.Scan("", func(_ string, e tree.Entry) bool {
			if !e.Linked {
				inner = append(inner, e.Inode)
			}
			return true
		})
	})
	for _, rec := range inner {
		if err != nil {
			break
		}
		if see(rec); rec.Type == tree.TypeDir {
			err = r.below(rec, see)
		}
	}
	return err
}

// takeOver carries the operations after one over and commits the result.
func (v *Vault) takeOver(ctx context.Context, r *rebase, after uint64) (int, error) {
	kept := 0
	for ; r.done < len(r.ops); r.done++ {
		o := r.ops[r.done]
		if o.N <= after {
			continue
		}
		mine := *o
		mine.N = 0
		if o.Kind == opCreate {
			r.alias[o.Ino] = v.alloc()
		}
		if err := tree.Load(r.load, func() error { return r.carry(&mine) }); err != nil {
			return 0, err
		}
		kept++
	}
	if kept == 0 {
		return 0, nil
	}
	v.mu.Lock()
	r.w.edit = tree.NewEdit()
	v.w, v.ops = r.w, r.ops
	v.mu.Unlock()
	if err := v.commit(ctx); err != nil {
		return 0, err
	}
	return kept, nil
}
