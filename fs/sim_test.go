package fs

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sort"
	"strings"
	"syscall"
	"testing"
	"testing/cryptotest"
	"time"

	"kist/backend"
	"kist/backend/mem"
)

var (
	simSeeds = flag.Int("sim.seeds", 500*histories/100, "how many histories TestSimulation plays")
	simSeed  = flag.Int("sim.seed", -1, "play this one history only")
)

// sim plays one history: random operations on one machine, faults of the store at any
// request, power cuts at any step of a commit. model says what the tree must be.
type sim struct {
	*machine
	rnd    *rand.Rand
	model  *model
	states []*model // the model after each operation since the last acknowledgement
	log    []string
}

// model is the simplest file system that can be right.
type model struct {
	inodes map[int]*modelInode
	next   int
}

type modelInode struct {
	dir   map[string]int
	data  []byte
	link  string
	mode  uint32
	nlink int
	xattr map[string]string
}

func newModel() *model {
	return &model{inodes: map[int]*modelInode{1: {dir: map[string]int{}, mode: 0o755}}, next: 2}
}

func (m *model) clone() *model {
	c := &model{inodes: map[int]*modelInode{}, next: m.next}
	for k, n := range m.inodes {
		d := *n
		if n.dir != nil {
			d.dir = cloneMap(n.dir)
		}
		d.data = append([]byte(nil), n.data...)
		d.xattr = cloneMap(n.xattr)
		c.inodes[k] = &d
	}
	return c
}

// dump writes a tree as text, one line an entry.
func (m *model) dump() string {
	var b strings.Builder
	var walk func(path string, id int)
	walk = func(path string, id int) {
		n := m.inodes[id]
		fmt.Fprintf(&b, "%s %s\n", path, describe(n.dir != nil, n.mode, n.nlink, n.data, n.link, n.xattr))
		names := make([]string, 0, len(n.dir))
		for name := range n.dir {
			names = append(names, name)
		}
		sort.Strings(names)
		for _, name := range names {
			walk(path+"/"+name, n.dir[name])
		}
	}
	walk("", 1)
	return b.String()
}

func describe(dir bool, mode uint32, nlink int, data []byte, link string, xattr map[string]string) string {
	if dir {
		return fmt.Sprintf("d %o %v", mode, xattr)
	}
	if link != "" {
		return "l " + link
	}
	return fmt.Sprintf("f %o n%d %d %x %v", mode, nlink, len(data), sha256.Sum256(data), xattr)
}

// dump reads the whole tree through the vault.
func (m *machine) dump() (string, error) {
	ctx := context.Background()
	var b strings.Builder
	var walk func(path string, a Attr) error
	walk = func(path string, a Attr) error {
		isDir := a.Mode&syscall.S_IFMT == syscall.S_IFDIR
		var data []byte
		link := ""
		switch a.Mode & syscall.S_IFMT {
		case syscall.S_IFREG:
			data = make([]byte, a.Size)
			n, err := m.v.Read(ctx, a.Ino, data, 0)
			if err != nil || n != len(data) {
				return fmt.Errorf("%s: read %d of %d: %w", path, n, len(data), err)
			}
		case syscall.S_IFLNK:
			var err error
			if link, err = m.v.Readlink(ctx, a.Ino); err != nil {
				return err
			}
		}
		xattr := map[string]string{}
		names, err := m.v.Listxattr(ctx, a.Ino)
		if err != nil {
			return err
		}
		for _, n := range names {
			v, err := m.v.Getxattr(ctx, a.Ino, n)
			if err != nil {
				return err
			}
			xattr[n] = string(v)
		}
		fmt.Fprintf(&b, "%s %s\n", path, describe(isDir, a.Mode&07777, int(a.Nlink), data, link, xattr))
		if !isDir {
			return nil
		}
		ents, err := m.v.ReadDir(ctx, a.Ino, "", 1<<20)
		if err != nil {
			return err
		}
		for _, e := range ents {
			c, err := m.v.Lookup(ctx, a.Ino, e.Name)
			if err != nil {
				return err
			}
			c.Blocks, e.Attr.Blocks = 0, 0 // an estimate until the extents are in memory
			if c != e.Attr {
				return fmt.Errorf("%s/%s: lookup and listing differ:\n%+v\n%+v", path, e.Name, c, e.Attr)
			}
			if err := walk(path+"/"+e.Name, c); err != nil {
				return err
			}
			m.v.Forget(c.Ino, 1)
		}
		return nil
	}
	root, err := m.v.Getattr(ctx, RootIno)
	if err != nil {
		return "", err
	}
	err = walk("", root)
	return b.String(), err
}

func TestSimulation(t *testing.T) {
	from, to := 0, *simSeeds
	if *simSeed >= 0 {
		from, to = *simSeed, *simSeed+1
	}
	for seed := from; seed < to; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { simulate(t, uint64(seed)) })
	}
}

func simulate(t *testing.T, seed uint64) {
	cryptotest.SetGlobalRandom(t, seed)
	d := newDrive(t)
	s := &sim{machine: d.machine("sim"), rnd: rand.New(rand.NewPCG(seed, 1)), model: newModel()}
	defer func() {
		if t.Failed() {
			t.Logf("seed %d:\n%s", seed, strings.Join(s.log, "\n"))
		}
	}()
	s.states = []*model{s.model.clone()}
	for range 40 + s.rnd.IntN(80) {
		s.turn()
		if t.Failed() {
			return
		}
	}
	s.calm()
	s.d.check(s.v.Sync(context.Background()))
	s.acknowledge()
	s.compare()
	b := d.machine("other")
	got, err := b.dump()
	d.check(err)
	if got != s.model.dump() {
		t.Fatalf("a second machine sees\n%s\nnot\n%s", got, s.model.dump())
	}
}

func (s *sim) note(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf(format, args...))
}

func (s *sim) turn() {
	switch p := s.rnd.IntN(100); {
	case p < 78:
		s.operation()
	case p < 84:
		s.note("fsync")
		if err := s.v.Fsync(context.Background(), RootIno); err != nil {
			s.d.t.Fatal(err)
		}
		s.acknowledge()
	case p < 92:
		s.commitUnderFaults()
	case p < 97:
		s.powerCut("now")
	default:
		s.d.clock.add(time.Minute)
		s.compare()
	}
}

func (s *sim) acknowledge() { s.states = s.states[len(s.states)-1:] }

var errFault = fmt.Errorf("simulated: %w", backend.ErrAway)

// commitUnderFaults syncs while the store fails at one request, before or after
// carrying it out, or the power fails at one step.
func (s *sim) commitUnderFaults() {
	view := s.store.(*mem.Store)
	at, after := s.rnd.IntN(8), s.rnd.IntN(2) == 0
	steps := []string{"", "", StepFreeze, StepContent, StepNodes, StepSign, StepAppend, StepInstall}
	cut := steps[s.rnd.IntN(len(steps))]
	fault := s.rnd.IntN(2) == 0
	n := 0
	if fault {
		view.SetHook(func(mem.Request) mem.Answer {
			n++
			switch {
			case n-1 != at:
				return mem.Answer{}
			case after:
				return mem.Answer{After: errFault}
			}
			return mem.Answer{Before: errFault}
		})
	}
	errCut := errors.New("cut")
	s.step = func(name string) error {
		if name == cut {
			return errCut
		}
		return nil
	}
	err := s.v.Sync(context.Background())
	s.note("sync: fault %v at %d after %v, cut %q: %v", fault, at, after, cut, err)
	s.calm()
	switch {
	case err == nil:
		s.acknowledge()
	case errors.Is(err, errCut):
		s.powerCut(cut)
	case !errors.Is(err, backend.ErrAway):
		s.d.t.Fatalf("sync: %v", err)
	case s.rnd.IntN(2) == 0:
		s.powerCut("after a failed sync")
	}
}

func (s *sim) calm() {
	s.store.(*mem.Store).SetHook(nil)
	s.step = nil
}

// powerCut crashes and mounts again; what is there must be a state that the model went
// through since the last acknowledgement.
func (s *sim) powerCut(when string) {
	s.note("power cut: %s", when)
	if err := s.crash(s.rnd.Uint64()); err != nil {
		s.d.t.Fatalf("mount after a power cut: %v", err)
	}
	got, err := s.machine.dump()
	if err != nil {
		s.d.t.Fatalf("after a power cut: %v", err)
	}
	for i := len(s.states) - 1; i >= 0; i-- {
		if s.states[i].dump() == got {
			s.model = s.states[i].clone()
			s.states = []*model{s.states[i]}
			return
		}
	}
	s.d.t.Fatalf("after a power cut the tree is\n%s\nthe last that was acknowledged\n%s\nthe newest\n%s", got, s.states[0].dump(), s.states[len(s.states)-1].dump())
}

func (s *sim) compare() {
	got, err := s.machine.dump()
	if err != nil {
		s.d.t.Fatal(err)
	}
	if want := s.model.dump(); got != want {
		s.d.t.Fatalf("the tree is\n%s\nnot\n%s", got, want)
	}
}

// operation does one random thing to the vault and to the model; both must agree on
// whether it can be done.
func (s *sim) operation() {
	ctx := context.Background()
	s.d.clock.add(time.Duration(s.rnd.IntN(1000)) * time.Millisecond)
	dir, dirPath := s.someDir()
	name := string(rune('a' + s.rnd.IntN(6)))
	at, err := s.at(dirPath...)
	if err != nil {
		s.d.t.Fatalf("%v: %v", dirPath, err)
	}
	d := s.model.inodes[dir]
	id, taken := d.dir[name]
	path := strings.Join(append(dirPath, name), "/")
	switch s.rnd.IntN(14) {
	case 0, 1:
		_, err = s.v.Create(ctx, Cred{}, at, name, syscall.S_IFREG|0o644, 0)
		if s.agree("create "+path, err, taken, syscall.EEXIST) {
			s.add(dir, name, &modelInode{mode: 0o644, nlink: 1, xattr: map[string]string{}})
		}
	case 2:
		_, err = s.v.Create(ctx, Cred{}, at, name, syscall.S_IFDIR|0o755, 0)
		if s.agree("mkdir "+path, err, taken, syscall.EEXIST) {
			s.add(dir, name, &modelInode{mode: 0o755, dir: map[string]int{}, xattr: map[string]string{}})
		}
	case 3:
		_, err = s.v.Symlink(ctx, Cred{}, at, name, "to/"+name)
		if s.agree("symlink "+path, err, taken, syscall.EEXIST) {
			s.add(dir, name, &modelInode{mode: 0o777, nlink: 1, link: "to/" + name, xattr: map[string]string{}})
		}
	case 4, 5, 6, 7, 8:
		if taken {
			s.edit(at, name, path, s.model.inodes[id])
		}
	case 9:
		if taken {
			s.remove(at, dir, name, path, id)
		}
	case 10, 11:
		if taken {
			s.rename(at, dir, name, path, id)
		}
	case 12:
		if taken && s.model.inodes[id].dir == nil {
			s.link(at, name, path, id)
		}
	case 13:
		if taken {
			s.setxattr(at, name, path, s.model.inodes[id])
		}
	}
	s.states = append(s.states, s.model.clone())
}

// agree compares an outcome with what the model expects.
func (s *sim) agree(what string, err error, refused bool, want error) bool {
	s.note("%s: %v", what, err)
	if refused != (err != nil) || refused && !errors.Is(err, want) {
		s.d.t.Fatalf("%s: %v, expected refused=%v with %v", what, err, refused, want)
	}
	return !refused
}

func (s *sim) add(dir int, name string, n *modelInode) {
	s.model.inodes[s.model.next] = n
	s.model.inodes[dir].dir[name] = s.model.next
	s.model.next++
}

func (s *sim) someDir() (int, []string) {
	id, path := 1, []string{}
	for s.rnd.IntN(3) > 0 {
		names := []string{}
		for n, c := range s.model.inodes[id].dir {
			if s.model.inodes[c].dir != nil {
				names = append(names, n)
			}
		}
		if len(names) == 0 {
			break
		}
		sort.Strings(names)
		n := names[s.rnd.IntN(len(names))]
		id, path = s.model.inodes[id].dir[n], append(path, n)
	}
	return id, path
}

func (s *sim) look(at Ino, name string) Ino {
	a, err := s.v.Lookup(context.Background(), at, name)
	s.d.check(err)
	return a.Ino
}

// bytes makes content; sizes are chosen around the limits of the format.
func (s *sim) bytes() []byte {
	sizes := []int{1, 7, 512, 513, 4096, 70_000, chunkSize - 1, chunkSize, chunkSize + 3}
	n := sizes[s.rnd.IntN(len(sizes))]
	if n > 4096 && s.rnd.IntN(4) > 0 {
		n = s.rnd.IntN(2000) + 1
	}
	b := make([]byte, n)
	v := byte(s.rnd.Uint32())
	for i := range b {
		b[i] = v + byte(i>>3)
	}
	return b
}

func (s *sim) edit(at Ino, name, path string, n *modelInode) {
	if n.dir != nil || n.link != "" {
		return
	}
	ctx, ino := context.Background(), s.look(at, name)
	switch s.rnd.IntN(6) {
	case 0, 1:
		p, off := s.bytes(), s.rnd.IntN(len(n.data)+1)
		_, err := s.v.Write(ctx, ino, p, uint64(off), WriteOpts{})
		s.agree(fmt.Sprintf("write %s at %d: %d", path, off, len(p)), err, false, nil)
		s.wrote(n, off, p)
	case 2:
		p := s.bytes()
		_, err := s.v.Write(ctx, ino, p, 0, WriteOpts{Append: true})
		s.agree(fmt.Sprintf("append %s: %d", path, len(p)), err, false, nil)
		s.wrote(n, len(n.data), p)
	case 3:
		size := s.rnd.IntN(2*len(n.data) + 10)
		_, err := s.v.Setattr(ctx, ino, SetAttr{Mask: SetSize, Size: uint64(size)})
		s.agree(fmt.Sprintf("truncate %s to %d", path, size), err, false, nil)
		if size < len(n.data) {
			n.data = n.data[:size]
		} else {
			n.data = append(n.data, make([]byte, size-len(n.data))...)
		}
	case 4:
		off, size := s.rnd.IntN(len(n.data)+1), s.rnd.IntN(5000)+1
		err := s.v.Fallocate(ctx, ino, fallocPunchHole|fallocKeepSize, uint64(off), uint64(size))
		s.agree(fmt.Sprintf("punch %s at %d: %d", path, off, size), err, false, nil)
		clear(n.data[off:min(len(n.data), off+size)])
	case 5:
		n.mode = uint32(s.rnd.IntN(0o1000))
		_, err := s.v.Setattr(ctx, ino, SetAttr{Mask: SetMode, Mode: n.mode})
		s.agree("chmod "+path, err, false, nil)
	}
}

// wrote follows a write as the vault records it, a chunk's worth at a time: a power cut
// may come between two records.
func (s *sim) wrote(n *modelInode, off int, p []byte) {
	for ; len(p) > chunkSize; off, p = off+chunkSize, p[chunkSize:] {
		n.write(off, p[:chunkSize])
		s.states = append(s.states, s.model.clone())
	}
	n.write(off, p)
}

func (n *modelInode) write(off int, p []byte) {
	if need := off + len(p); need > len(n.data) {
		n.data = append(n.data, make([]byte, need-len(n.data))...)
	}
	copy(n.data[off:], p)
}

func (s *sim) setxattr(at Ino, name, path string, n *modelInode) {
	ino, value := s.look(at, name), string(s.bytes()[:1])
	err := s.v.Setxattr(context.Background(), ino, "user.x", []byte(value), 0)
	s.agree("setxattr "+path, err, false, nil)
	n.xattr["user.x"] = value
}

func (s *sim) remove(at Ino, dir int, name, path string, id int) {
	n := s.model.inodes[id]
	var err error
	if n.dir != nil {
		err = s.v.Rmdir(context.Background(), at, name)
	} else {
		err = s.v.Unlink(context.Background(), at, name)
	}
	if s.agree("remove "+path, err, len(n.dir) > 0, syscall.ENOTEMPTY) {
		delete(s.model.inodes[dir].dir, name)
		n.nlink--
	}
}

func (s *sim) link(at Ino, name, path string, id int) {
	to, toPath := s.someDir()
	toIno, err := s.at(toPath...)
	s.d.check(err)
	as := string(rune('a' + s.rnd.IntN(6)))
	_, taken := s.model.inodes[to].dir[as]
	_, err = s.v.Link(context.Background(), s.look(at, name), toIno, as)
	if s.agree("link "+path+" "+strings.Join(append(toPath, as), "/"), err, taken, syscall.EEXIST) {
		s.model.inodes[to].dir[as] = id
		s.model.inodes[id].nlink++
	}
}

func (s *sim) rename(at Ino, dir int, name, path string, id int) {
	to, toPath := s.someDir()
	toIno, err := s.at(toPath...)
	s.d.check(err)
	as := string(rune('a' + s.rnd.IntN(6)))
	what := "rename " + path + " " + strings.Join(append(toPath, as), "/")
	old, taken := s.model.inodes[to].dir[as]
	n := s.model.inodes[id]
	err = s.v.Rename(context.Background(), at, name, toIno, as, 0)
	s.note("%s: %v", what, err)
	var want error
	switch {
	case taken && old == id:
		if err != nil {
			s.d.t.Fatalf("%s: %v", what, err)
		}
		return
	case n.dir != nil && s.below(to, id):
		want = syscall.EINVAL
	case taken && s.model.inodes[old].dir != nil && n.dir == nil:
		want = syscall.EISDIR
	case taken && s.model.inodes[old].dir == nil && n.dir != nil:
		want = syscall.ENOTDIR
	case taken && len(s.model.inodes[old].dir) > 0:
		want = syscall.ENOTEMPTY
	}
	if want != nil {
		if err == nil {
			s.d.t.Fatalf("%s: done, expected %v", what, want)
		}
		return
	}
	if err != nil {
		s.d.t.Fatalf("%s: %v", what, err)
	}
	if taken {
		s.model.inodes[old].nlink--
	}
	delete(s.model.inodes[dir].dir, name)
	s.model.inodes[to].dir[as] = id
}

// below says whether a directory is id or inside it.
func (s *sim) below(dir, id int) bool {
	if dir == id {
		return true
	}
	for _, c := range s.model.inodes[id].dir {
		if s.model.inodes[c].dir != nil && s.below(dir, c) {
			return true
		}
	}
	return false
}
