//go:build linux

package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const nobody = 65534

// TestOrdinaryUser mounts as a user who is not root.
func TestOrdinaryUser(t *testing.T) {
	eachStore(t, func(t *testing.T, w *World) {
		w.ok(os.Chown(w.dir, nobody, nobody))
		u := w.machineOf("u", nobody)
		u.init()
		u.mount()
		if opts := mountOptions(t, u.mnt); !strings.Contains(opts, "nosuid") || !strings.Contains(opts, "nodev") || strings.Contains(opts, "allow_other") {
			t.Errorf("mounted with %s", opts)
		}
		u.child(3*stepLimit, "posix", u.mnt)
		if own := strings.TrimSpace(u.sh("mkdir mine; echo x > mine/file; ln -s x mine/link; mkfifo mine/fifo; cp -r mine again; find . ! -user 65534 -o ! -group 65534; stat -c %u:%g . mine/file")); own != "65534:65534\n65534:65534" {
			t.Errorf("not all files belong to the user: %q", own)
		}
		if r := u.try(stepLimit, "chown 0 mine/file"); r.code == 0 {
			t.Error("a user gave a file away")
		}
		if r := u.try(stepLimit, "mknod mine/null c 1 3"); r.code == 0 {
			t.Error("a user made a device")
		}
		u.otherUsersStayOut()
		u.umount()

		// Root sees owners as they are; what is root's becomes the user's here.
		r := w.machine("r")
		r.importFrom(u)
		r.mount()
		if own := strings.TrimSpace(r.sh("stat -c %u mine/file")); own != "65534" {
			t.Errorf("root sees the owner %s", own)
		}
		r.sh("echo of-root > roots; chmod 600 roots; mkdir -m 700 private; echo in > private/file; echo '#!/bin/true' > suid; chmod 4755 suid; mknod null c 1 3; chmod 666 null")
		r.umount()
		u.mount()
		if got := u.sh("cat roots private/file; stat -c %u:%g roots private; echo more >> roots; rm private/file"); got != "of-root\nin\n65534:65534\n65534:65534\n" {
			t.Errorf("the user sees of root's files: %q", got)
		}
		if r := u.try(stepLimit, "cat null"); r.code == 0 {
			t.Error("a device node is alive in the mount")
		}
		u.remount()
		if got := u.sh("cat roots; ls private"); got != "of-root\nmore\n" {
			t.Errorf("after a remount: %q", got)
		}
		if info, err := os.Stat(u.home); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("the state folder: %v, %v; want 0700", info.Mode(), err)
		}
	})
}

// otherUsersStayOut tries to enter the user's mount as root, in a child.
func (m *Machine) otherUsersStayOut() {
	m.w.t.Helper()
	c := m.shell(stepLimit, "ls")
	c.uid = 0
	if r := m.run(c); r.code == 0 || strings.Contains(r.out, "mine") {
		m.w.t.Errorf("root entered another user's mount: %v", r)
	}
	c.uid = 33
	if r := m.run(c); r.code == 0 || strings.Contains(r.out, "mine") {
		m.w.t.Errorf("another user entered the mount: %v", r)
	}
}

// mountOptions is the mount's line in the kernel's table.
func mountOptions(t *testing.T, dir string) string {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(raw), "\n") {
		if f := strings.Fields(line); len(f) > 5 && f[4] == dir {
			return line
		}
	}
	t.Fatalf("%s is not a mount", filepath.Base(dir))
	return ""
}

// TestAllowOther lets another user in when told to, and nobody otherwise.
func TestAllowOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onDir)
	a := w.first("a")
	try := func() result {
		c := a.shell(stepLimit, "cat readable; cat secret")
		c.uid = nobody
		return a.run(c)
	}
	a.mount()
	a.sh("echo for all > readable; echo for root > secret; chmod 600 secret; cp /bin/id suid; chmod 4755 suid")
	if r := try(); strings.Contains(r.out, "for all") {
		t.Errorf("let in unasked: %v", r)
	}
	a.umount()
	a.mount("--allow-other")
	if r := try(); r.out != "for all\n" || r.code == 0 {
		t.Errorf("with --allow-other the modes must decide: %v", r)
	}
	c := a.shell(stepLimit, "./suid -u")
	c.uid = nobody
	if r := a.run(c); strings.TrimSpace(r.out) != "65534" {
		t.Errorf("a set-user-id bit works in the mount: %v", r)
	}
}
