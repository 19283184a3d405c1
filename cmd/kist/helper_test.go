package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"kist/fs/drive"
)

func TestHelperArguments(t *testing.T) {
	h, err := parseHelper([]string{"dir:/s", "/mnt", "-sv", "-n", "-o", "rw,passphrase_file=/p,allow_other,ro,noexec", "-t", "kist",
		"-ocache_size=512M,journal_size=64M,fsync=store,home=/h,credentials_file=/c,_netdev,nofail,noauto,comment=x,x-systemd.requires=/s,unheard-of"})
	if err != nil {
		t.Fatal(err)
	}
	want := drive.MountConfig{Store: "dir:/s", Source: "dir:/s", Dir: "/mnt", ReadOnly: true, AllowOther: true, NoExec: true, FsyncStore: true, CacheSize: 512 << 20, JournalSize: 64 << 20}
	if h.cfg != want || h.pass.file != "/p" || h.fake || h.env["KIST_HOME"] != "/h" || h.env["AWS_SHARED_CREDENTIALS_FILE"] != "/c" {
		t.Errorf("read as %+v", h)
	}
	h, err = parseHelper([]string{"dir:/s", "/mnt"})
	if err != nil || h.cfg != (drive.MountConfig{Store: "dir:/s", Source: "dir:/s", Dir: "/mnt", CacheSize: 10 << 30, JournalSize: 4 << 30}) {
		t.Errorf("without options: %+v, %v", h, err)
	}
	for _, args := range []string{
		"", "dir:/s", "dir:/s /mnt /more", "dir:/s /mnt -", "dir:/s /mnt -x", "dir:/s /mnt -o unheard-of", "dir:/s /mnt -o remount", "dir:/s /mnt -o suid",
		"dir:/s /mnt -o dev", "dir:/s /mnt -o home=h", "dir:/s /mnt -o home", "dir:/s /mnt -o passphrase_file=p", "dir:/s /mnt -o cache_size=many", "dir:/s /mnt -o journal_size=1M",
		"dir:/s /mnt -o fsync=never", "dir:/s /mnt -o nofail=1",
	} {
		if h, err := parseHelper(strings.Fields(args)); !errors.Is(err, drive.ErrUsage) {
			t.Errorf("%q: %+v, %v", args, h, err)
		}
	}
	for _, c := range []struct {
		args string
		want bool
	}{{"/sbin/mount.kist dir:/s /mnt", true}, {"mount.kist", true}, {"/sbin/mount.kist daemon", false}, {"mount.kist stretch", false}, {"/usr/bin/kist mount", false}} {
		if isHelper(strings.Fields(c.args)) != c.want {
			t.Errorf("%q: taken for the helper: %v", c.args, !c.want)
		}
	}
}

// linked puts the program below a folder as mount.kist.
func (u *user) linked() string {
	u.t.Helper()
	if err := os.Mkdir(u.path("sbin"), 0o700); err != nil {
		u.t.Fatal(err)
	}
	if err := os.Symlink(binary, u.path("sbin/mount.kist")); err != nil {
		u.t.Fatal(err)
	}
	return u.path("sbin/mount.kist")
}

// boot runs a command as a machine does that starts: with hardly a variable.
func (u *user) boot(line ...string) outcome {
	u.t.Helper()
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Dir, cmd.Env = "/", []string{"PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		u.t.Fatal(err)
	}
	return outcome{u.t, strings.Join(line, " "), cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

func TestHelper(t *testing.T) {
	u := mounted(t)
	u.write("mnt/file", "hello", 0o600)
	store, mnt, options := "dir:"+u.path("store"), u.path("mnt"), "passphrase_file="+u.path("pass")+",home="+u.path("home")+",_netdev,nofail,x-a=b"
	helper := u.linked()
	u.boot(helper, store, mnt, "-o", options).exits(32).quiet().warns("mounted on this machine already", "with 7")
	u.run("umount", "mnt").exits(0)
	u.boot(helper, store, mnt, "-o", options+",colour=green").exits(1).quiet().warns("colour", "nothing was mounted")
	u.boot(helper, store, mnt).exits(1).quiet().warns("home=DIR")
	u.boot(helper, store, mnt, "-fo", options).exits(0).quiet()
	u.run("status", "mnt").exits(1)
	u.boot(helper, store, mnt, "-o", "ro,"+options).exits(0).quiet()
	u.reads("mnt/file", "hello")
	if err := os.WriteFile(u.path("mnt/file"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
		t.Errorf("writing to what is mounted with ro: %v", err)
	}
	u.run("umount", "mnt").exits(0)
	u.write("wrong", "wrong\n", 0o600)
	u.boot(helper, store, mnt, "-o", options+",passphrase_file="+u.path("wrong")).exits(32).quiet().warns("wrong passphrase", "with 6")
}

// TestFstab lets mount(8) itself find the helper and read a line of fstab. It does
// so among mounts of its own, in which /sbin holds nothing but the helper.
func TestFstab(t *testing.T) {
	u := mounted(t)
	u.write("mnt/file", "hello", 0o700)
	u.run("umount", "mnt").exits(0)
	u.linked()
	u.write("fstab", strings.Join([]string{"dir:" + u.path("store"), u.path("mnt"), "kist",
		"passphrase_file=" + u.path("pass") + ",home=" + u.path("home") + ",noexec,_netdev,nofail,x-systemd.mount-timeout=5min", "0", "0\n"}, " "), 0o600)
	script := `set -eu
		trap 'KIST_HOME="$1/home" "$2" umount --no-drain "$1/mnt" 2> /dev/null || true' EXIT
		sbin=$(readlink -f /sbin)
		mount --bind "$1/sbin" "$sbin"
		mount -T "$1/fstab" "$1/mnt"
		cat "$1/mnt/file"
		findmnt -no SOURCE,FSTYPE,OPTIONS "$1/mnt"
		mount -T "$1/fstab" -a
		KIST_HOME="$1/home" "$2" umount "$1/mnt"`
	flags := "-m"
	if os.Getuid() != 0 {
		flags = "-rm"
	}
	real, err := filepath.EvalSymlinks(u.dir)
	if err != nil {
		t.Fatal(err)
	}
	u.boot("unshare", flags, "sh", "-c", script, "sh", real, binary).exits(0).
		says("hello", "dir:"+u.path("store"), "fuse.kist", "noexec", "nosuid", "nodev")
}
