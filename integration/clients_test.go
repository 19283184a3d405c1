//go:build linux

package integration

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
	"golang.org/x/sys/unix"
)

// posixChild runs go-fuse's list of POSIX tests, each in a directory of its
// own. A test that leaves itself out has failed.
func posixChild(args []string) error {
	var names []string
	for name := range posixtest.All {
		names = append(names, name)
	}
	sort.Strings(names)
	if len(names) < 30 {
		return fmt.Errorf("only %d tests in the list", len(names))
	}
	var tests []testing.InternalTest
	for _, name := range names {
		tests = append(tests, testing.InternalTest{Name: name, F: func(t *testing.T) {
			t.Cleanup(func() {
				if t.Skipped() {
					t.Error("it left itself out")
				}
			})
			dir := filepath.Join(args[0], name)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if name == "FcntlFlockLocksFile" {
				locksExclude(t, dir)
				return
			}
			posixtest.All[name](t, dir)
		}})
	}
	os.Args = []string{"posix", "-test.v"}
	testing.Main(func(pat, str string) (bool, error) { return true, nil }, tests, nil, nil)
	return nil
}

// locksExclude stands for a test of the list that wants two descriptors of one
// process to exclude each other by POSIX locks, which belong to processes; the
// list's own authors leave it out on local file systems. Here the second one
// is another process.
func locksExclude(t *testing.T, dir string) {
	path := filepath.Join(dir, "test")
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		kind int16
		want string
	}{{unix.F_WRLCK, "EAGAIN"}, {unix.F_UNLCK, "ok "}} {
		if err := unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &unix.Flock_t{Type: c.kind}); err != nil {
			t.Fatal(err)
		}
		other := exec.Command("/proc/self/exe", path)
		other.Env = append(os.Environ(), childVar+"=try-lock")
		out, err := other.CombinedOutput()
		if err != nil || string(out) != c.want {
			t.Errorf("with lock kind %d, another process's attempt says %q, %v; want %q", c.kind, out, err, c.want)
		}
	}
	if err := unix.Close(fd); err != nil {
		t.Error(err)
	}
}

// tryLockChild says what asking for a lock on a whole file brings.
func tryLockChild(args []string) error {
	fd, err := unix.Open(args[0], unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	fmt.Print(said(unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &unix.Flock_t{Type: unix.F_RDLCK})))
	return unix.Close(fd)
}

// holdChild opens a file, says so, and keeps it open until its input ends.
// With "unlink" it removes the name first and in the end reads what it wrote.
func holdChild(args []string) error {
	f, err := os.OpenFile(args[0], os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	text := []byte("still mine")
	unlinked := len(args) > 1 && args[1] == "unlink"
	if unlinked {
		if _, err := f.Write(text); err != nil {
			return err
		}
		if err := os.Remove(args[0]); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil || !unlinked {
		return err
	}
	got := make([]byte, len(text))
	if _, err := f.ReadAt(got, 0); err != nil {
		return err
	}
	if string(got) != string(text) {
		return fmt.Errorf("the unlinked file says %q", got)
	}
	_, err = f.WriteAt([]byte("and more"), 1<<20)
	return err
}

// appendChild appends numbered lines to a file, one write each.
func appendChild(args []string) error {
	count, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	f, err := os.OpenFile(args[0], os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	for i := range count {
		if _, err := fmt.Fprintf(f, "%s %d\n", args[1], i); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}

// ackChild does one durable thing after another in a directory, and adds the
// number of each to a file elsewhere after it was acknowledged. Every kind of
// acknowledgement has its turn; what is behind number i, acked tells.
func ackChild(args []string) error {
	count, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	out, err := os.OpenFile(args[2], os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer out.Close()
	for i := range count {
		if err := ackOne(args[0], i); err != nil {
			return fmt.Errorf("number %d: %w", i, err)
		}
		if _, err := fmt.Fprintln(out, i); err != nil {
			return err
		}
	}
	return nil
}

// The kinds of acknowledgement, by number modulo their count.
const ackKinds = 5

func ackOne(dir string, i int) error {
	path := filepath.Join(dir, fmt.Sprintf("%06d", i))
	content := ackContent(i)
	switch i % ackKinds {
	case 0, 1, 2: // fsync, fdatasync, O_SYNC
		flags := unix.O_WRONLY | unix.O_CREAT | unix.O_CLOEXEC
		if i%ackKinds == 2 {
			flags |= unix.O_SYNC
		}
		fd, err := unix.Open(path, flags, 0o640)
		if err != nil {
			return err
		}
		err = pwriteAll(fd, content, 0, false)
		switch i % ackKinds {
		case 0:
			err = errors.Join(err, unix.Fsync(fd))
		case 1:
			err = errors.Join(err, unix.Fdatasync(fd))
		}
		return errors.Join(err, unix.Close(fd))
	case 3: // a rename over, then fsync of the directory
		fresh := path + ".new"
		if err := errors.Join(os.WriteFile(path, []byte("the old one"), 0o600), os.WriteFile(fresh, content, 0o640), fsyncPath(fresh)); err != nil {
			return err
		}
		return errors.Join(os.Rename(fresh, path), fsyncPath(dir))
	}
	// A directory with a link in it, then fsync of both directories.
	if err := errors.Join(os.Mkdir(path, 0o750), os.WriteFile(filepath.Join(path, "a"), content, 0o640), os.Link(filepath.Join(path, "a"), filepath.Join(path, "b"))); err != nil {
		return err
	}
	return errors.Join(fsyncPath(filepath.Join(path, "a")), fsyncPath(path), fsyncPath(dir))
}

func ackContent(i int) []byte { return noise(1+(i*7919)%90000, uint64(i)) }

// acked says whether what was acknowledged as number i is there, whole.
func acked(dir string, i int) error {
	path := filepath.Join(dir, fmt.Sprintf("%06d", i))
	names := []string{path}
	if i%ackKinds == 4 {
		names = []string{filepath.Join(path, "a"), filepath.Join(path, "b")}
	}
	for _, name := range names {
		got, err := os.ReadFile(name)
		if err != nil {
			return fmt.Errorf("number %d was acknowledged: %w", i, err)
		}
		if string(got) != string(ackContent(i)) {
			return fmt.Errorf("number %d was acknowledged, %s has other content (%d octets)", i, filepath.Base(name), len(got))
		}
	}
	return nil
}

// ackedChild checks every number up to a count.
func ackedChild(args []string) error {
	count, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	for i := range count {
		if err := acked(args[0], i); err != nil {
			return err
		}
	}
	return nil
}

// prefixChild counts the numbers that are there whole. After the first that is
// not, at most that one itself may have left a trace.
func prefixChild(args []string) error {
	count, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	kept := 0
	for kept < count && acked(args[0], kept) == nil {
		kept++
	}
	entries, err := os.ReadDir(args[0])
	if err != nil {
		return err
	}
	for _, e := range entries {
		if n, err := strconv.Atoi(strings.TrimSuffix(e.Name(), ".new")); err != nil || n > kept {
			return fmt.Errorf("%d are whole, yet there is %q", kept, e.Name())
		}
	}
	fmt.Println(kept)
	return nil
}

// manyChild makes a directory of small files, all different.
func manyChild(args []string) error {
	count, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	for i := range count {
		dir := filepath.Join(args[0], fmt.Sprintf("dir%02d", i/50))
		if i%50 == 0 {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
		content := noise(200+(i*37)%4000, uint64(i))
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file-%04d.dat", i)), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// entriesChild makes a directory of so many names, some of them links.
func entriesChild(args []string) error {
	count, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	for i := range count {
		path := filepath.Join(args[0], fmt.Sprintf("entry-%06d", i))
		if i%10 == 3 {
			err = os.Symlink("entry", path)
		} else {
			err = os.WriteFile(path, nil, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
