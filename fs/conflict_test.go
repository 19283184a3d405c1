package fs

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/cryptotest"
)

// A cell of docs/CONFLICTS.md: what a did and stored, what b did without knowing of it,
// and what everybody sees after b has stored its part.
type cell struct {
	name string
	base string // done by a before both look
	a, b string
	want string
}

var cells = []cell{
	{"create/name free", "", "new f a", "new g b", "f=a g=b"},
	{"create/name taken", "", "new f.txt a", "new f.txt b", "f.txt=a f{b}.txt=b"},
	{"create/name taken by a directory", "", "mkdir f; new f/x a", "new f b", "f/ f/x=a f{b}=b"},
	{"create/parent removed", "mkdir d", "rmdir d", "new d/f b", "d/ d/f=b"},
	{"create/parents removed", "mkdir d; mkdir d/e; chmod d/e 0700", "rmdir d/e; rmdir d", "new d/e/f b", "d/ d/e/:700 d/e/f=b"},
	{"create/parent replaced by a directory", "mkdir d", "rmdir d; mkdir d; new d/x a", "new d/f b", "d/ d/f=b d/x=a"},
	{"create/parent replaced by a file", "mkdir d", "rmdir d; new d a", "new d/f b", "d=a d{b}/ d{b}/f=b"},
	{"create/parent moved", "mkdir d; mkdir e", "mv d e/d", "new d/f b", "e/ e/d/ e/d/f=b"},
	{"create/parent moved into a new directory", "mkdir d", "mkdir n; mkdir n/m; mv d n/m/d", "new d/f b", "n/ n/m/ n/m/d/ n/m/d/f=b"},
	{"create/parent of a moved directory removed", "mkdir d; mkdir d/e", "mv d/e e; rmdir d", "new d/e/f b", "e/ e/f=b"},
	{"create/more done to it", "", "new f a", "new f b; put f 1 c; chmod f 0600; xattr f user.x y", "f=a f{b}=bc:600:user.x=y"},
	{"create/then moved", "", "new f a", "new f b; mv f g", "f=a g=b"},
	{"create/then removed", "", "new f a", "new f b; rm f", "f=a"},
	{"create/then linked", "", "new f a", "new f b; ln f g", "f=a f{b}=b:n2 g=b:n2"},
	{"create/three times the same name", "", "new f a; new f{b} z", "new f b", "f=a f{b}=z f{b2}=b"},
	{"symlink/name taken", "", "sym l a", "sym l b", "l->a l{b}->b"},
	{"fifo/name taken", "", "new f a", "fifo f", "f=a f{b}|"},
	{"tmpfile/linked, name taken", "", "new f a", "tmp f b; name f", "f=a f{b}=b"},
	{"tmpfile/linked, name free", "", "new g a", "tmp f b; name f", "f=b g=a"},

	{"mkdir/name taken by a directory", "", "mkdir d; new d/a a", "mkdir d; new d/b b", "d/ d/a=a d/b=b"},
	{"mkdir/trees", "", "mkdir d; mkdir d/e; mkdir d/e/f; new d/e/f/x a; mkdir d/a", "mkdir d; mkdir d/e; mkdir d/e/f; new d/e/f/x b; new d/e/y b",
		"d/ d/a/ d/e/ d/e/f/ d/e/f/x=a d/e/f/x{b}=b d/e/y=b"},
	{"mkdir/name taken by a file", "", "new d a", "mkdir d; new d/x b", "d=a d{b}/ d{b}/x=b"},
	{"mkdir/then removed", "", "mkdir d", "mkdir d; rmdir d", "d/"},
	{"mkdir/then removed and made", "", "mkdir d; new d/x a", "mkdir d; rmdir d; mkdir d; new d/y b", "d/ d/x=a d/y=b"},
	{"mkdir/then attributes", "", "mkdir d", "mkdir d; chmod d 0700", "d/:700"},
	{"mkdir/then moved", "", "mkdir d; new d/x a", "mkdir d; new d/y b; mv d e", "e/ e/x=a e/y=b"},

	{"link/name taken", "new f x", "new g a", "ln f g", "f=x:n2 g=a g{b}=x:n2"},
	{"link/same name both", "new f x", "ln f g", "ln f g", "f=x:n2 g=x:n2"},
	{"link/other names", "new f x", "ln f g", "ln f h", "f=x:n3 g=x:n3 h=x:n3"},
	{"link/inode removed", "new f x", "rm f", "ln f g", "g=x"},
	{"link/inode moved", "new f x", "mkdir n; mv f n/f", "ln f g", "g=x:n2 n/ n/f=x:n2"},
	{"link/inode changed", "new f x", "put f 0 a", "ln f g", "f=a:n2 g=a:n2"},
	{"link/parent removed", "new f x; mkdir d", "rmdir d", "ln f d/g", "d/ d/g=x:n2 f=x:n2"},
	{"link/of what was linked, one name removed", "new f x; ln f g", "rm g", "ln f h; put h 0 b", "f=b:n2 h=b:n2"},

	{"unlink/removed too", "new f x", "rm f", "rm f", ""},
	{"unlink/moved", "new f x", "mv f g", "rm f", "g=x"},
	{"unlink/content changed", "new f x", "put f 0 a", "rm f", "f=a"},
	{"unlink/saved anew", "new f x", "save f a", "rm f", "f=a"},
	{"unlink/attributes changed", "new f x", "chmod f 0600", "rm f", ""},
	{"unlink/one of two names, content changed", "new f x; ln f g", "put f 0 a", "rm f", "g=a"},
	{"unlink/one of two names, the other removed", "new f x; ln f g", "rm f", "rm g", "g=x"},
	{"unlink/both names, one removed too", "new f x; ln f g", "rm f", "rm g; rm f", ""},
	{"unlink/both names, content changed", "new f x; ln f g", "put f 0 a", "rm f; rm g", "g=a"},
	{"unlink/got another name", "new f x", "ln f g", "rm f", "g=x"},
	{"unlink/parent removed", "mkdir d; new d/f x", "rm d/f; rmdir d", "rm d/f", ""},
	{"unlink/parent moved", "mkdir d; new d/f x", "mv d e", "rm d/f", "e/"},
	{"unlink/changed by both before", "new f x", "put f 0 a", "put f 0 b; rm f", "f=a"},
	{"unlink/changed, then made anew", "new f x", "put f 0 a", "rm f; new f b", "f=a f{b}=b"},
	{"rmdir/not empty any more", "mkdir d", "new d/f a", "rmdir d", "d/ d/f=a"},
	{"rmdir/with all that was in it", "mkdir d; new d/x x; mkdir d/e", "new d/e/f a", "rm d/x; rmdir d/e; rmdir d", "d/ d/e/ d/e/f=a"},
	{"rmdir/removed too", "mkdir d", "rmdir d", "rmdir d", ""},
	{"rmdir/moved", "mkdir d", "mv d e", "rmdir d", "e/"},
	{"rmdir/attributes changed", "mkdir d", "chmod d 0700", "rmdir d", ""},

	{"rename/target free", "new f x", "new h a", "mv f g", "g=x h=a"},
	{"rename/target taken", "new f x", "new g a", "mv f g", "g=a g{b}=x"},
	{"rename/target was there, untouched", "new f x; new g y", "new h a", "mv f g", "g=x h=a"},
	{"rename/target changed", "new f x; new g y", "put g 0 a", "mv f g", "g=a g{b}=x"},
	{"rename/target saved anew", "new g y", "save g a", "save g b", "g=a g{b}=b"},
	{"rename/target made by both", "", "save g a", "save g b", "g=a g{b}=b"},
	{"rename/target attributes changed", "new f x; new g y", "chmod g 0600", "mv f g", "g=x"},
	{"rename/target removed", "new f x; new g y", "rm g", "mv f g", "g=x"},
	{"rename/target moved", "new f x; new g y", "mv g h", "mv f g", "g=x h=y"},
	{"rename/target a hard link, the other name removed", "new f x; new g y; ln g h", "rm h", "mv f g", "g=y g{b}=x"},
	{"rename/target linked elsewhere and changed", "new f x; new g y", "ln g h; put g 0 a", "mv f g", "g=x h=a"},
	{"rename/target a directory, not empty any more", "mkdir d; mkdir e", "new e/f a", "mv d e", "e/ e/f=a e{b}/"},
	{"rename/target replaced by a directory", "new f x; new g y", "rm g; mkdir g", "mv f g", "g/ g{b}=x"},
	{"rename/source removed", "new f x", "rm f", "mv f g", "g=x"},
	{"rename/source directory removed", "mkdir d; new d/x x; mkdir d/e; new d/e/y y; new d/z z", "rm d/x; rm d/e/y; rmdir d/e; mv d/z z; rmdir d", "mv d n", "n/ n/e/ n/e/y=y n/x=x z=z"},
	{"rename/source removed, target taken", "new f x", "rm f; new g a", "mv f g", "g=a g{b}=x"},
	{"rename/source moved", "new f x", "mv f h", "mv f g", "h=x"},
	{"rename/source moved the same way", "new f x", "mv f g", "mv f g", "g=x"},
	{"rename/source moved into a new directory", "new f x", "mkdir n; mv f n/f", "mv f g", "n/ n/f=x"},
	{"rename/source changed", "new f x", "put f 0 a", "mv f g", "g=a"},
	{"rename/source changed by both", "new f x", "put f 0 a", "put f 0 b; mv f g", "g=a g{b}=b"},
	{"rename/source linked", "new f x", "ln f h", "mv f g", "g=x:n2 h=x:n2"},
	{"rename/source replaced", "new f x", "save f a", "mv f g", "f=a g=x"},
	{"rename/source's parent moved", "mkdir d; new d/f x", "mv d e", "mv d/f d/g", "e/ e/g=x"},
	{"rename/target's parent removed", "mkdir d; new f x", "rmdir d", "mv f d/f", "d/ d/f=x"},
	{"rename/target's parent moved", "mkdir d; new f x", "mv d e", "mv f d/f", "e/ e/f=x"},
	{"rename/circle", "mkdir x; mkdir y", "mv x y/x", "mv y x/y; new x/y/f b", "y/ y/f=b y/x/"},
	{"rename/circle, moved back", "mkdir x; mkdir y", "mv x y/x", "mv y x/y; mv x/y z", "z/ z/x/"},
	{"rename/of a conflicting create, onto it again", "", "new f a", "new f b; save f c", "f=a f{b}=c"},
	{"rename/chain", "new f x; new g y", "put f 0 a", "mv f t; mv g f; mv t g", "f=y g=a"},

	{"exchange/untouched", "new f x; new g y", "new h a", "xchg f g", "f=y g=x h=a"},
	{"exchange/changed", "new f x; new g y", "put f 0 a", "xchg f g", "f=y g=a"},
	{"exchange/one removed", "new f x; new g y", "rm g", "xchg f g", "g=x"},
	{"exchange/the other removed", "new f x; new g y", "rm f", "xchg f g", "f=y"},
	{"exchange/both removed", "new f x; new g y", "rm f; rm g", "xchg f g", ""},
	{"exchange/one moved", "new f x; new g y", "mv f h", "xchg f g", "f=y h=x"},
	{"exchange/one replaced", "new f x; new g y", "save f a", "xchg f g", "f=a g=y"},
	{"exchange/to save, changed", "new f x", "put f 0 a", "new t b; xchg t f; rm t", "f=b t=a"},
	{"exchange/one moved into the other", "mkdir x; mkdir y; mkdir y/z", "mv x y/z/x", "xchg x y/z", "x/ x/x/ y/"},

	{"exchange/circle", "mkdir p; mkdir p/x; mkdir q; mkdir q/y", "mv q p/x/q", "xchg p/x q/y", "p/ p/x/ p/x/q/ p/x/q/y/"},

	{"write/other file changed", "new f x; new g y", "put g 0 a", "put f 0 b", "f=b g=a"},
	{"write/content changed", "new f.c xx", "put f.c 0 a", "put f.c 1 b", "f.c=ax f{b}.c=xb"},
	{"write/attributes changed", "new f x", "chmod f 0600; xattr f user.k v", "put f 0 b", "f=b:600:user.k=v"},
	{"write/attributes set before", "new f xx", "put f 0 a", "chmod f 0600; put f 1 b", "f=ax:600 f{b}=xb:600"},
	{"write/attributes set after", "new f xx", "put f 0 a", "put f 1 b; chmod f 0600; times f 77; xattr f user.k v", "f=ax:600:user.k=v f{b}=xb:600:t77:user.k=v"},
	{"write/several times", "new f xxx", "put f 0 a", "put f 1 b; put f 2 c; put f 3 d", "f=axx f{b}=xbcd"},
	{"write/removed", "new f xx", "rm f", "put f 0 b", "f=bx"},
	{"write/removed, name taken", "new f xx", "rm f; new f a", "put f 0 b", "f=a f{b}=bx"},
	{"write/removed with its directory", "mkdir d; new d/f xx", "rm d/f; rmdir d", "put d/f 0 b", "d/ d/f=bx"},
	{"write/saved anew", "new f x", "save f a", "put f 0 b", "f=a f{b}=b"},
	{"write/removed by both", "new f xx", "rm f", "put f 0 b; rm f", ""},
	{"write/removed, then moved here", "new f xx", "rm f", "put f 0 b; mv f g", "g=bx"},
	{"write/moved", "new f xx", "mv f g", "put f 0 b", "g=bx"},
	{"write/moved into a new directory", "mkdir p; mkdir p/q; new f xx", "mkdir p/q/n; mv f p/q/n/f", "put f 0 b", "p/ p/q/ p/q/n/ p/q/n/f=bx"},
	{"write/moved and changed", "new f xx", "put f 0 a; mv f g", "put f 1 b", "g=ax g{b}=xb"},
	{"write/hard link, content changed", "new f xx; ln f g", "put f 0 a", "put g 1 b", "f=ax:n2 f{b}=xb g=ax:n2"},
	{"write/linked meanwhile, content changed", "new f xx", "ln f g; put g 0 a", "put f 1 b", "f=ax:n2 f{b}=xb g=ax:n2"},
	{"write/hard link, one name removed", "new f xx; ln f g", "rm f", "put f 0 b", "g=bx"},
	{"write/hard link, both names removed", "new f xx; ln f g", "rm f; rm g", "put f 0 b", "f=bx"},
	{"write/hard link, one name removed by each", "new f xx; ln f g", "rm f", "rm g; put f 0 b", "g=bx"},
	{"append/content appended", "new f x", "app f aa", "app f b; app f c", "f=xaabc"},
	{"append/content changed", "new f xx", "put f 0 a", "app f b", "f=axb"},
	{"append/same length", "new f x", "put f 0 a", "app f b", "f=ab"},
	{"append/removed", "new f x", "rm f", "app f b", "f=xb"},
	{"append/after a change of both", "new f xx", "put f 0 a", "put f 1 b; app f c", "f=ax f{b}=xbc"},
	{"append/before a change of both", "new f xx", "app f a", "app f b; put f 0 c", "f=xxab f{b}=cxb"},
	{"truncate/content changed", "new f xx", "put f 0 a", "trunc f 1", "f=ax f{b}=x"},
	{"truncate/then written, content changed", "new f xx", "trunc f 0; put f 0 a", "trunc f 0; put f 0 b", "f=a f{b}=b"},
	{"truncate/removed", "new f xx", "rm f", "trunc f 1", "f=x"},
	{"punch/content changed", "new f xxx", "put f 0 a", "punch f 1 1", "f=axx f{b}=x.x"},
	{"punch/removed", "new f xxx", "rm f", "punch f 1 1", "f=x.x"},

	{"chmod/attributes changed", "new f x", "chmod f 0600", "chmod f 0640", "f=x:640"},
	{"chown/mode changed", "new f x", "chmod f 0600", "chown f 7", "f=x:600:uid7"},
	{"chmod/content changed", "new f x", "put f 0 a", "chmod f 0640", "f=a:640"},
	{"chmod/removed", "new f x", "rm f", "chmod f 0640", ""},
	{"chmod/moved", "new f x", "mkdir n; mv f n/f", "chmod f 0640", "n/ n/f=x:640"},
	{"times/content changed", "new f x", "put f 0 a", "times f 77", "f=a:t77"},
	{"xattr/same one set", "new f x", "xattr f user.k a", "xattr f user.k b", "f=x:user.k=b"},
	{"xattr/others set", "new f x", "xattr f user.k a", "xattr f user.l b", "f=x:user.k=a:user.l=b"},
	{"xattr/removed by both", "new f x; xattr f user.k v", "rmxattr f user.k", "rmxattr f user.k", "f=x"},
	{"chmod/directory removed", "mkdir d", "rmdir d", "chmod d 0700", ""},
	{"chmod/directory removed, then used", "mkdir d", "rmdir d", "chmod d 0700; new d/f b", "d/:700 d/f=b"},

	{"open/unlinked here, content changed", "new f x", "put f 0 a", "open f; rm f; hput f 0 b", "f=a"},
	{"open/unlinked there, written here", "new f xx", "rm f", "open f; put f 0 b", "f=bx"},
	{"open/unlinked by both", "new f xx", "rm f", "open f; rm f; hput f 0 b", ""},
}

// ways are the ways from the two machines' work to one tree. All end in the same.
var ways = []struct{ name, b string }{
	{"lost race", "sync"},
	{"crash before", "fsync; crash; sync"},
	{"crash after following", "follow; fsync; crash; sync"},
	{"crash twice", "fsync; crash; follow; fsync; crash; sync"},
	{"lost twice", "follow"}, // and then another commit, see play
	{"lost twice and crash", "follow; fsync; crash"},
}

func TestConflict(t *testing.T) {
	for n, c := range cells {
		t.Run(c.name, func(t *testing.T) {
			for i, w := range ways {
				if histories < 100 && i != n%len(ways) {
					continue // with the race detector one way a cell
				}
				t.Run(w.name, func(t *testing.T) { c.play(t, uint64(i)) })
			}
		})
	}
}

func (c cell) play(t *testing.T, way uint64) {
	cryptotest.SetGlobalRandom(t, way)
	d := newDrive(t)
	a, b := d.machine("a"), d.machine("b")
	a.do(c.base + "; sync")
	b.do("follow")
	_, _ = a.show(), b.show()
	a.do(c.a + "; sync")
	b.do(c.b)
	b.consistent()
	k := b.kernel()
	b.do(ways[way].b)
	if !strings.Contains(ways[way].b, "crash") {
		k.right()
	}
	want := c.want
	if way >= 4 {
		b.consistent()
		a.do("new other x; sync")
		b.do("sync; follow")
		want += " other=x"
	}
	b.want(want)
	b.consistent()
	k = a.kernel()
	a.do("follow")
	k.right()
	a.want(want)
	same(t, a, b)
	if way == 0 {
		same(t, a, d.machine("c"))
	}
	for _, m := range []*machine{a, b} {
		m.do("crash")
		m.want(want)
	}
	same(t, a, b)
	for _, m := range []*machine{a, b} {
		if n := m.v.Status().PendingOps; n != 0 {
			t.Fatal(m.name, "has", n, "operations pending")
		}
	}
}

// The table that users read names every test, and no other.
func TestConflictsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/CONFLICTS.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile("`([a-z][^`]*)`").FindAllStringSubmatch(string(text), -1) {
		documented[m[1]] = true
	}
	known := map[string]bool{}
	for _, c := range cells {
		known[c.name] = true
	}
	for _, s := range sagas {
		known[s.name] = true
	}
	for name := range known {
		if !documented[name] {
			t.Errorf("docs/CONFLICTS.md does not name %q", name)
		}
	}
	for name := range documented {
		if verb, rest, ok := strings.Cut(name, "/"); ok && rest != "" && !known[name] {
			t.Errorf("docs/CONFLICTS.md names %q, which is no test of %s", name, verb)
		}
	}
}
