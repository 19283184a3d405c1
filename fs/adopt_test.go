package fs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"kist/backend"
	"kist/backend/mem"
	"kist/fs/log"
	"kist/fs/tree"
)

// copied returns a copy of a machine's home as it is on disk now.
func (m *machine) copied(name string) *machine {
	m.d.t.Helper()
	m.d.check(m.v.flush())
	f := &files{m: map[string][]byte{}}
	for k, b := range m.files.m {
		f.m[k] = append([]byte(nil), b...)
	}
	return &machine{d: m.d, name: name, store: m.d.store.View(name), session: m.session, disk: m.disk.Clone(), files: f}
}

func (m *machine) adopt(old *machine) (int, error) {
	return m.v.Adopt(context.Background(), old.disk, old.session.JournalKey(), old.session.Device)
}

func (m *machine) adopts(old *machine, want int) {
	m.d.t.Helper()
	n, err := m.adopt(old)
	m.d.check(err)
	if want >= 0 && n != want {
		m.d.t.Errorf("carried over %d operations, want %d", n, want)
	}
	m.sound()
}

func (m *machine) append(content string, path ...string) {
	m.d.t.Helper()
	ino, err := m.at(path...)
	m.d.check(err)
	a, err := m.v.Getattr(context.Background(), ino)
	m.d.check(err)
	_, err = m.v.Write(context.Background(), ino, []byte(content), a.Size, WriteOpts{Append: true})
	m.d.check(err)
}

func (m *machine) holds(want string, path ...string) {
	m.d.t.Helper()
	if got := m.read(path...); got != want {
		m.d.t.Errorf("%s: %v holds %q, want %q", m.name, path, got, want)
	}
}

func (m *machine) lists(want string, path ...string) {
	m.d.t.Helper()
	if got := fmt.Sprint(m.list(path...)); got != want {
		m.d.t.Errorf("%s: %v lists %s, want %s", m.name, path, got, want)
	}
}

// sound demands that no inode number stands twice in the newest tree, and none above
// its device's mark.
func (m *machine) sound() {
	d := m.d
	d.t.Helper()
	high := map[uint16]uint32{}
	for _, row := range m.v.base.Devices {
		high[row.Number] = row.HighIno
	}
	seen := map[Ino]bool{}
	var walk func(dir *tree.Inode)
	walk = func(dir *tree.Inode) {
		d.check(m.v.locked(context.Background(), func() error {
			return dir.Dir.Scan("", func(string, tree.Entry) bool { return true })
		}))
		_ = dir.Dir.Scan("", func(name string, e tree.Entry) bool {
			if seen[e.Ino] && !e.Linked {
				d.t.Errorf("inode %d stands twice, once as %q", e.Ino, name)
			}
			if seen[e.Ino] = true; uint32(e.Ino) > high[uint16(e.Ino>>32)] {
				d.t.Errorf("inode %d of %q is above its device's mark", e.Ino, name)
			}
			if e.Type == tree.TypeDir {
				walk(e.Inode)
			}
			return true
		})
	}
	walk(m.v.baseState.Root)
}

// A home of yesterday, of which everything is in the log by now, adds nothing.
func TestAdoptYesterday(t *testing.T) {
	d := newDrive(t)
	a := d.machine("a")
	a.write(RootIno, "log", "one ")
	g := a.write(RootIno, "note", "x")
	a.sync()
	d.clock.add(1e9)
	a.append("two ", "log")
	dir := a.mkdir(RootIno, "dir")
	h := a.write(dir, "inner", "1")
	a.put(g, "new", 0)
	d.check(a.v.Rename(context.Background(), RootIno, "note", dir, "note", 0))
	_, err := a.v.Setattr(context.Background(), h, SetAttr{Mask: SetMode, Mode: 0o600})
	d.check(err)
	a.append("2", "dir", "inner")
	old := a.copied("old")
	d.clock.add(1e9)
	a.append("three ", "log")
	a.append("3", "dir", "inner")
	a.sync()
	a.append("four", "log")
	a.write(RootIno, "later", "y")
	a.sync()

	if err := old.open(); !errors.Is(err, ErrCloned) {
		t.Fatal("opened a home of yesterday:", err)
	}
	b := d.machine("b")
	b.adopts(old, 0)
	for _, m := range []*machine{a, b} {
		m.follow()
		m.lists("[dir later log]")
		m.lists("[inner note]", "dir")
		m.holds("one two three four", "log")
		m.holds("123", "dir", "inner")
		m.holds("new", "dir", "note")
	}
}

// A home that was lost after its journal was saved: all that had not been stored comes.
func TestAdoptWhatWasNotStored(t *testing.T) {
	d := newDrive(t)
	a := d.machine("a")
	a.write(RootIno, "log", "one ")
	keep := a.write(RootIno, "keep", "k")
	a.write(RootIno, "goes", "g")
	a.sync()
	a.append("two ", "log")
	dir := a.mkdir(RootIno, "dir")
	big := strings.Repeat("0123456789abcdef", 1<<17)
	a.write(dir, "big", big)
	d.check(a.v.Unlink(context.Background(), RootIno, "goes"))
	d.check(a.v.Rename(context.Background(), RootIno, "keep", dir, "kept", 0))
	_, err := a.v.Link(context.Background(), keep, RootIno, "also")
	d.check(err)
	a.append("!", "dir", "kept")
	old := a.copied("old")

	c := d.machine("c")
	c.append("other ", "log")
	c.write(RootIno, "also", "theirs")
	c.sync()
	b := d.machine("b")
	b.adopts(old, -1)
	again := d.machine("again")
	again.adopts(old, -1)              // is told that it is done
	again.adopts(b.copied("old b"), 0) // has nothing of its own
	c.follow()
	for _, m := range []*machine{b, c, again} {
		m.follow()
		m.holds("one other two ", "log")
		m.holds(big, "dir", "big")
		m.holds("k!", "dir", "kept")
		m.holds("theirs", "also")
		m.lists("[also also (conflict, ann's b, 2027-01-15) dir log]")
	}
	b.write(RootIno, "after", "z")
	b.sync()
	d.check(b.crash(1))
	b.holds("z", "after")
}

// A home was copied and both went on: the first to store wins, the other adopts.
func TestAdoptClone(t *testing.T) {
	d := newDrive(t)
	a := d.machine("a")
	a.write(RootIno, "log", "one ")
	a.write(RootIno, "both", "base")
	a.sync()
	a.append("two ", "log") // in the journal of both
	old := a.copied("old")
	d.check(old.open())
	work := func(m *machine, who string) {
		d.clock.add(1e9)
		m.append(who+" ", "log")
		dir := m.mkdir(RootIno, "of "+who)
		m.write(dir, "file", who)
		m.write(RootIno, "same name", who)
		ino, err := m.at("both")
		d.check(err)
		m.put(ino, who+who, 0)
		m.write(dir, "tmp", "last of "+who)
		d.check(m.v.Rename(context.Background(), dir, "tmp", dir, "last", 0))
		m.append("!", "of "+who, "last")
	}
	work(a, "a")
	work(old, "x")
	a.sync()
	if err := old.v.Sync(context.Background()); !errors.Is(err, ErrCloned) {
		t.Fatal("a copy went on:", err)
	}
	if _, err := old.v.Create(context.Background(), Cred{}, RootIno, "no", syscall.S_IFREG|0o644, 0); !errors.Is(err, ErrCloned) {
		t.Fatal("a copy takes changes:", err)
	}
	_ = old.v.Close(context.Background(), false) // tells once more that it is a copy
	if err := old.open(); !errors.Is(err, ErrCloned) {
		t.Fatal("a copy opens:", err)
	}
	b := d.machine("b")
	b.adopts(old, -1)
	for _, m := range []*machine{a, b} {
		m.follow()
		m.lists("[both both (conflict, ann's b, 2027-01-15) log of a of x same name same name (conflict, ann's b, 2027-01-15)]")
		for _, who := range []string{"a", "x"} {
			m.holds(who, "of "+who, "file")
			m.holds("last of "+who+"!", "of "+who, "last")
		}
		m.holds("one two a x ", "log")
		m.holds("aase", "both")
		m.holds("xxse", "both (conflict, ann's b, 2027-01-15)")
		m.holds("a", "same name")
		m.holds("x", "same name (conflict, ann's b, 2027-01-15)")
	}
}

// The answer to a commit is lost, another one follows it, the power goes: this is no copy.
func TestLostAnswerIsNoCopy(t *testing.T) {
	d := newDrive(t)
	a, c := d.machine("a"), d.machine("c")
	a.write(RootIno, "log", "one ")
	a.sync()
	c.follow()
	a.append("two ", "log")
	a.store.(*mem.Store).SetHook(func(r mem.Request) mem.Answer {
		if r.Verb == mem.Create {
			return mem.Answer{After: backend.ErrAway}
		}
		if strings.Contains(r.Key, "/log/") && r.Verb == mem.Get {
			return mem.Answer{Before: backend.ErrAway}
		}
		return mem.Answer{}
	})
	if err := a.v.Sync(context.Background()); err == nil {
		t.Fatal("the answer was to be lost")
	}
	a.append("three ", "log")
	d.check(a.v.Fsync(context.Background(), RootIno))
	c.follow()
	c.holds("one two ", "log")
	c.append("other ", "log")
	c.sync()
	a.store.(*mem.Store).SetHook(nil)
	d.check(a.crash(7))
	a.sync()
	c.follow()
	a.holds("one two other three ", "log")
	c.holds("one two other three ", "log")
	c.lists("[log]")
}

// Adopt fails at its n-th request, carried out or not, and is repeated on the same device
// until it succeeds, with others committing in between.
func TestAdoptRepeated(t *testing.T) {
	for _, carriedOut := range []bool{false, true} {
		for n := 1; ; n++ {
			if adoptFailing(t, n, carriedOut) {
				break
			}
			if n == 200 {
				t.Fatal("no end of requests")
			}
		}
	}
}

func adoptFailing(t *testing.T, n int, carriedOut bool) (done bool) {
	d := newDrive(t)
	a, c := d.machine("a"), d.machine("c")
	a.write(RootIno, "log", "one ")
	a.sync()
	a.append("two ", "log")
	old := a.copied("old")
	d.check(old.open())
	d.clock.add(1e9)
	a.append("a ", "log")
	a.write(RootIno, "of a", "a")
	a.sync()
	d.clock.add(1e9)
	old.append("x ", "log")
	old.write(RootIno, "of x", strings.Repeat("x", 5000))
	d.check(old.v.Close(context.Background(), false))

	b := d.machine("b")
	d.check(b.v.Close(context.Background(), false))
	d.check(b.open())
	count := 0
	b.store.(*mem.Store).SetSerialHook(func(r mem.Request) mem.Answer {
		if count++; count != n {
			return mem.Answer{}
		}
		if carriedOut {
			return mem.Answer{After: backend.ErrAway}
		}
		return mem.Answer{Before: backend.ErrAway}
	})
	_, err := b.adopt(old)
	b.store.(*mem.Store).SetHook(nil)
	done = count < n
	if err != nil {
		if _, err := b.v.Create(context.Background(), Cred{}, RootIno, "no", syscall.S_IFREG|0o644, 0); err == nil {
			t.Error("a vault goes on after it failed to adopt")
		}
		_ = b.v.Close(context.Background(), false) // tells once more what failed
		c.follow()
		c.append("c ", "log")
		c.sync()
		old.disk.Crash(uint64(n))
		d.check(b.crash(uint64(n)))
		b.adopts(old, -1)
	}
	for _, m := range []*machine{a, b, c} {
		m.follow()
		got := m.read("log")
		for _, word := range []string{"one ", "two ", "a ", "x "} {
			if strings.Count(got, word) != 1 {
				t.Errorf("request %d, %v: the log holds %q", n, carriedOut, got)
			}
		}
		m.lists("[log of a of x]")
		m.holds(strings.Repeat("x", 5000), "of x")
	}
	return done
}

// A journal from which the log knows nothing is not taken apart.
func TestAdoptUnrelated(t *testing.T) {
	d := newDrive(t)
	a := d.machine("a")
	a.write(RootIno, "f", "x")
	old := a.copied("old")
	other := newDrive(t)
	b := other.machine("b")
	if _, err := b.v.Adopt(context.Background(), old.disk, a.session.JournalKey(), a.session.Device); err == nil {
		t.Error("adopted the journal of another vault")
	}
	e := newDrive(t)
	g := e.machine("g")
	g.write(RootIno, "f", "x")
	lost := g.copied("lost")
	h := e.machine("h")
	if _, err := h.v.Adopt(context.Background(), lost.disk, g.session.JournalKey(), a.session.Device); !errors.Is(err, ErrUnrelated) {
		t.Error("a journal of a device that the log does not know:", err)
	}
	h.write(RootIno, "goes on", "y")
	h.sync()
}

// Another commit is faster, at each try.
func TestAdoptLosesRaces(t *testing.T) {
	d := newDrive(t)
	a, c := d.machine("a"), d.machine("c")
	a.write(RootIno, "log", "one ")
	a.sync()
	c.follow()
	a.append("two ", "log")
	dir := a.mkdir(RootIno, "dir")
	a.write(dir, "file", "mine")
	old := a.copied("old")
	b := d.machine("b")
	c.follow()
	races := 0
	b.step = func(s string) error {
		if s == StepSign && races < 3 {
			races++
			c.follow()
			c.append(fmt.Sprint("c", races, " "), "log")
			c.write(RootIno, fmt.Sprint("c", races), "c")
			c.sync()
		}
		return nil
	}
	b.adopts(old, -1)
	for _, m := range []*machine{b, c} {
		m.follow()
		m.holds("one c1 c2 c3 two ", "log")
		m.holds("mine", "dir", "file")
		m.lists("[c1 c2 c3 dir log]")
	}
	if errors.Is(b.v.failed, log.ErrLost) || b.v.failed != nil {
		t.Error(b.v.failed)
	}
}

// What was changed below folders that the store has needs more than one page at a time.
func TestAdoptBelowStoredFolders(t *testing.T) {
	d := newDrive(t)
	a := d.machine("a")
	sub := a.mkdir(a.mkdir(RootIno, "dir"), "sub")
	a.write(sub, "x", "1")
	a.sync()
	d.check(a.crash(1))
	a.append("2", "dir", "sub", "x")
	old := a.copied("old")
	b := d.machine("b")
	b.adopts(old, 1)
	b.holds("12", "dir", "sub", "x")
}
