package mount

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// nobody is some user who is not root.
var nobody = &syscall.Credential{Uid: 65534, Gid: 65534}

func TestMountOptions(t *testing.T) {
	_, dir := mounted(t, Options{})
	m, ok, err := find(dir)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	table, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if f[1] != dir {
			continue
		}
		if f[0] != "kist" || f[2] != "fuse.kist" || strings.Contains(f[3], "allow_other") {
			t.Error(line)
		}
		for _, opt := range []string{"nosuid", "nodev", "default_permissions"} {
			if !strings.Contains(","+f[3]+",", ","+opt+",") {
				t.Errorf("no %s in %s", opt, f[3])
			}
		}
	}
	if got, err := os.ReadFile("/sys/class/bdi/" + m.dev + "/read_ahead_kb"); err != nil || strings.TrimSpace(string(got)) != "8192" {
		t.Errorf("read ahead: %s %v", got, err)
	}
}

// TestCloseOnExec: a child must not keep the mount alive.
func TestCloseOnExec(t *testing.T) {
	mounted(t, Options{})
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err != nil || target != "/dev/fuse" {
			continue
		}
		found++
		out, err := exec.Command("readlink", "/proc/self/fd/"+filepath.Base(fd)).Output()
		if err == nil {
			t.Errorf("a child has %s", out)
		}
	}
	if found != 1 {
		t.Errorf("%d descriptors of /dev/fuse", found)
	}
}

func TestBusy(t *testing.T) {
	s, dir := mountFS(t, newMemFS(), Options{})
	r := startAgent(t, dir, nil)
	r.do(order{Op: "write", Path: "f", Data: "x"})
	for _, c := range []struct {
		op, path, how string
		undo          order
	}{
		{"open", "f", "open file", order{Op: "close", Path: "f"}},
		{"chdir", "", "working directory", order{Op: "chdir", Path: "../../../../../.."}},
	} {
		r.do(order{Op: c.op, Path: c.path})
		if err := s.Unmount(); !errors.Is(err, syscall.EBUSY) {
			t.Errorf("%s: unmounted: %v", c.op, err)
		}
		users, err := Busy(dir)
		if err != nil || len(users) != 1 || users[0].PID != r.cmd.Process.Pid || users[0].How != c.how || users[0].Name == "" {
			t.Errorf("%s: used by %v, %v", c.op, users, err)
		}
		r.do(c.undo)
	}
	if users, err := Busy(dir); err != nil || len(users) != 0 {
		t.Errorf("still used by %v, %v", users, err)
	}
	r.do(order{Op: "stat", Path: "f"})
}

// startServer mounts from another process.
func startServer(t *testing.T, dir string, as *syscall.Credential) (io.Closer, *exec.Cmd) {
	t.Helper()
	cmd := self(context.Background(), "server", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
		if done, err := CleanDead(dir); err != nil {
			t.Error(done, err)
		}
	})
	line := make([]byte, 200)
	if n, err := out.Read(line); string(line[:n]) != "mounted\n" {
		t.Fatalf("%q %v", line[:n], err)
	}
	return in, cmd
}

func TestCleanDead(t *testing.T) {
	dir := t.TempDir()
	if done, err := CleanDead(dir); done || err != nil {
		t.Fatal("nothing is mounted: ", done, err)
	}
	_, cmd := startServer(t, dir, nil)
	if done, err := CleanDead(dir); done || err != nil {
		t.Fatal("it is alive: ", done, err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if on, err := IsMounted(link); !on || err != nil {
		t.Error("through a link: ", on, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if on, err := IsMounted(dir); !on || err != nil {
		t.Fatal("a dead mount is a mount: ", on, err)
	}
	if done, err := CleanDead(link); !done || err != nil {
		t.Fatal("it is dead: ", done, err)
	}
	if on, err := IsMounted(dir); on || err != nil {
		t.Error("it was taken away: ", on, err)
	}
}

// TestOrdinaryUser mounts and unmounts through fusermount3.
func TestOrdinaryUser(t *testing.T) {
	dir := mountPointFor(t)
	if err := os.Chown(dir, int(nobody.Uid), int(nobody.Gid)); err != nil {
		t.Fatal(err)
	}
	in, _ := startServer(t, dir, nobody)
	if on, err := IsMounted(dir); !on || err != nil {
		t.Fatal(on, err)
	}
	r := startAgent(t, dir, nobody)
	r.do(order{Op: "write", Path: "f", Data: "mine"})
	if got := r.do(order{Op: "read", Path: "f"}); got != "mine" {
		t.Error(got)
	}
	in.Close()
	eventually(t, "the unmount", func() bool { on, err := IsMounted(dir); return !on && err == nil })
}

// TestAsUser shows a user what root made as the user's own.
func TestAsUser(t *testing.T) {
	m := newMemFS()
	m.nodes[1].attr.Mode = syscall.S_IFDIR | 0o700
	_, dir := mountFS(t, m, Options{AllowOther: true, AsUser: &Owner{Uid: nobody.Uid, Gid: nobody.Gid}})
	m.put("f", "content")
	r := startAgent(t, dir, nobody)
	if got := r.do(order{Op: "stat", Path: "f"}); got != "100644 65534:65534 7" {
		t.Errorf("shown as %s", got)
	}
	r.do(order{Op: "chown", Path: "f", N: int(nobody.Uid)})
	if rep := r.try(order{Op: "chown", Path: "f", N: 1}); rep.Errno != int(syscall.EPERM) {
		t.Errorf("given away: %v", rep)
	}
	r.do(order{Op: "write", Path: "f", Data: "mine"})
	root := startAgent(t, dir, nil)
	if rep := root.try(order{Op: "chown", Path: "f", N: 1}); rep.Errno != int(syscall.EPERM) {
		t.Errorf("given away by root: %v", rep)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if a := m.nodes[2].attr; a.Uid != 0 || a.Gid != 0 {
		t.Errorf("stored as %d:%d", a.Uid, a.Gid)
	}
}

// TestKillPriv: writing to a set-user-ID file takes the bit away.
func TestKillPriv(t *testing.T) {
	m := newMemFS()
	m.nodes[1].attr.Mode = syscall.S_IFDIR | 0o777
	_, dir := mountFS(t, m, Options{AllowOther: true})
	r, root := startAgent(t, dir, nobody), startAgent(t, dir, nil)
	for name, change := range map[string]func(name string){
		"write": func(name string) {
			r.do(order{Op: "open", Path: name})
			r.do(order{Op: "pwrite", Path: name, Data: "x"})
			r.do(order{Op: "close", Path: name})
		},
		"truncate": func(name string) { r.do(order{Op: "write", Path: name, Data: ""}) },
		"chown":    func(name string) { root.do(order{Op: "chown", Path: name, N: 5}) },
	} {
		r.do(order{Op: "write", Path: name, Data: "#!"})
		r.do(order{Op: "chmod", Path: name, N: 0o6777})
		if got := r.do(order{Op: "stat", Path: name}); !strings.HasPrefix(got, "106777") {
			t.Fatalf("%s: %s", name, got)
		}
		change(name)
		if got := r.do(order{Op: "stat", Path: name}); !strings.HasPrefix(got, "100777") {
			t.Errorf("after %s: %s", name, got)
		}
	}
}

// TestOthersStayOut: without AllowOther another user does not get in.
func TestOthersStayOut(t *testing.T) {
	m := newMemFS()
	m.nodes[1].attr.Mode = syscall.S_IFDIR | 0o777
	_, dir := mountFS(t, m, Options{})
	if rep := startAgent(t, dir, nobody).try(order{Op: "list"}); rep.Errno != int(syscall.EACCES) {
		t.Error(rep)
	}
}

func TestReadOnly(t *testing.T) {
	m, dir := mounted(t, Options{ReadOnly: true})
	m.put("f", "content")
	r := startAgent(t, dir, nil)
	if rep := r.try(order{Op: "write", Path: "f", Data: "x"}); rep.Errno != int(syscall.EROFS) {
		t.Error(rep)
	}
	if got := r.do(order{Op: "read", Path: "f"}); got != "content" {
		t.Error(got)
	}
}

// TestFsyncFails: an error of fsync is told each time, and the kernel goes on
// asking.
func TestFsyncAlwaysArrives(t *testing.T) {
	m, dir := mounted(t, Options{})
	r := startAgent(t, dir, nil)
	r.do(order{Op: "write", Path: "f", Data: "x"})
	r.do(order{Op: "open", Path: "f"})
	r.do(order{Op: "fsync", Path: "f"})
	r.do(order{Op: "fsync", Path: "f"})
	if got := m.count("fsync"); got != 2 {
		t.Errorf("%d fsyncs", got)
	}
	r.do(order{Op: "close", Path: "f"})
}

// TestACL sets, shows, copies, inherits and removes access lists with the
// usual tools, and finds what ext4 would show.
func TestACL(t *testing.T) {
	_, dir := mounted(t, Options{})
	const (
		list  = "user::rw-\nuser:12:rw-\ngroup::r--\ngroup:13:r--\nmask::rw-\nother::r--\n\n"
		deflt = "user::rwx\nuser:12:rwx\ngroup::r-x\nmask::rwx\nother::---\n\n"
	)
	for _, c := range []struct{ script, want string }{
		{`umask 022; echo text > f; mkdir d; setfacl -m u:12:rw,g:13:r f; getfacl -cn f; stat -c %a f`, list + "664\n"},
		{`setfacl -d -m u:12:rwx,o::- d; getfacl -cnd d; stat -c %a d`, deflt + "755\n"},
		{`rsync -aAX f d copy/; getfacl -cn copy/f; getfacl -cnd copy/d; stat -c %a copy/f copy/d`, list + deflt + "664\n755\n"},
		{`rsync -aAXni f d copy/`, ""},
		{`getfattr -m - copy/f`, "# file: copy/f\nsystem.posix_acl_access\n\n"},
		{`chmod 640 f; getfacl -cnE f`, "user::rw-\nuser:12:rw-\ngroup::r--\ngroup:13:r--\nmask::r--\nother::---\n\n"},
		{`setfacl -b f; getfacl -cn f; getfattr -m - f; stat -c %a f`, "user::rw-\ngroup::r--\nother::---\n\n640\n"},
		{`umask 077; touch d/f; mkdir d/d; stat -c %a d/f d/d`, "660\n770\n"},
		{`getfacl -cnE d/f`, "user::rw-\nuser:12:rwx\ngroup::r-x\nmask::rw-\nother::---\n\n"},
		{`getfacl -acnE d/d; getfacl -cnd d/d/.`, deflt + deflt},
		{`umask 027; touch plain; mkdir plaindir; stat -c %a plain plaindir`, "640\n750\n"},
	} {
		if got := shell(t, dir, `cd "$1"; `+c.script); got != c.want {
			t.Errorf("%s\ngot\n%s\nwant\n%s", c.script, got, c.want)
		}
	}
}

// TestACLIsEnforced: a list lets in whom the mode does not, and the other way
// round.
func TestACLIsEnforced(t *testing.T) {
	m := newMemFS()
	m.nodes[1].attr.Mode = syscall.S_IFDIR | 0o755
	_, dir := mountFS(t, m, Options{AllowOther: true})
	r := startAgent(t, dir, nobody)
	shell(t, dir, `cd "$1"; echo a > in; echo b > out; chmod 600 in; chmod 644 out; setfacl -m u:65534:r in; setfacl -m u:65534:- out`)
	if got := r.do(order{Op: "read", Path: "in"}); got != "a\n" {
		t.Error(got)
	}
	if rep := r.try(order{Op: "read", Path: "out"}); rep.Errno != int(syscall.EACCES) {
		t.Error(rep)
	}
}

func TestParseACL(t *testing.T) {
	good := acl{{aclUserObj, 6, ^uint32(0)}, {aclUser, 7, 12}, {aclGroupObj, 5, ^uint32(0)}, {aclMask, 4, ^uint32(0)}, {aclOther, 0, ^uint32(0)}}
	b := good.encode()
	if l, ok := parseACL(b); !ok || !slices.Equal(l, good) || l.mode() != 0o640 {
		t.Error(l, ok)
	}
	for i := range good {
		if i == 1 {
			continue // without the named user it is a list as well
		}
		if l, ok := parseACL(slices.Delete(slices.Clone(good), i, i+1).encode()); ok {
			t.Errorf("without entry %d: %v", i, l)
		}
	}
	for n := range b {
		if l, ok := parseACL(b[:n]); ok {
			t.Errorf("%d bytes: %v", n, l)
		}
	}
	for _, bad := range []acl{append(slices.Clone(good), aclEntry{0x40, 0, 0}), append(slices.Clone(good), aclEntry{aclOther, 1, 0}), {good[0], good[2], {aclOther, 8, 0}}} {
		if _, ok := parseACL(bad.encode()); ok {
			t.Error(bad)
		}
	}
}

func TestStatfs(t *testing.T) {
	_, dir := mounted(t, Options{})
	if got := shell(t, dir, `stat -f -c '%b %f %a %s %l %c %d' "$1"`); got != "1073741824 536870912 268435456 4096 255 1048576 524288\n" {
		t.Error(got)
	}
}

// TestTools runs what people run.
func TestTools(t *testing.T) {
	_, dir := mounted(t, Options{})
	shell(t, dir, `
		cd "$1"; mkdir -p src/a/b; echo 1 > src/a/b/f; ln src/a/b/f src/hard; ln -s a/b/f src/soft; mkfifo src/pipe
		truncate -s 100K src/sparse; mknod src/null c 1 3; touch -d '1969-12-31 23:00:00.5 UTC' src/old; chmod 2755 src/a
		rsync -aHAX src/ copy/; rsync -aHAXnic src/ copy/ | { ! grep -v '^$'; }
		tar cf - src | tar xf - -C copy; diff -r --no-dereference src copy/src -x pipe -x null
		[ "$(stat -c %h copy/hard)" = 2 ]; [ "$(stat -c %t:%T copy/null)" = 1:3 ]; [ "$(stat -c %Y copy/old)" = -3600 ]
		rm -rf src copy; [ -z "$(ls)" ]`)
}

// TestUnmountedByOthers: the server ends, without a fault, when somebody else
// takes the mount away.
func TestUnmountedByOthers(t *testing.T) {
	s, err := Mount(newMemFS(), t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(s.Dir(), 0); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { s.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("still served")
	}
	if err := s.Unmount(); err != nil {
		t.Error(err)
	}
}
