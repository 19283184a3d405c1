package fs

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"testing/cryptotest"
	"time"

	"kist/backend/mem"
)

// A file made without a name outlives a rebase, in a replay too, until it gets one.
func TestTmpfileOutlivesRebase(t *testing.T) {
	d := newDrive(t)
	a, b := d.machine("a"), d.machine("b")
	tmp, err := a.v.Tmpfile(always, Cred{}, RootIno, 0o600)
	d.check(err)
	a.put(tmp.Ino, "content", 0)
	b.write(RootIno, "theirs", "t")
	b.sync()
	a.follow()
	_, err = a.v.Link(always, tmp.Ino, RootIno, "named")
	d.check(err)
	d.check(a.v.Fsync(always, tmp.Ino))
	for seed := range uint64(2) {
		if got := a.read("named"); got != "content" {
			t.Fatal(got)
		}
		d.check(a.crash(seed))
	}
	a.sync()
}

// A file that got a name and lost it while a commit was under way does not keep that
// commit from becoming the base.
func TestTmpfileLinkedAndGoneDuringCommit(t *testing.T) {
	d := newDrive(t)
	a := d.machine("a")
	tmp, err := a.v.Tmpfile(always, Cred{}, RootIno, 0o600)
	d.check(err)
	a.put(tmp.Ino, "tmp", 0)
	a.write(RootIno, "f", "1")
	a.during(StepNodes, func() {
		_, err := a.v.Link(always, tmp.Ino, RootIno, "named")
		d.check(err)
		d.check(a.v.Unlink(always, RootIno, "named"))
		a.v.Forget(tmp.Ino, 2)
	})
	d.check(a.v.Commit(always))
	a.follow()
	a.write(RootIno, "g", "2")
	a.sync()
}

// A conflict copy that is updated in place has the same number after a crash, and what was
// made after it keeps its own.
func TestCopyKeepsNumberAfterCrash(t *testing.T) {
	d := newDrive(t)
	a, b := d.machine("a"), d.machine("b")
	f := a.write(RootIno, "f", strings.Repeat("0", 1000))
	a.sync()
	b.follow()
	for i := range 2 {
		a.put(f, fmt.Sprint("A", i), 0)
		b.put(f, fmt.Sprint("B", i), 0)
		b.sync()
		if i == 0 {
			a.sync()
			b.follow()
		}
	}
	a.follow()
	a.write(RootIno, "g", "made after")
	d.check(a.v.Fsync(always, f))
	was, err := a.dump()
	d.check(err)
	d.check(a.crash(1))
	is, err := a.dump()
	d.check(err)
	if is != was {
		t.Fatalf("after a crash\n%s\nwas\n%s", is, was)
	}
	a.sync()
	if is, err = d.machine("c").dump(); err != nil || is != was {
		t.Fatalf("%v: c\n%s\na\n%s", err, is, was)
	}
}

// What a mount shows before a power cut, all of it synced, is what the next one shows: the
// replay follows the same commits, in the same order, to the same numbers. In the end all
// machines show the same.
func TestTwoMachinesReplayTheSame(t *testing.T) {
	for seed := range uint64(200) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			cryptotest.SetGlobalRandom(t, seed)
			d := newDrive(t)
			ms := []*machine{d.machine("a"), d.machine("b")}
			r := rand.New(rand.NewPCG(seed, 7))
			op := func(m *machine) {
				d.clock.add(time.Second)
				dirs := []Ino{RootIno}
				for i := 0; i < len(dirs) && len(dirs) < 8; i++ {
					ents, err := m.v.ReadDir(always, dirs[i], "", 100)
					d.check(err)
					for _, e := range ents {
						if e.Attr.Mode&syscall.S_IFMT == syscall.S_IFDIR {
							if a, err := m.v.Lookup(always, dirs[i], e.Name); err == nil {
								dirs = append(dirs, a.Ino)
							}
						}
					}
				}
				p, q := dirs[r.IntN(len(dirs))], dirs[r.IntN(len(dirs))]
				n1, n2 := string(rune('a'+r.IntN(5))), string(rune('a'+r.IntN(5)))
				switch r.IntN(12) {
				case 0, 1, 2:
					if a, err := m.v.Create(always, Cred{}, p, n1, syscall.S_IFREG|0o644, 0); err == nil {
						m.put(a.Ino, fmt.Sprint(m.name, seed, r.Uint32()), 0)
					}
				case 3:
					m.v.Create(always, Cred{}, p, n1, syscall.S_IFDIR|0o755, 0)
				case 4, 5, 6:
					if a, err := m.v.Lookup(always, p, n1); err == nil && a.Mode&syscall.S_IFMT == syscall.S_IFREG {
						m.put(a.Ino, rough(r.IntN(2000)+1), uint64(r.IntN(int(a.Size)+1)))
						if r.IntN(4) == 0 {
							m.v.Setattr(always, a.Ino, SetAttr{Mask: SetSize, Size: uint64(r.IntN(3000))})
						}
					}
				case 7:
					m.v.Unlink(always, p, n1)
				case 8:
					m.v.Rmdir(always, p, n1)
				case 9, 10:
					m.v.Rename(always, p, n1, q, n2, uint32([]int{0, 0, 1, 2}[r.IntN(4)]))
				case 11:
					if a, err := m.v.Lookup(always, p, n1); err == nil {
						m.v.Link(always, a.Ino, q, n2)
					} else if a, err := m.v.Tmpfile(always, Cred{}, p, 0o600); err == nil {
						m.put(a.Ino, "tmp"+m.name, 0)
						if r.IntN(2) == 0 {
							m.v.Link(always, a.Ino, p, n1)
						}
					}
				}
			}
			for range 60 {
				m := ms[r.IntN(2)]
				switch r.IntN(12) {
				case 0:
					d.check(m.v.Follow(always))
				case 1:
					steps := []string{StepFreeze, StepContent, StepNodes, StepSign, StepAppend, ""}
					m.during(steps[r.IntN(6)], func() {
						for range r.IntN(4) {
							op(m)
						}
					})
					if r.IntN(3) == 0 {
						at, n := r.IntN(8), 0
						m.store.(*mem.Store).SetSerialHook(func(mem.Request) mem.Answer {
							if n++; n-1 == at {
								return mem.Answer{After: errFault}
							}
							return mem.Answer{}
						})
					}
					_ = m.v.Sync(always)
					m.store.(*mem.Store).SetHook(nil)
					m.step = nil
				case 2, 3:
					d.check(m.v.Fsync(always, RootIno))
					was, err := m.dump()
					d.check(err)
					head, level := m.v.log.Head().Seq, m.v.base.Seq == m.v.log.Head().Seq
					d.check(m.crash(r.Uint64()))
					is, err := m.dump()
					d.check(err)
					if was != is && level && m.v.log.Head().Seq == head && m.v.base.Seq == head {
						// a mount follows to the head at once: comparable only if nobody else wrote
						t.Fatalf("after a crash\n%s\nwas\n%s", is, was)
					}
				default:
					op(m)
				}
			}
			for range 3 {
				for _, m := range ms {
					d.check(m.v.Sync(always))
					d.check(m.v.Follow(always))
				}
			}
			x, err := ms[0].dump()
			d.check(err)
			y, err := ms[1].dump()
			d.check(err)
			z, err := d.machine("c").dump()
			d.check(err)
			if x != y || x != z {
				t.Fatalf("a\n%s\nb\n%s\nc\n%s", x, y, z)
			}
		})
	}
}
