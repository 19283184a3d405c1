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

// ErrUnrelated: a journal and the log share no point, so that nobody can say on which
// tree its operations were made.
var ErrUnrelated = errors.New("the journal of the former device shares no point with the log: nothing of it could be carried over, and it is kept as it is")

// recAdopted is, in the journal that is adopted, the note that a commit is about to be
// sent which contains its operations; in the journal of the device that adopts, it names
// the other by its id and gives the operations their number.
const recAdopted uint8 = 5

const idLen = 16 // of a journal

// Adopt takes over what the journal of another device of this identity holds and the log
// does not: the journal of a home that was copied or restored, and is not to be used as
// it is. The operations are carried over as in a rebase, under numbers of this device,
// and are in the store when Adopt returns nil; it returns how many there were. What the
// log contains already is left out, see the file known.go.
//
// The vault must be freshly opened and used by nobody else; on an error it accepts no
// changes any more and must be closed. The old journal is opened and closed, and gets a
// note, so that a call which is repeated after an error, or after a crash, carries every
// operation over once.
//
// A copy of the old home that is still in use knows nothing of this: what both hold and
// the log did not, it will store once more. Whoever can, lets it finish first.
func (v *Vault) Adopt(ctx context.Context, old journal.Disk, key seal.Key, device keys.DeviceID) (int, error) {
	if v.opt.ReadOnly {
		return 0, errors.Join(ErrReadOnly, old.Close())
	}
	jrn, replay, err := journal.Open(old, key, journal.Options{Vault: v.opt.Vault})
	if err != nil {
		return 0, err
	}
	v.turn.Lock()
	n, err := v.adopt(ctx, jrn, replay, device)
	if err != nil && !errors.Is(err, ErrUnrelated) {
		v.fail(err) // the live tree may stand on a journal that is closed
	}
	v.turn.Unlock()
	return n, errors.Join(err, jrn.Close())
}

func (v *Vault) adopt(ctx context.Context, jrn *journal.Journal, replay *journal.Replay, device keys.DeviceID) (int, error) {
	if n, done, err := v.adopted(ctx, replay); done || err != nil {
		return n, err
	}
	f, err := v.findFork(ctx, jrn.ID(), replay, device)
	if err != nil {
		return 0, err
	}
	if f.from == nil {
		return 0, unrelated(replay)
	}
	a := &adoption{v: v, was: v.former(jrn, f.row), row: f.row}
	if err := a.was.stand(f.from); err != nil {
		return 0, err
	}
	if err := a.was.replay(ctx, replay, f.row.Op); err != nil {
		return 0, err
	}
	if a.known, err = v.knownOf(ctx, f, a.was); err != nil {
		return 0, err
	}
	if err := a.carry(ctx); err != nil || a.count == 0 {
		return 0, err
	}
	return a.count, a.store(ctx)
}

func unrelated(replay *journal.Replay) error {
	return replay.Each(0, func(r journal.Record) error {
		if r.Kind == recOp {
			return ErrUnrelated
		}
		return nil
	})
}

// adopted reports whether an earlier call has come to its end: the log holds the commit
// that it was about to send.
func (v *Vault) adopted(ctx context.Context, replay *journal.Replay) (n int, done bool, err error) {
	err = replay.Each(0, func(r journal.Record) error {
		if r.Kind != recAdopted || len(r.Meta) == idLen || done {
			return nil
		}
		d := decoder{b: r.Meta}
		head := log.Head{Seq: d.u64(), Hash: log.Hash(d.take(32))}
		count := int(d.u32())
		if d.bad || len(d.b) != 0 {
			return errOpDecode
		}
		if head.Seq > v.base.Seq {
			return nil
		}
		c, err := v.log.At(ctx, head.Seq)
		if err == nil && c != nil && c.Head == head {
			n, done = count, true
		}
		return err
	})
	return n, done, err
}

// fork is where a journal and the log part.
type fork struct {
	from *log.Commit   // the device's newest commit that the journal knows
	row  log.DeviceRow // its row there
	next *log.Commit   // the device's first commit that the journal does not know, if any
}

// findFork goes back in the log to the newest commit of the device that the journal knows.
func (v *Vault) findFork(ctx context.Context, id [16]byte, replay *journal.Replay, device keys.DeviceID) (f fork, err error) {
	var seen log.DeviceRow
	known := false // seen is
	for seq := v.base.Seq; ; seq-- {
		c, err := v.log.At(ctx, seq)
		if err != nil {
			return f, err
		}
		if c != nil {
			row := c.Row(device)
			if row == nil || known && *row != seen {
				return f, nil
			}
			if *row != seen && row.Journal == id {
				if known, err = replay.Contains(journal.Pos{N: row.Op, Run: row.Run}); err != nil {
					return f, err
				}
			}
			seen = *row
			switch { // of several commits with one row, the oldest has set it
			case c.Device != device:
			case known:
				f.from, f.row = c, *row
			default:
				f.next = c
			}
		}
		if seq == 0 {
			return f, nil
		}
	}
}

// former returns the old device's vault, as yet without a tree.
func (v *Vault) former(jrn *journal.Journal, row log.DeviceRow) *Vault {
	return &Vault{opt: v.opt, share: v.share, turn: make(lock, 1), log: v.log, jrn: jrn, back: make(chan struct{}), pressure: pressure{ended: make(chan struct{})}, packs: v.packs, hot: v.hot, number: row.Number, next: row.HighIno,
		described: map[Ino]bool{}, refs: map[Ino]*ref{}, nameless: map[Ino]uint64{}, linked: map[Ino]uint64{}, waits: newWaits()}
}

// adoption is an Adopt that is under way.
type adoption struct {
	v     *Vault
	was   *Vault // the old device's vault, with all of its operations
	row   log.DeviceRow
	known *known
	count int // operations carried over
}

// carry makes the head, with the operations that the log does not contain, the live tree.
func (a *adoption) carry(ctx context.Context) error {
	v := a.v
	n, err := a.number()
	if err != nil {
		return err
	}
	r := v.newRebase(a.was, v.base, v.baseState, 0)
	r.load = func(m *tree.Miss) error { return v.fill(ctx, m) }
	if err := r.compare(); err != nil {
		return err
	}
	a.was.mu.Lock()
	r.ops = a.was.ops
	search := r.places()
	a.was.mu.Unlock()
	if search {
		if err := r.deepen(); err != nil {
			return err
		}
	}
	for ; r.done < len(r.ops); r.done++ {
		if err := a.one(ctx, r, n); err != nil {
			return err
		}
	}
	clear(r.w.orphans) // nobody holds them any more
	v.mu.Lock()
	defer v.mu.Unlock()
	v.swap(r)
	return nil
}

// number takes the journal's next number for all operations: the version of what they
// change is then one that nobody has seen before.
func (a *adoption) number() (uint64, error) {
	a.v.mu.Lock()
	defer a.v.mu.Unlock()
	id := a.was.jrn.ID()
	rec, err := a.v.append(recAdopted, id[:], nil, 0)
	return rec.N, err
}

// one carries one operation over, or sees to it that what follows knows of it.
func (a *adoption) one(ctx context.Context, r *rebase, n uint64) error {
	o := r.ops[r.done]
	contained := a.known.upTo(r.ops[r.done:])
	if !contained {
		// From here on the journal's numbers may mean other operations in the log.
		r.then.dev = a.v.number
		if !ours(r, o) {
			var err error
			if contained, err = a.known.holds(ctx, o); err != nil {
				return err
			}
		}
	}
	if contained {
		r.hint(o.Ino, o.At)
		r.hint(o.ToIno, o.To)
		return fits(tree.Load(r.load, func() error { return r.then.apply(o) }))
	}
	a.count++
	if (o.Kind == opCreate || o.Kind == opPut) && uint16(o.Ino>>32) == a.row.Number && uint32(o.Ino) > a.row.HighIno {
		r.alias[o.Ino] = r.number()
	}
	mine := *o
	mine.N = n
	return r.carry(&mine)
}

// ours reports whether an operation is about something that is made anew: the log may use
// the same number for something else.
func ours(r *rebase, o *op) bool {
	for _, ino := range []Ino{o.Ino, o.ToIno, o.At.Parent, o.To.Parent} {
		if _, ok := r.alias[ino]; ok {
			return true
		}
	}
	return false
}

// store commits the live tree, as often as another commit is faster.
func (a *adoption) store(ctx context.Context) error {
	for {
		err := a.commit(ctx)
		if !errors.Is(err, log.ErrLost) {
			return a.v.observe(err)
		}
		if err := a.v.catchUp(ctx, toHead); err != nil {
			return err
		}
	}
}

// commit is one try. The old journal says what is about to be sent before it is: whoever
// adopts it again looks whether that has arrived.
func (a *adoption) commit(ctx context.Context) error {
	b, err := a.v.freeze(ctx)
	if errors.Is(err, errNothing) {
		return nil // nothing fitted any more
	}
	if err != nil {
		return err
	}
	if err := a.v.build(ctx, b); err != nil {
		a.v.thaw(b)
		return err
	}
	var e encoder
	head := a.v.pending.p.Head
	e.u64(head.Seq)
	e.b = append(e.b, head.Hash[:]...)
	e.u32(uint32(a.count))
	if _, err := a.was.jrn.Append(recAdopted, e.b, nil, journal.Urgent); err != nil {
		return err
	}
	if err := a.was.jrn.Sync(); err != nil {
		return err
	}
	return a.v.finish(ctx)
}
