//go:build linux

package integration

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Names that are hard to carry.
var (
	longName    = strings.Repeat("n", 251) + ".txt"
	longUTF8    = strings.Repeat("ä", 127) + "x"
	composed    = "caf\u00e9"
	decomposed  = "cafe\u0301"
	withNewline = "two\nlines"
	notUTF8     = "latin1-\xe4\xff"
)

// makeTree fills an empty directory with everything that a copy may lose. It
// is the same at every call, times included.
func makeTree(root string) error {
	t := &maker{root: root}
	t.file("plain", "plain\n", 0o644)
	t.file("secret", "only mine\n", 0o600)
	t.file("empty-file", "", 0o444)
	t.file("inline", strings.Repeat("i", 512), 0o644)
	t.file("one-more", strings.Repeat("o", 513), 0o644)
	t.file("chunk", string(noise(1<<20, 1)), 0o644)
	t.file("chunk-and-one", string(noise(1<<20+1, 2)), 0o644)
	t.file("big", string(noise(5<<20+12345, 3)), 0o644)
	t.file("zeros", string(make([]byte, 300<<10)), 0o644)
	t.file("suid", "#!/bin/true\n", 0o4755)
	for _, name := range []string{longName, longUTF8, composed, decomposed, withNewline, notUTF8, " lead", "trail ", "-dash", "back\\slash", "*", "...", "a:b"} {
		t.file(name, name, 0o644)
	}
	t.dir("empty", 0o755)
	t.dir("deep", 0o755)
	t.dir("deep/er", 0o700)
	t.dir("sticky", 0o1777)
	t.links()
	t.specials()
	t.attributes()
	t.many()
	t.oldAndNew()
	t.settle()
	return t.err
}

type maker struct {
	root string
	err  error // the first one; later steps are not taken
}

func (t *maker) do(f func() error) {
	if t.err == nil {
		t.err = f()
	}
}

func (t *maker) at(name string) string { return filepath.Join(t.root, name) }

func (t *maker) file(name, content string, mode fs.FileMode) {
	t.do(func() error {
		if err := os.WriteFile(t.at(name), []byte(content), 0o600); err != nil {
			return err
		}
		return unix.Chmod(t.at(name), uint32(mode))
	})
}

func (t *maker) dir(name string, mode uint32) {
	t.do(func() error { return errors.Join(os.Mkdir(t.at(name), 0o755), unix.Chmod(t.at(name), mode)) })
}

func (t *maker) links() {
	t.file("linked", "one file, three names", 0o644)
	t.do(func() error { return os.Link(t.at("linked"), t.at("deep/linked")) })
	t.do(func() error { return os.Link(t.at("linked"), t.at("deep/er/linked")) })
	t.do(func() error { return os.Symlink("/nowhere/at/all", t.at("dangling")) })
	t.do(func() error { return os.Symlink("../plain", t.at("deep/relative")) })
	t.do(func() error { return os.Symlink(strings.Repeat("t/", 2000)+"end", t.at("long-target")) })
	t.do(func() error { return os.Link(t.at("dangling"), t.at("deep/dangling-too")) })
}

func (t *maker) specials() {
	t.do(func() error { return unix.Mkfifo(t.at("fifo"), 0o640) })
	t.do(func() error { return unix.Chmod(t.at("fifo"), 0o620) })
	t.do(func() error { return unix.Mknod(t.at("socket"), unix.S_IFSOCK|0o640, 0) })
	t.do(func() error { return unix.Mknod(t.at("null"), unix.S_IFCHR|0o644, 0x103) })
	t.do(func() error { return unix.Mknod(t.at("block"), unix.S_IFBLK|0o600, 0x700) })
	t.do(func() error {
		f, err := os.Create(t.at("sparse"))
		if err != nil {
			return err
		}
		_, err = f.WriteAt([]byte("in the middle of nothing"), 7<<20)
		return errors.Join(err, f.Truncate(40<<20), f.Close(), unix.Chmod(t.at("sparse"), 0o644))
	})
}

func (t *maker) attributes() {
	t.file("xattrs", "with attributes", 0o644)
	for name, value := range map[string]string{"user.colour": "green", "user.empty": "", "user.binary": "\x00\x01\xff\x00", "user.long": strings.Repeat("v", 2000)} {
		t.do(func() error { return unix.Lsetxattr(t.at("xattrs"), name, []byte(value), 0) })
	}
	t.do(func() error { return unix.Lsetxattr(t.at("deep"), "user.of-a-folder", []byte("yes"), 0) })
	t.do(func() error { return unix.Lsetxattr(t.at("dangling"), "trusted.of-a-link", []byte("yes"), 0) })
	t.file("capable", "#!/bin/true\n", 0o755)
	t.do(func() error {
		// VFS_CAP_REVISION_2, effective; cap_net_raw permitted.
		value := binary.LittleEndian.AppendUint32(nil, 0x02000001)
		value = append(value, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
		return unix.Lsetxattr(t.at("capable"), "security.capability", value, 0)
	})
	t.dir("acl", 0o750)
	t.do(func() error { return unix.Lsetxattr(t.at("acl"), "system.posix_acl_default", acl(7, 5, 7), 0) })
	t.do(func() error { return unix.Lsetxattr(t.at("acl"), "system.posix_acl_access", acl(7, 5, 5), 0) })
	t.file("acl/file", "made below a default ACL", 0o640)
	t.do(func() error { return unix.Lsetxattr(t.at("acl/file"), "system.posix_acl_access", acl(6, 4, 6), 0) })
	t.dir("setgid", 0o755)
	t.do(func() error { return os.Lchown(t.at("setgid"), 12, 34) })
	t.do(func() error { return unix.Chmod(t.at("setgid"), 0o2775) })
	t.dir("setgid/below", 0o755)
	t.do(func() error { return unix.Chmod(t.at("setgid/below"), 0o2755) })
	t.file("setgid/file", "of the group", 0o664)
	t.file("owned", "by another", 0o640)
	t.do(func() error { return os.Lchown(t.at("owned"), 65534, 4000000000) })
	t.do(func() error { return os.Lchown(t.at("dangling"), 65534, 65534) })
}

// acl is a POSIX ACL with one named user beside the three classes.
func acl(owner, named, mask uint16) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, owner, ^uint32(0)}, {2, named, 65534}, {4, 5, ^uint32(0)}, {16, mask, ^uint32(0)}, {32, 0, ^uint32(0)}} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

// many makes a directory of several pages.
func (t *maker) many() {
	t.dir("many", 0o755)
	for i := range 700 {
		t.file(fmt.Sprintf("many/a name that takes some room in a page %04d", i), fmt.Sprint("content ", i), 0o644)
	}
}

func (t *maker) oldAndNew() {
	for _, c := range []struct {
		name string
		when time.Time
	}{
		{"from-1960", time.Date(1960, 2, 29, 1, 2, 3, 123456789, time.UTC)},
		{"from-2200", time.Date(2200, 12, 31, 23, 59, 59, 999999999, time.UTC)},
		{"from-1970", time.Unix(0, 0)},
		{"before-1970", time.Unix(-1, 999999999)},
	} {
		t.file(c.name, c.name, 0o644)
		ts := unix.Timespec{Sec: c.when.Unix(), Nsec: int64(c.when.Nanosecond())}
		t.do(func() error { return times(t.at(c.name), ts, ts) })
	}
}

// settle gives all that has today's time a fixed one, the deepest first.
func (t *maker) settle() {
	var paths []string
	t.do(func() error {
		return filepath.WalkDir(t.root, func(path string, d fs.DirEntry, err error) error {
			paths = append(paths, path)
			return err
		})
	})
	for i := len(paths) - 1; i >= 0; i-- {
		if base := filepath.Base(paths[i]); strings.HasPrefix(base, "from-") || strings.HasPrefix(base, "before-") {
			continue
		}
		when := unix.NsecToTimespec(time.Date(2021, 3, 4, 5, 6, i%60, i, time.UTC).UnixNano())
		t.do(func() error { return times(paths[i], when, when) })
	}
}

// noise is content that does not compress, the same for the same seed.
func noise(n int, seed uint64) []byte {
	var b bytes.Buffer
	b.Grow(n + 8)
	x := seed*0x9e3779b97f4a7c15 + 1
	for b.Len() < n {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		var w [8]byte
		binary.LittleEndian.PutUint64(w[:], x*0x2545f4914f6cdd1d)
		b.Write(w[:])
	}
	return b.Bytes()[:n]
}
