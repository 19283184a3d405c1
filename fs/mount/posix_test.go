//go:build linux

package mount

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/hanwen/go-fuse/v2/posixtest"
	"golang.org/x/sys/unix"
)

// clients are what this binary runs in a process of its own, against a mount.
var clients = map[string]func(t *testing.T, dir string){
	"posix":   clientPosix,
	"delete":  clientDelete,
	"seekdir": clientSeekDir,
	"rename":  clientRename,
	"tmpfile": clientTmpfile,
	"xattr":   clientXattr,
	"append":  clientAppend,
	"mmap":    clientMmap,
}

func TestClients(t *testing.T) {
	for name := range clients {
		t.Run(name, func(t *testing.T) {
			_, dir := mounted(t, Options{Control: "/run/user/0/kist.sock"})
			client(t, name, dir)
		})
	}
}

func clientPosix(t *testing.T, dir string) {
	if len(posixtest.All) < 30 {
		t.Fatalf("only %d tests", len(posixtest.All))
	}
	// It wants two locks of one process to exclude each other, which no file
	// system does; its authors leave it out too.
	delete(posixtest.All, "FcntlFlockLocksFile")
	for name, fn := range posixtest.All {
		t.Run(name, func(t *testing.T) {
			sub := filepath.Join(dir, name)
			if err := os.Mkdir(sub, 0o755); err != nil {
				t.Fatal(err)
			}
			fn(t, sub)
			if err := os.RemoveAll(sub); err != nil {
				t.Error(err)
			}
		})
	}
}

func makeFiles(t *testing.T, dir string, n int) map[string]bool {
	names := map[string]bool{}
	for i := range n {
		name := fmt.Sprintf("file-%05d", i)
		fd, err := unix.Open(filepath.Join(dir, name), unix.O_CREAT|unix.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		names[name] = true
	}
	return names
}

// stream lists with small buffers and tells each entry but "." and "..".
func stream(t *testing.T, fd int, fn func(fuse.DirEntry) bool) {
	buf := make([]byte, 1024)
	for {
		n, err := unix.ReadDirent(fd, buf)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return
		}
		for todo := buf[:n]; len(todo) > 0; {
			var e fuse.DirEntry
			todo = todo[e.Parse(todo):]
			if e.Name != "." && e.Name != ".." && !fn(e) {
				return
			}
		}
	}
}

func openDir(t *testing.T, dir string) int {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// clientDelete lists ten thousand names while every third is deleted, new ones
// appear and other handles list the same directory: what was there all the
// time is seen exactly once.
func clientDelete(t *testing.T, dir string) {
	keep := makeFiles(t, dir, 10_000)
	var doomed []string
	for name := range keep {
		if len(doomed) < len(keep)/2 {
			doomed = append(doomed, name)
			delete(keep, name)
		}
	}
	seen := map[string]int{}
	count := 0
	stream(t, openDir(t, dir), func(e fuse.DirEntry) bool {
		seen[e.Name]++
		if count++; count%2 == 0 && len(doomed) > 0 {
			if err := os.Remove(filepath.Join(dir, doomed[0])); err != nil {
				t.Fatal(err)
			}
			doomed = doomed[1:]
		}
		if count%500 == 0 {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("new-%05d", count)), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			other := 0
			stream(t, openDir(t, dir), func(fuse.DirEntry) bool { other++; return other < count })
		}
		return true
	})
	for name := range keep {
		if seen[name] != 1 {
			t.Errorf("%s was seen %d times", name, seen[name])
		}
	}
	for name, n := range seen {
		if n > 1 {
			t.Errorf("%s was seen %d times", name, n)
		}
	}
}

// clientSeekDir goes back to each offset that one handle saw, through another
// one and after a change, and finds the same next name.
func clientSeekDir(t *testing.T, dir string) {
	makeFiles(t, dir, 500)
	var ents []fuse.DirEntry
	all := func(e fuse.DirEntry) bool { ents = append(ents, e); return true }
	stream(t, openDir(t, dir), all)
	if len(ents) != 500 {
		t.Fatalf("%d entries", len(ents))
	}
	fd := openDir(t, dir)
	for i := len(ents) - 2; i >= 0; i-- {
		if i%100 == 0 {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("a%d", i)), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			stream(t, openDir(t, dir), func(fuse.DirEntry) bool { return false })
		}
		if _, err := unix.Seek(fd, int64(ents[i].Off), unix.SEEK_SET); err != nil {
			t.Fatal(err)
		}
		stream(t, fd, func(e fuse.DirEntry) bool {
			if e != ents[i+1] {
				t.Errorf("after %v: %v, not %v", ents[i], e, ents[i+1])
			}
			return false
		})
	}
	if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
		t.Fatal(err)
	}
	ents = nil
	stream(t, fd, all)
	if len(ents) != 505 {
		t.Errorf("after rewinding: %d entries, not 505", len(ents))
	}
}

func clientRename(t *testing.T, dir string) {
	a, b, c := filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "c")
	for path, content := range map[string]string{a: "one", b: "two"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rename := func(from, to string, flags uint) error {
		return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags)
	}
	want := func(path, content string) {
		t.Helper()
		if got, err := os.ReadFile(path); err != nil || string(got) != content {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	for _, c := range []struct {
		from, to string
		flags    uint
		err      error
	}{
		{a, b, unix.RENAME_NOREPLACE, syscall.EEXIST},
		{a, c, unix.RENAME_EXCHANGE, syscall.ENOENT},
		{a, b, unix.RENAME_WHITEOUT, syscall.EINVAL},
		{a, b, unix.RENAME_EXCHANGE, nil},
		{b, c, unix.RENAME_NOREPLACE, nil},
	} {
		if err := rename(c.from, c.to, c.flags); !errors.Is(err, c.err) {
			t.Errorf("rename %v: %v", c, err)
		}
	}
	want(a, "two")
	want(c, "one")
	if err := rename(a, c, 0); err != nil {
		t.Error(err)
	}
	want(c, "two")
	if _, err := os.Lstat(a); !errors.Is(err, syscall.ENOENT) {
		t.Error(err)
	}
}

func clientTmpfile(t *testing.T, dir string) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0o640)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte("no name yet")); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "named")
	if err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "no name yet" {
		t.Errorf("%q, %v", got, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Nlink != 1 || st.Mode != unix.S_IFREG|0o640 {
		t.Errorf("%v links, mode %o, %v", st.Nlink, st.Mode, err)
	}
}

func clientXattr(t *testing.T, dir string) {
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{0, 1, 4096, 64 << 10} {
		value := bytes.Repeat([]byte{'x'}, size)
		if err := unix.Setxattr(path, "user.v", value, 0); err != nil {
			t.Fatal(err)
		}
		if n, err := unix.Getxattr(path, "user.v", nil); err != nil || n != size {
			t.Errorf("size of %d: %d, %v", size, n, err)
		}
		got := make([]byte, size+1)
		if n, err := unix.Getxattr(path, "user.v", got); err != nil || !bytes.Equal(got[:n], value) {
			t.Errorf("value of %d: %d, %v", size, n, err)
		}
		if size > 1 {
			if _, err := unix.Getxattr(path, "user.v", got[:size-1]); err != unix.ERANGE {
				t.Errorf("too small a buffer: %v", err)
			}
		}
	}
	got := make([]byte, 256)
	for _, c := range []struct {
		what string
		err  error
		want error
	}{
		{"create", unix.Setxattr(path, "user.v", nil, unix.XATTR_CREATE), unix.EEXIST},
		{"replace", unix.Setxattr(path, "user.w", nil, unix.XATTR_REPLACE), unix.ENODATA},
		{"absent", func() error { _, err := unix.Getxattr(path, "user.w", got); return err }(), unix.ENODATA},
		{"remove", unix.Removexattr(path, "user.w"), unix.ENODATA},
		{"list", func() error { _, err := unix.Listxattr(path, got[:3]); return err }(), unix.ERANGE},
		{"set control", unix.Setxattr(dir, ControlXattr, []byte("x"), 0), unix.EPERM},
		{"remove control", unix.Removexattr(dir, ControlXattr), unix.EPERM},
		{"set state", unix.Setxattr(path, StateXattr, []byte("x"), 0), unix.EPERM},
		{"remove state", unix.Removexattr(path, StateXattr), unix.EPERM},
		{"control below", func() error { _, err := unix.Getxattr(path, ControlXattr, got); return err }(), unix.ENODATA},
	} {
		if c.err != c.want {
			t.Errorf("%s: %v", c.what, c.err)
		}
	}
	if n, err := unix.Getxattr(dir, ControlXattr, got); err != nil || string(got[:n]) != "/run/user/0/kist.sock" {
		t.Errorf("control: %q, %v", got[:max(n, 0)], err)
	}
	for _, p := range []string{dir, path} {
		if n, err := unix.Getxattr(p, StateXattr, got); err != nil || string(got[:n]) != "memory" {
			t.Errorf("state: %q, %v", got[:max(n, 0)], err)
		}
	}
	if n, err := unix.Listxattr(path, got); err != nil || string(got[:n]) != "user.v\x00" {
		t.Errorf("the file lists %q, %v", got[:max(n, 0)], err)
	}
	if n, err := unix.Listxattr(dir, got); err != nil || n != 0 {
		t.Errorf("the root lists %q, %v", got[:max(n, 0)], err)
	}
}

// clientAppend appends through two handles; copies ranges, which the kernel
// does itself; and asks for what does not exist.
func clientAppend(t *testing.T, dir string) {
	path := filepath.Join(dir, "log")
	var files []*os.File
	for range 2 {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	for i := range 10 {
		if _, err := files[i%2].WriteString(fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "0123456789" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := unix.IoctlGetInt(int(files[0].Fd()), 0x7777); err != syscall.ENOTTY {
		t.Errorf("ioctl: %v", err)
	}
	to, err := os.Create(filepath.Join(dir, "copy"))
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if err := unix.Flock(int(files[0].Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Error(err)
	}
	if err := unix.Flock(int(files[1].Fd()), unix.LOCK_EX|unix.LOCK_NB); err != syscall.EAGAIN {
		t.Errorf("a second lock: %v", err)
	}
	var off int64
	if n, err := unix.CopyFileRange(int(files[0].Fd()), &off, int(to.Fd()), nil, 5, 0); err != nil || n != 5 {
		t.Errorf("copied %d, %v", n, err)
	}
	long := strings.Repeat("n", 256)
	if _, err := os.Stat(filepath.Join(dir, long)); !errors.Is(err, syscall.ENAMETOOLONG) {
		t.Errorf("a long name: %v", err)
	}
	if err := os.Mkdir(filepath.Join(dir, long), 0o700); !errors.Is(err, syscall.ENAMETOOLONG) {
		t.Errorf("a long name: %v", err)
	}
}

func clientMmap(t *testing.T, dir string) {
	f, err := os.Create(filepath.Join(dir, "mapped"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(3 * 4096); err != nil {
		t.Fatal(err)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, 3*4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	copy(mem[5000:], "through the mapping")
	if err := unix.Msync(mem, unix.MS_SYNC); err != nil {
		t.Fatal(err)
	}
	if err := unix.Munmap(mem); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 19)
	if _, err := f.ReadAt(got, 5000); err != nil || string(got) != "through the mapping" {
		t.Errorf("%q, %v", got, err)
	}
	if slices.Contains(got, 0) {
		t.Error("a hole where data is")
	}
}
