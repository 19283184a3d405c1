//go:build linux

package integration

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// record is everything that can be seen of one name without opening the
// program that serves it.
type record struct {
	mode     uint32 // type and permissions
	uid, gid uint32
	rdev     uint64
	size     int64
	mtime    string
	links    uint64   // files only: a directory's count is each file system's own affair
	twins    string   // the first name of the same inode in this tree
	hollow   bool     // takes less space than its size
	target   string   // of a symlink
	xattrs   []string // sorted, name=value
	content  [32]byte // of a file
}

// snapshot reads a whole tree; paths are relative to root, which is ".".
func snapshot(root string) (map[string]record, error) {
	tree := map[string]record{}
	inodes := map[uint64]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		r, ino, err := look(path)
		if err != nil {
			return fmt.Errorf("%q: %w", rel, err)
		}
		if r.mode&unix.S_IFMT != unix.S_IFDIR {
			if _, seen := inodes[ino]; !seen {
				inodes[ino] = rel
			}
			r.twins = inodes[ino]
		}
		tree[rel] = r
		return nil
	})
	return tree, err
}

func look(path string) (record, uint64, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return record{}, 0, err
	}
	r := record{mode: st.Mode, uid: st.Uid, gid: st.Gid, mtime: time.Unix(st.Mtim.Unix()).UTC().Format(time.RFC3339Nano)}
	var err error
	if r.xattrs, err = xattrs(path); err != nil {
		return r, 0, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return r, st.Ino, nil
	case unix.S_IFREG:
		r.size, r.hollow = st.Size, st.Blocks*512 < st.Size
		r.content, err = digest(path)
	case unix.S_IFLNK:
		r.size = st.Size
		r.target, err = os.Readlink(path)
	case unix.S_IFBLK, unix.S_IFCHR:
		r.rdev = st.Rdev
	}
	r.links = uint64(st.Nlink)
	return r, st.Ino, err
}

func digest(path string) (sum [32]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return sum, err
	}
	return [32]byte(h.Sum(nil)), nil
}

func xattrs(path string) ([]string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return nil, err
	}
	var list []string
	for _, name := range strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		list = append(list, fmt.Sprintf("%s=%q", name, value[:n]))
	}
	sort.Strings(list)
	return list, nil
}

// differences lists what is not the same in two snapshots. Hollowness is
// compared only where the first one has it: a file system may save space where
// another does not.
func differences(a, b map[string]record) []string {
	var list []string
	note := func(path, what string, x, y any) {
		list = append(list, fmt.Sprintf("%q: %s: %v, %v", path, what, x, y))
	}
	for path, x := range a {
		y, ok := b[path]
		if !ok {
			note(path, "only in the first", x.mode, "-")
			continue
		}
		for _, f := range []struct {
			what string
			x, y any
		}{
			{"mode", fmt.Sprintf("%o", x.mode), fmt.Sprintf("%o", y.mode)}, {"uid", x.uid, y.uid}, {"gid", x.gid, y.gid},
			{"device", x.rdev, y.rdev}, {"size", x.size, y.size}, {"mtime", x.mtime, y.mtime}, {"links", x.links, y.links},
			{"hard link of", x.twins, y.twins}, {"sparse", x.hollow, x.hollow && y.hollow}, {"target", x.target, y.target},
			{"xattrs", strings.Join(x.xattrs, " "), strings.Join(y.xattrs, " ")}, {"content", x.content, y.content},
		} {
			if f.x != f.y {
				note(path, f.what, f.x, f.y)
			}
		}
	}
	for path, y := range b {
		if _, ok := a[path]; !ok {
			note(path, "only in the second", "-", y.mode)
		}
	}
	sort.Strings(list)
	return list
}

// compareTrees returns an error that names every difference between two
// directories, and one if the first is empty: nothing is like anything.
func compareTrees(a, b string) error { return compareWith(a, b, true) }

// compareWith also compares, if so told, whether what is sparse stayed so.
func compareWith(a, b string, sparse bool) error {
	first, err := snapshot(a)
	if err != nil {
		return err
	}
	if len(first) < 2 {
		return errors.New("nothing to compare: the first tree is empty")
	}
	for path, r := range first {
		r.hollow = r.hollow && sparse
		first[path] = r
	}
	second, err := snapshot(b)
	if err != nil {
		return err
	}
	if list := differences(first, second); len(list) > 0 {
		return fmt.Errorf("%d differences between %d and %d names:\n%s", len(list), len(first), len(second), clip(strings.Join(list, "\n")))
	}
	return nil
}

// compareChild takes two directories, and "dense" where a copy went through a
// program that does not keep holes.
func compareChild(args []string) error {
	return compareWith(args[0], args[1], len(args) < 3 || args[2] != "dense")
}

// TestCompareNotices changes one thing at a time in a copy of the tree made
// for it, and expects each to be noticed.
func TestCompareNotices(t *testing.T) {
	t.Parallel()
	a, b := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	if err := errors.Join(os.Mkdir(a, 0o755), os.Mkdir(b, 0o755), makeTree(a), makeTree(b)); err != nil {
		t.Fatal(err)
	}
	if err := compareTrees(a, b); err != nil {
		t.Fatalf("two like trees: %v", err)
	}
	at := func(name string) string { return filepath.Join(b, name) }
	old := unix.NsecToTimespec(time.Date(2020, 1, 1, 0, 0, 0, 1, time.UTC).UnixNano())
	older := unix.NsecToTimespec(time.Date(2020, 1, 1, 0, 0, 0, 2, time.UTC).UnixNano())
	for _, c := range []struct {
		what   string
		change func() error
	}{
		{"content", func() error {
			return keepTimes(at("plain"), func(p string) error { return os.WriteFile(p, []byte("PLAIN\n"), 0) })
		}},
		{"size", func() error { return keepTimes(at("plain"), func(p string) error { return os.Truncate(p, 3) }) }},
		{"mtime", func() error { return times(at("plain"), old, older) }},
		{"mode", func() error { return os.Chmod(at("plain"), 0o600) }},
		{"mode", func() error { return os.Chmod(at("setgid"), 0o755) }},
		{"uid", func() error { return os.Lchown(at("plain"), 7, -1) }},
		{"gid", func() error { return os.Lchown(at("dangling"), -1, 7) }},
		{"xattrs", func() error { return unix.Lsetxattr(at("xattrs"), "user.colour", []byte("blue"), 0) }},
		{"xattrs", func() error { return unix.Lremovexattr(at("capable"), "security.capability") }},
		{"xattrs", func() error { return unix.Lremovexattr(at("acl"), "system.posix_acl_default") }},
		{"target", func() error { return keepTimes(at("dangling"), resymlink) }},
		{"hard link of", func() error { return keepTimes(at("deep/er/linked"), unlink) }},
		{"only in the first", func() error { return os.Remove(at("fifo")) }},
		{"only in the second", func() error { return os.WriteFile(at("more"), nil, 0o600) }},
		{"device", func() error {
			return keepTimes(at("null"), func(p string) error { return remake(p, unix.S_IFCHR|0o644, 0x105) })
		}},
		{"mode", func() error {
			return keepTimes(at("socket"), func(p string) error { return remake(p, unix.S_IFIFO|0o640, 0) })
		}},
		{"sparse", func() error { return keepTimes(at("sparse"), fillHole) }},
	} {
		if err := c.change(); err != nil {
			t.Fatal(err)
		}
		err := compareTrees(a, b)
		if err == nil || !strings.Contains(err.Error(), ": "+c.what+": ") {
			t.Errorf("a change of %q was not noticed: %v", c.what, err)
		}
		if c.what == "sparse" {
			continue // the last one: a copy does not make holes anew
		}
		if out, err := exec.Command("rsync", "-aHAXc", "--delete", a+"/", b+"/").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if err := compareTrees(a, b); err != nil {
			t.Fatalf("repaired after %q: %v", c.what, err)
		}
	}
	if err := compareTrees(filepath.Join(a, "empty"), filepath.Join(b, "empty")); err == nil {
		t.Error("an empty tree was found to be like another")
	}
}

// keepTimes makes a change that does not show in the times of the file or of
// its folder, so that only what is meant can be noticed.
func keepTimes(path string, change func(string) error) error {
	var st, up unix.Stat_t
	if err := errors.Join(unix.Lstat(path, &st), unix.Lstat(filepath.Dir(path), &up)); err != nil {
		return err
	}
	if err := change(path); err != nil {
		return err
	}
	return errors.Join(times(path, st.Atim, st.Mtim), times(filepath.Dir(path), up.Atim, up.Mtim))
}

func times(path string, atime, mtime unix.Timespec) error {
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{atime, mtime}, unix.AT_SYMLINK_NOFOLLOW)
}

func resymlink(path string) error {
	return errors.Join(os.Remove(path), os.Symlink("/nowhere/at/ALL", path))
}

func remake(path string, mode uint32, dev int) error {
	return errors.Join(os.Remove(path), unix.Mknod(path, mode, dev))
}

// unlink gives a linked file an inode of its own.
func unlink(path string) error {
	raw, err := os.ReadFile(path)
	return errors.Join(err, os.Remove(path), os.WriteFile(path, raw, 0o644))
}

func fillHole(path string) error {
	raw, err := os.ReadFile(path)
	return errors.Join(err, os.WriteFile(path, raw, 0))
}
