package fs

import (
	"fmt"
	"strings"
	"testing"
	"testing/cryptotest"
	"time"

	"kist/backend/mem"
)

// saga is a longer story: lines «machine: script», and what all see at the end.
type saga struct {
	name string
	tale string
	want string
}

// twice begins each saga about conflict copies: f was changed by both, and both know.
const twice = `a: new f xx; sync
	b: follow
	a: put f 0 a; sync
	b: put f 1 b; `

var sagas = []saga{
	{"copy/made once", twice + `sync`, "f=ax f{b}=xb"},
	{"copy/updated in place", twice + `sync
		a: follow; day; put f 0 A; sync
		b: put f 1 B; sync`, "f=Ax f{b}=aB"},
	{"copy/updated in place after a crash", twice + `sync; crash
		a: follow; day; put f 0 A; sync
		b: put f 1 B; fsync; crash; sync`, "f=Ax f{b}=aB"},
	{"copy/updated in place before it was stored", twice + `follow
		a: put f 0 A; sync
		b: put f 1 B; sync`, "f=Ax f{b}=aB"},
	{"copy/updated in place before it was stored, crash", twice + `follow; fsync; crash
		a: put f 0 A; sync
		b: put f 1 B; fsync; crash; follow; fsync; crash; sync`, "f=Ax f{b}=aB"},
	{"copy/edited by its owner", twice + `sync; put f{b} 0 z
		a: follow; put f 0 A; sync
		b: put f 1 B; sync`, "f=Ax f{b}=zb f{b2}=aB"},
	{"copy/edited by another", twice + `sync
		a: follow; put f{b} 0 z; put f 0 A; sync
		b: put f 1 B; sync`, "f=Ax f{b}=zb f{b2}=aB"},
	{"copy/removed by another", twice + `sync
		a: follow; rm f{b}; put f 0 A; sync
		b: put f 1 B; sync`, "f=Ax f{b}=aB"},
	{"copy/removed by another, edited by its owner", twice + `sync
		a: follow; rm f{b}; sync
		b: put f{b} 0 z; sync`, "f=ax f{b}=zb"},
	{"copy/moved by its owner", twice + `sync; mv f{b} mine
		a: follow; put f 0 A; sync
		b: put f 1 B; sync`, "f=Ax mine=xb f{b}=aB"},
	{"copy/moved by another before the update was stored", twice + `sync
		a: follow; mv f{b} kept; put f 0 A; sync
		b: put f 1 B; sync`, "f=Ax kept=xb f{b}=aB"},
	{"copy/resolved by renaming it over the file", twice + `sync; mv f{b} f; sync`, "f=xb"},
	{"copy/resolved while the other goes on", twice + `sync; mv f{b} f
		a: follow; put f 0 A; sync
		b: sync`, "f=Ax f{b}=xb"},
	{"copy/of saves", `a: new f x; sync
		b: follow
		a: save f a; sync
		b: save f b; sync
		a: follow; save f A; sync
		b: day; save f B; sync
		a: follow; save f AA; sync
		b: fsync; save f BB; fsync; crash; sync`, "f=AA f{b}=BB"},
	{"copy/of a save, then a write", `a: new f x; sync
		b: follow
		a: save f a; sync
		b: save f b; sync
		a: follow; put f 0 A; sync
		b: put f 0 B; sync`, "f=A f{b}=B"},
	{"copy/one for each device", `a: new f xxx; sync
		b: follow
		c: follow
		a: put f 0 a; sync
		b: put f 1 b; sync
		c: put f 2 c; sync`, "f=axx f{b}=xbx f{c}=xxc"},
	{"copy/not of another file with the name", twice + `sync; mv f g; new f zz; sync
		a: follow; put f 0 a; sync
		b: put f 1 b; sync`, "f=az f{b}=xb f{b2}=zb g=ax"},
	{"copy/of hard links", `a: new f xx; ln f g; sync
		b: follow
		a: put f 0 a; sync
		b: put g 1 b; sync
		a: follow; put g 0 A; sync
		b: put f 1 B; sync`, "f=Ax:n2 f{b}=aB g=Ax:n2"},
	{"handle/moved into a new directory", `a: new f x; sync
		b: follow; open f
		a: mkdir n; mkdir n/m; mv f n/m/f; sync
		b: follow; hput f 0 b; sync`, "n/ n/m/ n/m/f=b"},
	{"handle/moved to where nobody looked", `a: mkdir p; mkdir p/q; mkdir p/q/r; new f x; sync
		b: follow; open f
		a: mv f p/q/r/f; sync
		b: follow; hput f 0 b; fsync; crash; sync`, "p/ p/q/ p/q/r/ p/q/r/f=b"},
	{"handle/unlinked there, then removed for good", `a: new f x; sync
		b: follow; open f
		a: rm f; sync
		b: follow; hput f 0 b; sync; hput f 0 c; close f; sync`, ""},
	{"handle/unlinked there, brought back there", `a: mkdir d; new d/f x; sync
		b: follow; open d/f
		c: follow
		a: rm d/f; rmdir d; sync
		b: follow
		c: put d/f 0 c; sync
		b: follow; hput d/f 1 b; sync`, "d/ d/f=cb"},
	{"nameless/named after a rebase and a crash", `b: tmp f bb
		a: new g a; sync
		b: follow; name f; fsync; crash; sync`, "f=bb g=a"},
	{"nameless/made before a commit, named after a rebase", `b: tmp f bb; new h h; sync
		a: follow; new g a; sync
		b: follow; hput f 1 c; name f; hput f 2 d; fsync; crash; sync`, "f=bcd g=a h=h"},
	{"nameless/made before a commit, name taken", `b: tmp f bb; new h h; sync
		a: follow; new f a; sync
		b: hput f 1 c; name f; hput f 2 d; sync`, "f=a f{b}=bcd h=h"},
	{"removed there and here again and again", `a: mkdir d; new d/f x; sync
		b: follow
		a: rm d/f; rmdir d; sync
		b: new d/g b; follow
		a: mkdir d; new d/g a; sync
		b: new d/h b; sync
		a: follow; rm d/g; sync
		b: put d/g{b} 1 c; sync`, "d/ d/g{b}=bc d/h=b"},
	{"both bring back the same file", `a: new f xxx; sync
		b: follow
		c: follow
		a: rm f; sync
		b: put f 0 b; follow
		c: put f 2 c; sync
		b: sync`, "f=xxc f{b}=bxx"},
	{"both bring back the same directory", `a: mkdir d; mkdir d/e; sync
		b: follow
		c: follow
		a: rmdir d/e; rmdir d; sync
		b: new d/e/b b; follow
		c: new d/e/c c; sync
		b: sync`, "d/ d/e/ d/e/b=b d/e/c=c"},
	{"directories made by three, renamed by one", `a: mkdir d; new d/x a; sync
		b: mkdir d; new d/x b
		c: mkdir d; new d/x c; sync
		b: follow; mv d e; new e/y b; sync`, "e/ e/x=a e/x{b}=b e/x{c}=c e/y=b"},
	{"lost answer", `b: follow; new f b; lost
		a: follow; new g a; sync
		b: put f 0 B; sync`, "f=B g=a"},
	{"lost answer, then a foreign commit and a crash", `a: new f x; sync
		b: follow; app f b; lost
		a: follow; app f a; sync
		b: crash; app f c; sync`, "f=xbac"},
	{"lost answer, removed by another, crash", `b: follow; new f b; lost
		a: follow; rm f; sync
		b: crash; sync`, ""},
	{"lost answer, more done since, foreign commit, crash", `b: follow; new f b; lost; put f 0 B; new g b; fsync
		a: follow; put f 0 a; sync
		b: crash; sync`, "f=a f{b}=B g=b"},
	{"a commit that never arrived, then a foreign one", `a: new f x; sync
		b: follow; app f b; refused
		a: app f a; sync
		b: app f c; sync`, "f=xabc"},
	{"a commit that never arrived, foreign commit, crash", `a: new f x; sync
		b: follow; app f b; refused; app f c; fsync
		a: app f a; sync
		b: crash; sync`, "f=xabc"},
	{"power cut after signing, slot lost meanwhile", `a: new f x; sync
		b: follow; put f 0 b; cut sign
		a: put f 0 a; sync
		b: crash; sync`, "f=b f{a}=a"},
	{"power cut after sending", `a: new f x; sync
		b: follow; app f b; cut append
		a: follow; app f a; sync
		b: app f c; sync`, "f=xbac"},
	{"power cut after taking over", `a: new f x; sync
		b: follow; app f b; cut install
		a: follow; app f a; sync
		b: app f c; sync`, "f=xbac"},
	{"a month offline", `a: mkdir d; new d/f x; new g y; sync
		b: follow; put d/f 0 b; new d/n b; mv g d/g; mkdir d/k; new d/k/l b
		a: mv d e; put e/f 0 a; sync; put g 0 a; sync; new e/n a; sync; new e/k a; sync
		b: sync`, "e/ e/f=a e/f{b}=b e/g=a e/k=a e/k{b}/ e/k{b}/l=b e/n=a e/n{b}=b"},
}

func TestConflictSagas(t *testing.T) {
	for i, s := range sagas {
		t.Run(s.name, func(t *testing.T) {
			cryptotest.SetGlobalRandom(t, uint64(i))
			d := newDrive(t)
			ms := map[string]*machine{}
			for _, name := range []string{"a", "b", "c"} {
				ms[name] = d.machine(name)
			}
			for _, line := range strings.Split(s.tale, "\n") {
				who, script, _ := strings.Cut(strings.TrimSpace(line), ":")
				for _, step := range strings.Split(script, ";") {
					ms[who].do(step)
					ms[who].consistent()
				}
			}
			for _, m := range ms {
				m.do("sync")
			}
			for _, m := range ms {
				m.do("follow")
				m.want(s.want)
				m.do("crash")
				m.want(s.want)
			}
			same(t, ms["a"], ms["b"], ms["c"])
		})
	}
}

// duringFollow carries a script out while the next Follow reads from the store.
func (m *machine) duringFollow(script string) {
	m.store.(*mem.Store).SetHook(func(r mem.Request) mem.Answer {
		if r.Verb == mem.GetRange {
			m.store.(*mem.Store).SetHook(nil)
			m.do(script)
		}
		return mem.Answer{}
	})
}

// What is done while a rebase is under way is carried over by it too; and after a crash
// all of it ends as before, although the replay does it in one go.
func TestConflictDuring(t *testing.T) {
	for i, s := range []struct{ name, before, during, after, want string }{
		{"more content", "put f 1 b", "put f 2 c", "put f{b} 3 d", "f=axx f{b}=xbcd z=z"},
		{"creates", "put f 1 b", "new n n; new m m", "put f{b} 3 d; put n 0 N; new o o", "f=axx f{b}=xbxd m=m n=N o=o z=z"},
		{"removed", "put f 1 b", "rm f", "new k k", "f=axx k=k z=z"},
		{"moved", "put f 1 b", "mv f g", "put g 0 A; put g{b} 0 B", "g=Axx g{b}=Bbx z=z"},
		{"made again", "new z b; mkdir d", "put z 1 b; new d/x b", "put z{b} 0 B", "d/ d/x=b f=axx z=z z{b}=Bb"},
		{"never looked at", "put f 1 b", "put p/q/f 0 b", "put p/q/f 1 c", "f=axx f{b}=xbx z=z p/ p/q/ p/q/f=bc"},
	} {
		for _, ending := range []string{"sync", "fsync; crash; sync"} {
			t.Run(s.name+"/"+ending, func(t *testing.T) {
				cryptotest.SetGlobalRandom(t, uint64(i))
				d := newDrive(t)
				a, b := d.machine("a"), d.machine("b")
				a.do("new f xxx")
				if strings.Contains(s.during, "p/") {
					a.do("mkdir p; mkdir p/q; new p/q/f x")
				}
				a.do("sync")
				b.do("follow")
				a.do("put f 0 a; new z z; sync")
				b.do(s.before)
				b.duringFollow(s.during)
				b.do("follow; " + s.after)
				b.consistent()
				b.do(ending)
				b.want(s.want)
				a.do("follow")
				same(t, a, b)
				b.do("crash")
				same(t, a, b)
			})
		}
	}
}

// Numbers that were taken in vain before a crash do not shift those after it.
func TestConflictNumbers(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 1)
	d := newDrive(t)
	a, b := d.machine("a"), d.machine("b")
	a.do("new f xx; new g yy; sync")
	b.do("follow; new n n")
	for range 5 {
		b.v.alloc() // as a create does that must wait for a page
	}
	b.do("put f 1 b; put g 1 b")
	a.do("put f 0 a; put g 0 a; sync")
	b.do("follow; put f{b} 0 B; put g{b} 0 B; fsync; crash; put g{b} 1 C; new o o; sync")
	b.want("f=ax f{b}=Bb g=ay g{b}=BC n=n o=o")
	a.do("follow")
	same(t, a, b)
}

// Appended pieces keep to the grid of chunks wherever they land.
func TestConflictAppendAcrossChunks(t *testing.T) {
	for i, size := range []int{1, 4000, chunkSize - 1, chunkSize, chunkSize + 1, 3*chunkSize + 7} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			cryptotest.SetGlobalRandom(t, uint64(i))
			d := newDrive(t)
			a, b := d.machine("a"), d.machine("b")
			base := strings.Repeat("x", 300_000)
			a.do("new f " + base + "; sync")
			b.do("follow")
			one, two := strings.Repeat("a", size), strings.Repeat("b", 2*chunkSize+size)
			a.do("app f " + one + "; sync")
			b.do("app f " + two + "; app f end; sync")
			b.consistent()
			a.do("follow")
			for _, m := range []*machine{a, b} {
				if got := m.read("f"); got != base+one+two+"end" {
					t.Fatalf("%s: %d bytes", m.name, len(got))
				}
			}
			b.do("crash; put f 5 y; sync")
			a.do("follow")
			if got := a.read("f"); got != base[:5]+"y"+base[6:]+one+two+"end" {
				t.Fatal("after a further write: something else")
			}
		})
	}
}

// A big file is kept twice without its common part being sent again.
func TestConflictBigFile(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 1)
	d := newDrive(t)
	a, b := d.machine("a"), d.machine("b")
	var base strings.Builder
	for i := range 1 << 19 {
		fmt.Fprintf(&base, "%07d,", i*7919%1_000_003)
	}
	a.do("new f " + base.String() + "; sync")
	b.do("follow")
	a.do("put f 0 aaaa; sync")
	b.do("put f 3000000 bbbb")
	b.store.(*mem.Store).Forget()
	sent := 0
	b.store.(*mem.Store).SetHook(func(r mem.Request) mem.Answer {
		if r.Verb == mem.Put {
			sent += r.Len
		}
		return mem.Answer{}
	})
	b.do("sync")
	if sent > 1<<20 {
		t.Fatalf("%d bytes were sent", sent)
	}
	a.do("follow")
	for _, m := range []*machine{a, b} {
		if m.read("f") != "aaaa"+base.String()[4:] || m.read(d.expand("f{b}")) != base.String()[:3000000]+"bbbb"+base.String()[3000004:] {
			t.Fatal(m.name, "reads something else")
		}
	}
}

// A file without a name that is closed while a commit is on its way is no obstacle, nor
// one that got a name, took another's place, and lost it again.
func TestConflictUnlinkedDuringCommit(t *testing.T) {
	for _, c := range []struct{ name, script, want string }{
		{"removed", "hput f 0 y; hput t 0 u; name t; rm t", "d=d g=g"},
		{"replaced", "hput t 0 u; name t; mv t d; hput t 1 v; mv g d", "d=g"},
		{"exchanged", "hput t 0 u; name t; xchg t d; rm d", "g=g t=d"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cryptotest.SetGlobalRandom(t, 1)
			b := newDrive(t).machine("b")
			b.do("new f x; open f; tmp t t; rm f; new d d; new g g")
			b.step = func(s string) error {
				if s == StepSign {
					b.do(c.script + "; close f; close t")
					b.v.Forget(b.held["f"], 9)
					b.v.Forget(b.held["t"], 9)
				}
				return nil
			}
			b.do("sync")
			b.step = nil
			b.consistent()
			b.do("sync")
			b.want(c.want)
			b.do("crash")
			b.want(c.want)
		})
	}
}

func TestConflictName(t *testing.T) {
	day := time.Date(2026, 7, 3, 23, 0, 0, 0, time.UTC)
	long := strings.Repeat("ä", 120)
	for _, c := range []struct {
		name, user, device string
		n                  int
		want               string
	}{
		{"report.ods", "ann", "laptop", 1, "report (conflict, ann's laptop, 2026-07-03).ods"},
		{"report.ods", "ann", "laptop", 2, "report (conflict, ann's laptop, 2026-07-03 2).ods"},
		{"Makefile", "ann", "a/b", 1, "Makefile (conflict, ann's a-b, 2026-07-03)"},
		{".profile", "ann", "x", 1, ".profile (conflict, ann's x, 2026-07-03)"},
		{"a.tar.gz", "ann", "x", 1, "a.tar (conflict, ann's x, 2026-07-03).gz"},
		{long + ".txt", "ann", "x", 1, strings.Repeat("ä", 109) + " (conflict, ann's x, 2026-07-03).txt"},
	} {
		got := conflictName(c.name, c.user, c.device, day, c.n)
		if got != c.want || len(got) > 255 {
			t.Errorf("%q, %d bytes, not %q", got, len(got), c.want)
		}
	}
	for _, ext := range []string{"", ".x", "." + strings.Repeat("e", 31), "." + strings.Repeat("e", 200)} {
		name := conflictName(strings.Repeat("n", 255-len(ext))+ext, strings.Repeat("ü", 200), strings.Repeat("d", 300), day, 12345)
		if len(name) > 255 || !strings.Contains(name, "(conflict, ") {
			t.Errorf("%q has %d bytes", name, len(name))
		}
	}
}
