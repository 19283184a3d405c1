package fs

import (
	"context"
	"time"

	"kist/fs/tree"
)

// Where the newest state of a file is, see State.
const (
	InMemory  = "memory"  // not all of it is synced on this disk yet
	InJournal = "journal" // in the journal on this disk, not yet in the store
	InStore   = "stored"  // in a commit
)

// waits says of which inodes something is not yet in the store. It belongs to a world and
// to the list of operations that made it: who appends to the one notes it in the other.
type waits struct {
	on    map[Ino]waiting
	files int // of them, so many are files with a name, and not only the place of a name
}

type waiting struct {
	n      uint64 // the newest record about it
	made   bool   // a rebase changed it: that is recorded with its base record
	itself bool   // it is not only the folder of something
	file   bool   // no directory
	counts bool   // in waits.files
}

func newWaits() *waits { return &waits{on: map[Ino]waiting{}} }

// note adds an operation that w has just carried out.
func (s *waits) note(w *world, o *op) {
	s.about(w, o.Ino, o, true)
	s.about(w, o.ToIno, o, true)
	switch o.Kind {
	case opCreate, opLink, opUnlink, opRename, opExchange, opPut:
		s.about(w, o.At.Parent, o, false)
		s.about(w, o.To.Parent, o, false)
	}
}

func (s *waits) about(w *world, ino Ino, o *op, itself bool) {
	if ino == 0 {
		return
	}
	e := s.on[ino]
	e.n, e.made = max(e.n, o.N), e.made || o.N == 0
	if itself && !e.itself {
		rec, err := w.get(ino)
		e.itself, e.file = true, err == nil && rec.Type != tree.TypeDir
	}
	_, named := w.where[ino]
	if counts := e.itself && e.file && named; counts != e.counts {
		e.counts = counts
		if s.files++; !counts {
			s.files -= 2
		}
	}
	s.on[ino] = e
}

// State says where the newest state of an inode is: its content and attributes, of a
// folder the names in it, not what stands below.
func (v *Vault) State(ctx context.Context, ino Ino) (string, error) {
	state := InStore
	err := v.locked(ctx, func() error {
		rec, err := v.w.get(ino)
		if err != nil {
			return err
		}
		e, waits := v.waits.on[ino]
		n := e.n
		if e.made {
			n = max(n, v.baseAt)
		}
		switch {
		case n > v.jrn.Durable().N:
			state = InMemory
		case waits, rec.Nlink == 0: // no commit contains what has no name
			state = InJournal
		default:
			state = InStore
		}
		return nil
	})
	return state, err
}

// oldest is when the oldest operation that is not in the store was made, also before this
// mount. Under mu.
func (v *Vault) oldest() time.Time {
	if len(v.ops) == 0 {
		return time.Time{}
	}
	return time.Unix(v.ops[0].Time.Sec, int64(v.ops[0].Time.Nsec))
}
