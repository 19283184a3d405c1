package fs

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"time"
	"unicode/utf8"

	"kist/fs/tree"
)

// opPut puts a whole record under a name: what a rebase brings back or keeps beside.
// It is never journalled, since a replay makes it again.
const opPut = opKindMax + 1

func (w *world) applyPut(o *op) error {
	ent, taken, err := w.child(o.To.Parent, o.To.Name)
	if err != nil {
		return err
	}
	n := *o.put
	n.Ino, n.Nlink, n.VerDev, n.VerOp = o.Ino, 1, w.dev, o.mark()
	switch {
	case !taken:
		err = w.link(o.To, tree.Entry{Inode: &n}, o.Time)
	case ent.Ino == o.Ino && !ent.Linked:
		err = w.setEntry(o.To, tree.Entry{Inode: &n})
	default:
		err = w.free(o.To)
	}
	if err != nil {
		return err
	}
	delete(w.orphans, o.Ino)
	w.where[o.Ino] = o.To
	w.dirty[o.Ino] = struct{}{}
	return nil
}

// parent makes sure that the directory an operation of ours needs is there. One that
// theirs removed is made again, and those above it too.
func (r *rebase) parent(dir Ino) error {
	if dir == 0 || dir == RootIno {
		return nil
	}
	rec, err := r.find(r.as(dir))
	if err == nil && rec.Nlink > 0 || err != nil && !errors.Is(err, errNoInode) {
		return err
	}
	was, err := r.get(r.then, dir)
	if err != nil {
		return err
	}
	return r.remake(was, r.then.where[dir])
}

// remake makes a directory of ours again, empty, or joins it with the one that stands
// there by now.
func (r *rebase) remake(was *tree.Inode, at place) error {
	if err := r.parent(at.Parent); err != nil {
		return err
	}
	to := place{r.as(at.Parent), at.Name}
	ino := r.as(was.Ino)
	there, _, err := r.child(to)
	if err != nil || r.join(ino, tree.TypeDir, there, to) {
		return err
	}
	delete(r.w.orphans, ino)
	n := &op{Kind: opCreate, Ino: ino, Time: was.Ctime, To: to, Rec: encodeRec(was), put: was}
	return r.settle(at, n, timeAt(was.Ctime))
}

// revive brings an inode that theirs removed back under a name of ours, as the author
// of the operation saw it; a directory with everything that went with it.
func (r *rebase) revive(o *op, at place) error {
	was, err := r.get(r.then, o.Ino)
	if errors.Is(err, errNoInode) && o.Kind == opLink {
		r.nameless(o, r.then)
		was, err = r.get(r.then, o.Ino)
	}
	if err != nil {
		return fits(err)
	}
	r.then.freeze() // what is taken out of it stays as it is
	return r.bringBack(o, was, at)
}

func (r *rebase) bringBack(o *op, was *tree.Inode, at place) error {
	if was.Type == tree.TypeDir {
		if err := r.remake(was, at); err != nil {
			return err
		}
		return r.contents(o, was)
	}
	if err := r.parent(at.Parent); err != nil {
		return err
	}
	n := &op{Kind: opPut, Ino: r.as(was.Ino), N: o.N, Time: o.Time, To: place{r.as(at.Parent), at.Name}, put: was}
	return r.settle(at, n, opTime(o))
}

// contents brings back what a directory held and theirs has nowhere.
func (r *rebase) contents(o *op, dir *tree.Inode) error {
	ents, err := r.entries(dir)
	if err != nil {
		return err
	}
	for _, e := range ents {
		if _, err := r.subject(e.Ino); err == nil {
			continue
		} else if !errors.Is(err, errNoInode) {
			return err
		}
		r.hint(e.Ino, placeOf(e.Entry, dir.Ino, e.name))
		rec, err := r.get(r.then, e.Ino)
		if err != nil {
			return err
		}
		if err := r.bringBack(o, rec, place{dir.Ino, e.name}); err != nil {
			return err
		}
	}
	return nil
}

// replace carries over what an earlier rebase has put: a conflict copy, or what it
// brought back. Where others did the same meanwhile, both are kept.
func (r *rebase) replace(o, n *op) error {
	if err := r.parent(o.To.Parent); err != nil {
		return err
	}
	n.To.Parent = r.as(o.To.Parent)
	there, rec, err := r.child(n.To)
	if err != nil {
		return err
	}
	if there.Ino == n.Ino && !there.Linked && r.isCopy(rec, o.copyOf) {
		r.made[n.Ino] = true
		return r.do(n)
	}
	if _, err := r.find(n.Ino); err == nil {
		n.Ino = r.number()
		r.alias[o.Ino] = n.Ino
	} else if !errors.Is(err, errNoInode) {
		return err
	}
	return r.settle(o.To, n, opTime(o))
}

// copy keeps our version of a file beside theirs, in one conflict copy a file and
// device, and carries the change out on it.
func (r *rebase) copy(o, n *op) error {
	was, err := r.get(r.then, o.Ino)
	if err != nil {
		return fits(err)
	}
	r.then.freeze()
	at, err := r.nameIn(r.w, n.Ino)
	if err != nil {
		return err
	}
	p := &op{Kind: opPut, Time: o.Time, put: was, copyOf: n.Ino}
	if p.To, p.Ino, err = r.prior(at, n.Ino, tree.TypeFile); err != nil {
		return err
	}
	if p.Ino == 0 {
		name, err := r.freeName(at, place{}, opTime(o))
		if err != nil {
			return err
		}
		p.To, p.Ino = place{at.Parent, name}, r.number()
	}
	if err := r.do(p); err != nil {
		return err
	}
	r.copies[n.Ino], r.made[p.Ino] = p.Ino, true
	r.v.complain("a file was changed on two machines: both versions were kept")
	n.Ino, n.At, n.N, n.copyOf = p.Ino, p.To, 0, n.Ino
	return fits(r.do(n))
}

// nameIn returns the name of an inode, or of several the first that a walk meets: which
// one is known here depends on the past, and must not matter.
func (r *rebase) nameIn(w *world, ino Ino) (at place, err error) {
	several := false
	err = tree.Load(r.load, func() error {
		_, several, err = w.table.Get(tree.Key(ino))
		return err
	})
	if err != nil {
		return at, err
	}
	if at, ok := w.where[ino]; ok && !several {
		return at, nil
	}
	err = r.walk([]*tree.Inode{w.root}, func(dir Ino, name string, e tree.Entry) bool {
		if e.Ino == ino {
			at = place{dir, name}
		} else if e.Type == tree.TypeDir {
			w.where[e.Ino] = place{dir, name}
		}
		return e.Ino != ino
	})
	return at, err
}

// copyMark is set in the version of a conflict copy, with the number of the file of which
// it is one; so it is known later, unless somebody has changed it: every operation gives
// another version.
const copyMark = 1 << 63

// mark is the second half of the version that an operation leaves.
func (o *op) mark() uint64 {
	if o.copyOf != 0 {
		return copyMark | o.copyOf
	}
	return o.N
}

// isCopy says whether a record is a conflict copy of a file, as this device has left it.
func (r *rebase) isCopy(rec *tree.Inode, of Ino) bool {
	return of != 0 && rec.VerDev == r.v.number && rec.VerOp == copyMark|of
}

// prior finds the conflict copy that this device made before of a file at a place, if it
// still has its name and nobody has touched it.
func (r *rebase) prior(at place, of Ino, t tree.Type) (found place, ino Ino, err error) {
	head, tail := conflictForm(at.Name, r.v.opt.Session.User, r.v.opt.Session.DeviceName, len(time.DateOnly))
	dir, err := r.get(r.w, at.Parent)
	if err != nil {
		return place{}, 0, err
	}
	err = tree.Load(r.load, func() error {
		found, ino = place{}, 0
		return dir.Dir.Scan(head, func(name string, e tree.Entry) bool {
			if !strings.HasPrefix(name, head) {
				return false
			}
			if strings.HasSuffix(name, tail) && !e.Linked && e.Type == t && r.isCopy(e.Inode, of) {
				found, ino = place{at.Parent, name}, e.Ino
			}
			return ino == 0
		})
	})
	return found, ino, err
}

// freeName returns the name itself if it is free, else the first form of
// «name (conflict, NAME's DEVICE, DATE).ext» that is. The place that is given up for it
// counts as free.
func (r *rebase) freeName(at, given place, day time.Time) (string, error) {
	for i := 0; ; i++ {
		name := at.Name
		if i > 0 {
			name = conflictName(at.Name, r.v.opt.Session.User, r.v.opt.Session.DeviceName, day, i)
		}
		to := place{at.Parent, name}
		if _, rec, err := r.child(to); err != nil || rec == nil || to == given {
			return name, err
		}
	}
}

func opTime(o *op) time.Time { return timeAt(o.Time) }

func timeAt(t tree.Time) time.Time { return time.Unix(t.Sec, int64(t.Nsec)).UTC() }

// conflictName is the n-th form of a name that is taken.
func conflictName(name, user, device string, day time.Time, n int) string {
	date := day.Format(time.DateOnly)
	if n > 1 {
		date += fmt.Sprintf(" %d", n)
	}
	head, tail := conflictForm(name, user, device, len(date))
	return head + date + tail
}

// conflictForm gives what stands before and after the date. It keeps the extension,
// and fits into what a name may have whatever the names in it are.
func conflictForm(name, user, device string, date int) (head, tail string) {
	ext := path.Ext(name)
	if ext == name || len(ext) > 32 {
		ext = ""
	}
	stem, tail := strings.TrimSuffix(name, ext), ")"+ext
	mark := fmt.Sprintf(" (conflict, %s's %s, ", short(user, 48), short(device, 48))
	if over := len(stem) + len(mark) + date + len(tail) - tree.MaxName; over > 0 {
		stem = short(stem, len(stem)-over)
	}
	return stem + mark, tail
}

// short cuts a text to n bytes, between two characters, and makes it fit for a name.
func short(s string, n int) string {
	if len(s) > n {
		for n > 0 && !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n]
	}
	return strings.NewReplacer("/", "-", "\x00", "-").Replace(s)
}
