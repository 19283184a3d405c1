package fs

import (
	"context"
	"errors"
	"fmt"

	"kist/fs/journal"
	"kist/fs/log"
	"kist/fs/tree"
)

// recover brings the vault to where this device left it: the newest commit, and on top
// of it the operations of the journal that no commit contains. It is also what follows
// a month without the store.
func (v *Vault) recover(ctx context.Context, replay *journal.Replay) error {
	for _, d := range replay.Damage {
		v.opt.Logger.Warn(DamageText(d))
	}
	if err := v.resume(ctx, replay); err != nil {
		return err
	}
	head := v.log.Head()
	row := head.Row(v.opt.Session.Device)
	if row == nil {
		return v.enrol(ctx, replay)
	}
	if row.Journal != v.jrn.ID() {
		return ErrCloned
	}
	switch ok, err := replay.Contains(journal.Pos{N: row.Op, Run: row.Run}); {
	case err != nil:
		return err // the disk's doing, and no copy
	case !ok:
		return v.notContained()
	}
	v.number, v.next = row.Number, row.HighIno
	from, err := v.lastOwn(ctx, replay, head, row)
	if err != nil {
		return err
	}
	if err := v.stand(from); err != nil {
		return err
	}
	if err := v.replay(ctx, replay, row.Op); err != nil {
		return err
	}
	switch {
	case head.Seq > v.base.Seq:
		return v.moveTo(ctx, head, nil)
	case from == head && !v.ownWork(head) && !v.opt.ReadOnly:
		// A replay begins on this device's own newest commit: it must learn of this one.
		return v.record(recBase, baseRecord{Seq: head.Seq, Hash: head.Hash}.encode(), nil, 0)
	}
	return nil
}

// notContained: damage may have taken the record that the store knows. That it was no
// other history can't be told any more.
func (v *Vault) notContained() error {
	if d := v.jrn.Damage(); len(d) > 0 {
		return fmt.Errorf("%s. What the store has of this device is no longer in it: %w", DamageText(d[0]), ErrCloned)
	}
	return ErrCloned
}

// ownWork says whether a commit is one that this device's operations end in.
func (v *Vault) ownWork(c *log.Commit) bool {
	return c.Device == v.opt.Session.Device && c.Kind != log.Membership
}

// stand makes a commit the base of the live tree.
func (v *Vault) stand(c *log.Commit) error {
	st, err := tree.ParseState(c.Root)
	if err != nil {
		return err
	}
	v.base, v.baseState, v.w = c, st, newWorld(st, v.number)
	return nil
}

// resume sends a commit again that was signed before a crash, if its slot is not yet known.
func (v *Vault) resume(ctx context.Context, replay *journal.Replay) error {
	var seq uint64
	var size uint32
	var buf []byte
	err := replay.Each(0, func(r journal.Record) error {
		if r.Kind != recCommit {
			return nil
		}
		d := decoder{b: r.Meta}
		s, n := d.u64(), d.u32()
		part, err := v.jrn.Payload(r.Loc)
		if err != nil || d.bad || len(d.b) != 0 {
			return errors.Join(err, errOpDecode)
		}
		if s != seq || n != size || uint32(len(buf)) >= size {
			seq, size, buf = s, n, nil
		}
		buf = append(buf, part...)
		return nil
	})
	// A commit of which the crash has taken a part was not synced, and so never sent.
	if err != nil || uint32(len(buf)) != size || buf == nil || seq <= v.log.Head().Seq {
		return err
	}
	if v.log.Recalled() {
		return v.holdCommit(buf)
	}
	if v.opt.ReadOnly {
		return nil
	}
	if err := v.log.Resume(ctx, buf); err != nil && !errors.Is(err, log.ErrLost) {
		return err
	}
	for {
		c, err := v.log.Next(ctx)
		if c == nil || err != nil {
			return err
		}
	}
}

// enrol gives this device its number, by a small commit before anything is created.
func (v *Vault) enrol(ctx context.Context, replay *journal.Replay) error {
	if err := replay.Each(0, func(r journal.Record) error {
		if r.Kind == recOp {
			return ErrCloned
		}
		return nil
	}); err != nil {
		return err
	}
	if v.log.Recalled() && !v.opt.ReadOnly {
		return errNoNumber
	}
	for !v.opt.ReadOnly {
		row := &log.DeviceRow{Number: 1, Journal: v.jrn.ID(), Op: v.jrn.Pos().N, Run: v.jrn.Pos().Run}
		for _, d := range v.log.Head().Devices {
			row.Number = max(row.Number, d.Number+1)
		}
		if row.Number > tree.MaxDevice {
			return fmt.Errorf("this vault has seen %d devices, the most it can: mount it read-only, or make a new one", tree.MaxDevice)
		}
		p, err := v.log.Prepare(log.Body{Kind: log.Numbering, Row: row})
		if err != nil {
			return err
		}
		if err := v.journalCommit(p); err != nil {
			return err
		}
		err = v.log.Append(ctx, p)
		if err == nil {
			v.number = row.Number
			break
		}
		if !errors.Is(err, log.ErrLost) {
			return err
		}
		for {
			c, err := v.log.Next(ctx)
			if err != nil {
				return err
			}
			if c == nil {
				break
			}
		}
	}
	return v.stand(v.log.Head())
}

// lastOwn returns the commit that the operations after row.Op were made on: the newest
// that this device made, or the head where nothing is pending.
func (v *Vault) lastOwn(ctx context.Context, replay *journal.Replay, head *log.Commit, row *log.DeviceRow) (*log.Commit, error) {
	pending := false
	if err := replay.Each(row.Op, func(r journal.Record) error { pending = pending || r.Kind == recOp; return nil }); err != nil {
		return nil, err
	}
	if !pending {
		return head, nil
	}
	for seq := head.Seq; ; seq-- {
		c, err := v.log.At(ctx, seq)
		if err != nil {
			return nil, err
		}
		if c != nil && v.ownWork(c) {
			return c, nil
		}
		if seq == 0 {
			return nil, ErrCloned
		}
	}
}

// replay applies the journal's records after a position, changing over to another
// commit wherever the live mount did.
func (v *Vault) replay(ctx context.Context, replay *journal.Replay, after uint64) error {
	load := func(m *tree.Miss) error { return v.fill(ctx, m) }
	err := replay.Each(0, func(r journal.Record) error {
		switch r.Kind {
		case recDir:
			d, err := decodeDirRecord(r.Meta)
			if err != nil {
				return err
			}
			v.w.where[d.Ino] = d.At
			return nil
		case recBase:
			b, err := decodeBaseRecord(r.Meta)
			if err != nil {
				return err
			}
			for _, ino := range b.Made {
				v.next = max(v.next, uint32(ino))
			}
			if r.N <= after || b.Seq <= v.base.Seq {
				return nil
			}
			c, err := v.log.At(ctx, b.Seq)
			if err != nil || c == nil || c.Hash != log.Hash(b.Hash) {
				return err
			}
			return v.moveTo(ctx, c, b.Made)
		case recOp:
			o, err := v.decode(r)
			if err != nil {
				return err
			}
			if r.N <= after {
				return v.redoNameless(o)
			}
			return tree.Load(load, func() error { return v.redo(o) })
		}
		return nil
	})
	for ino := range v.w.orphans {
		delete(v.w.orphans, ino) // nobody holds it any more
	}
	return err
}

// decode turns a record back into an operation, its content left where it is.
func (v *Vault) decode(r journal.Record) (*op, error) {
	o, err := decodeOp(r.N, r.Meta)
	if err != nil || o.Kind != opWrite {
		return o, err
	}
	l := &local{src: v.jrn, loc: r.Loc}
	if o.Flags&flagChunk != 0 {
		l.chunk = &o.Chunk
	}
	if o.Len == 0 || o.Len > chunkSize {
		return nil, fmt.Errorf("%w: operation %d", errOpDecode, o.N)
	}
	o.Blob = tree.NewBlob(uint32(o.Len), l)
	return o, nil
}

// redoNameless brings back a file without a name: it is in no commit, but a later
// operation may give it a name.
func (v *Vault) redoNameless(o *op) error {
	_, known := v.w.orphans[o.Ino]
	switch {
	case o.Kind == opCreate && o.To.Parent == 0:
		return v.w.apply(o)
	case known && o.Kind == opLink:
		delete(v.w.orphans, o.Ino)
		delete(v.w.dirty, o.Ino)
	case known:
		return v.w.apply(o)
	}
	return nil
}

// redo applies one operation again, on the tree it was made on.
func (v *Vault) redo(o *op) error {
	if _, known := v.w.where[o.Ino]; o.Kind != opCreate && (o.At.Parent != 0 || !known) {
		v.w.where[o.Ino] = o.At
	}
	if o.ToIno != 0 {
		v.w.where[o.ToIno] = o.To
	}
	if err := v.w.apply(o); err != nil {
		var miss *tree.Miss
		if errors.As(err, &miss) {
			return err
		}
		if errors.Is(err, errNoInode) && o.At.Parent == 0 {
			return nil // a file without a name, made before the last commit: its last holder is gone
		}
		return fmt.Errorf("operation %d of the journal does not fit the tree it was made on: %w", o.N, err)
	}
	if o.Kind == opCreate && uint16(o.Ino>>32) == v.number {
		v.next = max(v.next, uint32(o.Ino))
	}
	v.remember(o)
	return nil
}

// moveTo carries what is pending over to another commit, and tells the kernel. After a
// crash, given are the numbers of the inodes that this made before.
func (v *Vault) moveTo(ctx context.Context, c *log.Commit, given []Ino) error {
	st, err := tree.ParseState(c.Root)
	if err != nil {
		return err
	}
	for _, n := range c.Nodes {
		// The commit says where its new pages are: one request brings them all.
		_ = v.packs.Prefetch(ctx, tree.Range(n))
	}
	r := v.newRebase(v, c, st, 0)
	r.given = given
	return v.rebase(ctx, r)
}

const toHead = 1 << 30

// catchUp follows the log to its head, or by so many commits at most. Under turn.
func (v *Vault) catchUp(ctx context.Context, most int) error {
	var newest *log.Commit
	for range most {
		c, err := v.log.Next(ctx)
		if err != nil {
			return v.observe(err)
		}
		v.observe(nil)
		if c == nil {
			break
		}
		newest = c
	}
	if newest == nil {
		newest = v.log.Head()
	}
	if pc := v.pending; pc != nil && newest.Seq >= pc.p.Seq {
		if err := v.settle(ctx, pc); err != nil {
			return err
		}
	}
	if newest.Seq == v.base.Seq {
		return v.tellUntold(ctx)
	}
	was, is := v.base.Row(v.opt.Session.Device), newest.Row(v.opt.Session.Device)
	if was != nil && (is == nil || *is != *was) {
		v.fail(ErrCloned)
		return ErrCloned
	}
	v.count(func(s *counters) { s.touched = v.opt.Now() })
	return v.moveTo(ctx, newest, nil)
}

// Follow looks for commits of others, once.
func (v *Vault) Follow(ctx context.Context) error {
	if err := v.turn.await(ctx); err != nil {
		return err
	}
	defer v.turn.Unlock()
	v.count(func(s *counters) { s.probed = v.opt.Now() })
	if v.pending != nil && !v.opt.ReadOnly {
		// What was sent comes first: the answer to it, or another's commit in its slot.
		if err := v.finish(ctx); err != nil && !errors.Is(err, log.ErrLost) {
			return v.observe(err)
		}
	}
	return v.catchUp(ctx, toHead)
}
