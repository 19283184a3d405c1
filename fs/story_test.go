package fs

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"kist/backend"
	"kist/backend/mem"
	"kist/fs/tree"
)

// do carries out a script: commands of a shell, told apart by semicolons. A word may
// hold «_» for a space.
//
//	new F TEXT        create a file            save F TEXT   write a new file over F
//	put F OFF TEXT    pwrite                   app F TEXT    O_APPEND
//	trunc F N, punch F OFF N, chmod F MODE, chown F UID, times F SEC, xattr F NAME VALUE, rmxattr F NAME
//	mkdir D, rmdir D, rm F, mv A B, xchg A B, ln A B, sym L TARGET, fifo F
//	open F            hold it open under its path, for hput PATH OFF TEXT and close PATH
//	tmp F TEXT        O_TMPFILE, held as F; name F gives it that name
//	sync, follow, fsync, crash, day
//	lost              a sync whose commit arrives, but not the answer; refused: nor the commit
//	cut STEP          a sync that a power cut ends before the next step
func (m *machine) do(script string) {
	m.d.t.Helper()
	for _, line := range strings.Split(script, ";") {
		w := strings.Fields(line)
		if len(w) == 0 {
			continue
		}
		for i := range w {
			w[i] = strings.ReplaceAll(m.d.expand(w[i]), "_", " ")
		}
		if err := m.command(w[0], w[1:]); err != nil {
			m.d.t.Fatalf("%s: %s: %v", m.name, line, err)
		}
	}
}

// expand turns {b} into what a conflict name of machine b has between name and extension.
func (d *drive) expand(s string) string {
	for _, name := range []string{"a", "b", "c"} {
		s = strings.ReplaceAll(s, "{"+name+"}", " (conflict, ann's "+name+", 2027-01-15)")
		s = strings.ReplaceAll(s, "{"+name+"2}", " (conflict, ann's "+name+", 2027-01-15 2)")
	}
	return s
}

func (m *machine) command(verb string, w []string) error {
	ctx := context.Background()
	num := func(i int) uint64 { n, err := strconv.ParseUint(w[i], 0, 64); m.d.check(err); return n }
	switch verb {
	case "sync":
		return m.v.Sync(ctx)
	case "follow":
		return m.v.Follow(ctx)
	case "fsync":
		return m.v.Fsync(ctx, RootIno)
	case "crash":
		m.held = nil
		return m.crash(7)
	case "lost", "refused", "cut":
		return m.unlucky(verb, w)
	case "day":
		m.d.clock.add(24 * 3600e9)
		return nil
	case "hput":
		_, err := m.v.Write(ctx, m.held[w[0]], []byte(w[2]), num(1), WriteOpts{})
		return err
	case "close":
		m.v.Release(m.held[w[0]])
		return nil
	}
	dir, name, err := m.parent(w[0])
	if err != nil {
		return err
	}
	switch verb {
	case "new", "save", "mkdir", "fifo", "sym", "tmp", "name":
		return m.makes(verb, dir, name, w)
	case "rm":
		return m.v.Unlink(ctx, dir, name)
	case "rmdir":
		return m.v.Rmdir(ctx, dir, name)
	case "mv", "xchg":
		to, as, err := m.parent(w[1])
		if err != nil {
			return err
		}
		return m.v.Rename(ctx, dir, name, to, as, map[string]uint32{"mv": 0, "xchg": RenameExchange}[verb])
	}
	a, err := m.v.Lookup(ctx, dir, name)
	if err != nil {
		return err
	}
	if verb == "open" {
		m.hold(w[0], a.Ino)
		return m.v.Open(ctx, a.Ino)
	}
	defer m.v.Forget(a.Ino, 1)
	return m.edits(verb, a.Ino, w, num)
}

// unlucky is a sync that does not end well.
func (m *machine) unlucky(how string, w []string) error {
	view, errCut := m.store.(*mem.Store), errors.New("cut")
	created := false
	view.SetSerialHook(func(r mem.Request) mem.Answer {
		switch {
		case how == "refused" && r.Verb == mem.Create:
			return mem.Answer{Before: errFault}
		case how == "lost" && r.Verb == mem.Create:
			created = true
			return mem.Answer{After: errFault}
		case created:
			return mem.Answer{Before: errFault}
		}
		return mem.Answer{}
	})
	m.step = func(s string) error {
		if how == "cut" && s == w[0] {
			return errCut
		}
		return nil
	}
	err := m.v.Sync(context.Background())
	view.SetHook(nil)
	m.step = nil
	if how == "cut" && errors.Is(err, errCut) {
		return m.crash(7)
	}
	if how == "cut" || !errors.Is(err, backend.ErrAway) {
		return fmt.Errorf("the sync ended with %w", err)
	}
	return nil
}

func (m *machine) hold(path string, ino Ino) {
	if m.held == nil {
		m.held = map[string]Ino{}
	}
	m.held[path] = ino
}

// makes carries out a command that makes a name.
func (m *machine) makes(verb string, dir Ino, name string, w []string) error {
	ctx := context.Background()
	var a Attr
	var err error
	switch verb {
	case "sym":
		a, err = m.v.Symlink(ctx, Cred{}, dir, name, w[1])
	case "mkdir":
		a, err = m.v.Create(ctx, Cred{}, dir, name, syscall.S_IFDIR|0o755, 0)
	case "fifo":
		a, err = m.v.Create(ctx, Cred{}, dir, name, syscall.S_IFIFO|0o644, 0)
	case "tmp":
		if a, err = m.v.Tmpfile(ctx, Cred{}, dir, 0o644); err == nil {
			m.hold(w[0], a.Ino)
			_, err = m.v.Write(ctx, a.Ino, []byte(w[1]), 0, WriteOpts{})
		}
		return err
	case "name":
		a, err = m.v.Link(ctx, m.held[w[0]], dir, name)
	default:
		made := name
		if verb == "save" {
			made = "." + name + ".tmp"
		}
		if a, err = m.v.Create(ctx, Cred{}, dir, made, syscall.S_IFREG|0o644, 0); err != nil {
			return err
		}
		if _, err = m.v.Write(ctx, a.Ino, []byte(w[1]), 0, WriteOpts{}); err == nil && verb == "save" {
			err = m.v.Rename(ctx, dir, made, dir, name, 0)
		}
	}
	if err == nil {
		m.v.Forget(a.Ino, 1)
	}
	return err
}

// edits carries out a command about one inode.
func (m *machine) edits(verb string, ino Ino, w []string, num func(int) uint64) (err error) {
	ctx := context.Background()
	set := func(s SetAttr) { _, err = m.v.Setattr(ctx, ino, s) }
	switch verb {
	case "put":
		_, err = m.v.Write(ctx, ino, []byte(w[2]), num(1), WriteOpts{})
	case "app":
		_, err = m.v.Write(ctx, ino, []byte(w[1]), 0, WriteOpts{Append: true})
	case "trunc":
		set(SetAttr{Mask: SetSize, Size: num(1)})
	case "punch":
		err = m.v.Fallocate(ctx, ino, fallocPunchHole|fallocKeepSize, num(1), num(2))
	case "chmod":
		set(SetAttr{Mask: SetMode, Mode: uint32(num(1))})
	case "chown":
		set(SetAttr{Mask: SetUid, Uid: uint32(num(1))})
	case "times":
		set(SetAttr{Mask: SetMtime, Mtime: tree.Time{Sec: int64(num(1))}})
	case "xattr":
		err = m.v.Setxattr(ctx, ino, w[1], []byte(w[2]), 0)
	case "rmxattr":
		err = m.v.Removexattr(ctx, ino, w[1])
	case "ln":
		dir, name, perr := m.parent(w[1])
		if perr != nil {
			return perr
		}
		if _, err = m.v.Link(ctx, ino, dir, name); err == nil {
			m.v.Forget(ino, 1)
		}
	default:
		err = errors.New("no such command")
	}
	return err
}

func (m *machine) parent(path string) (Ino, string, error) {
	parts := strings.Split(path, "/")
	dir, err := m.at(parts[:len(parts)-1]...)
	return dir, parts[len(parts)-1], err
}

// shown is a tree as a test sees it.
type shown struct {
	short []string // one word an entry, what is usual left out
	full  []string // everything that stat shows
	names map[Ino]int
	links map[Ino]uint32
}

func (m *machine) show() *shown {
	m.d.t.Helper()
	s := &shown{names: map[Ino]int{}, links: map[Ino]uint32{}}
	m.showDir(s, RootIno, "")
	for ino, n := range s.names {
		if s.links[ino] != uint32(n) {
			m.d.t.Fatalf("%s: an inode with %d names says that it has %d:\n%s", m.name, n, s.links[ino], strings.Join(s.full, "\n"))
		}
	}
	return s
}

func (m *machine) showDir(s *shown, dir Ino, path string) {
	m.d.t.Helper()
	ctx := context.Background()
	ents, err := m.v.ReadDir(ctx, dir, "", 1<<20)
	m.d.check(err)
	for _, e := range ents {
		a, p := e.Attr, path+e.Name
		s.names[a.Ino]++
		s.links[a.Ino] = a.Nlink
		word, mode := p, uint32(0o644)
		switch a.Mode & syscall.S_IFMT {
		case syscall.S_IFREG:
			_, err := m.v.Lookup(ctx, dir, e.Name)
			m.d.check(err)
			data := make([]byte, a.Size)
			n, err := m.v.Read(ctx, a.Ino, data, 0)
			if err != nil || n != len(data) {
				m.d.t.Fatalf("%s: read %s, inode %d: %d of %d: %v", m.name, p, a.Ino, n, len(data), err)
			}
			m.v.Forget(a.Ino, 1)
			if word += "=" + strings.ReplaceAll(string(data), "\x00", "."); len(data) > 2000 {
				word = fmt.Sprintf("%s=%d", p, len(data))
			}
		case syscall.S_IFDIR:
			word, mode = p+"/", 0o755
		case syscall.S_IFLNK:
			_, err := m.v.Lookup(ctx, dir, e.Name)
			m.d.check(err)
			target, err := m.v.Readlink(ctx, a.Ino)
			m.d.check(err)
			word, mode = p+"->"+target, 0o777
		default:
			word += "|"
		}
		s.short = append(s.short, strings.ReplaceAll(word+m.unusual(dir, e, mode), " ", "_"))
		s.full = append(s.full, fmt.Sprintf("%s %+v", word, a))
		if a.Mode&syscall.S_IFMT == syscall.S_IFDIR {
			_, err := m.v.Lookup(ctx, dir, e.Name)
			m.d.check(err)
			m.showDir(s, a.Ino, p+"/")
		}
	}
}

func (m *machine) unusual(dir Ino, e DirEnt, mode uint32) (out string) {
	ctx, a := context.Background(), e.Attr
	if a.Mode&07777 != mode {
		out += fmt.Sprintf(":%o", a.Mode&07777)
	}
	if a.Uid != 0 {
		out += fmt.Sprintf(":uid%d", a.Uid)
	}
	if a.Mtime.Sec < 1_000_000 {
		out += fmt.Sprintf(":t%d", a.Mtime.Sec)
	}
	if a.Nlink > 1 {
		out += fmt.Sprintf(":n%d", a.Nlink)
	}
	_, err := m.v.Lookup(ctx, dir, e.Name)
	m.d.check(err)
	names, err := m.v.Listxattr(ctx, a.Ino)
	m.d.check(err)
	for _, n := range names {
		v, err := m.v.Getxattr(ctx, a.Ino, n)
		m.d.check(err)
		out += ":" + n + "=" + string(v)
	}
	m.v.Forget(a.Ino, 1)
	return out
}

// want compares the tree with a list of words.
func (m *machine) want(want string) {
	m.d.t.Helper()
	words := strings.Fields(want)
	for i, w := range words {
		words[i] = strings.ReplaceAll(m.d.expand(w), " ", "_")
	}
	sort.Strings(words)
	got := m.show().short
	sort.Strings(got)
	if g, w := strings.Join(got, "\n"), strings.Join(words, "\n"); g != w {
		m.d.t.Fatalf("%s shows\n%s\nnot\n%s", m.name, g, w)
	}
}

// same fails unless the machines show the same in every detail.
func same(t testing.TB, ms ...*machine) {
	t.Helper()
	first := strings.Join(ms[0].show().full, "\n")
	for _, m := range ms[1:] {
		if got := strings.Join(m.show().full, "\n"); got != first {
			t.Fatalf("%s shows\n%s\n%s shows\n%s", ms[0].name, first, m.name, got)
		}
	}
}

// consistent checks what everything rests on: the pending operations, carried out on the
// commit below them, make the live tree.
func (m *machine) consistent() {
	m.d.t.Helper()
	v := m.v
	load := func(x *tree.Miss) error { return v.fill(context.Background(), x) }
	w := newWorld(v.baseState, v.number)
	w.where = cloneMap(v.w.where)
	for i := len(v.ops) - 1; i >= 0; i-- {
		undoPlace(w.where, v.ops[i])
	}
	for _, o := range v.ops {
		err := tree.Load(load, func() error { return w.apply(o) })
		if errors.Is(err, errNoInode) && o.Kind == opLink { // it had no name when the commit was made
			(&rebase{from: v}).nameless(o, w)
			err = w.apply(o)
		}
		if err != nil && !errors.Is(err, errNoInode) {
			m.d.t.Fatalf("%s: a pending operation (kind %d) does not fit the commit below it: %v", m.name, o.Kind, err)
		}
	}
	live := v.w.freeze()
	m.d.check(tree.Diff(w.freeze(), live, load, func(c tree.Change) error {
		if c.Old != nil && c.New != nil && c.Old.Ino == c.New.Ino && (c.Old.Inode == nil || m.bytes(c.Old.Inode) == m.bytes(c.New.Inode)) {
			return nil // other blobs with the same bytes, or the times of directories
		}
		m.d.t.Errorf("%s: pending operations and live tree differ at %q in %x", m.name, c.Name, c.Parent)
		return nil
	}))
}

func (m *machine) bytes(n *tree.Inode) string {
	segs, err := segments(n, 0, n.Size)
	m.d.check(err)
	p := make([]byte, n.Size)
	if n.Type == tree.TypeFile {
		_, err = m.v.readSegments(context.Background(), segs, p)
		m.d.check(err)
	}
	return fmt.Sprintf("%s %o %d %d", p, n.Mode, n.Uid, n.Nlink)
}
