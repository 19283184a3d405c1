package main

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// unit reads a setting of the unit that we ship.
func unit(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile("../../docs/kist@.service")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if value, ok := strings.CutPrefix(line, name+"="); ok {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("the unit does not set %s", name)
	return ""
}

// service is what systemd makes of the unit, without systemd.
type service struct {
	u    *user
	cmd  *exec.Cmd
	errs strings.Builder
	bus  *net.UnixConn
}

// starts runs the unit's command for the instance mnt.
func (u *user) starts(env ...string) *service {
	u.t.Helper()
	bus, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: u.path("notify"), Net: "unixgram"})
	if err != nil {
		u.t.Fatal(err)
	}
	u.t.Cleanup(func() { bus.Close() })
	credential, _, _ := strings.Cut(unit(u.t, "LoadCredential"), ":")
	if err := os.Mkdir(u.path("credentials"), 0o700); err != nil {
		u.t.Fatal(err)
	}
	u.write("credentials/"+credential, "correct horse\n", 0o600)
	line := strings.ReplaceAll(unit(u.t, "ExecStart"), "%f", u.path("mnt"))
	argv := strings.Fields(strings.Replace(line, "/usr/local/bin/kist", binary, 1))
	s := &service{u: u, cmd: exec.Command(argv[0], argv[1:]...), bus: bus}
	s.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "KIST_HOME=" + u.path("home"), "NOTIFY_SOCKET=" + u.path("notify"),
		"CREDENTIALS_DIRECTORY=" + u.path("credentials")}, env...)
	s.cmd.Stderr = &s.errs
	if err := s.cmd.Start(); err != nil {
		u.t.Fatal(err)
	}
	u.t.Cleanup(func() { s.cmd.Process.Kill() })
	return s
}

// hears waits for a message that holds a text, and returns all up to it.
func (s *service) hears(text string) string {
	s.u.t.Helper()
	var all strings.Builder
	buf := make([]byte, 4096)
	s.bus.SetReadDeadline(time.Now().Add(time.Minute))
	for {
		n, err := s.bus.Read(buf)
		if err != nil {
			s.u.t.Fatalf("waiting for %q: %v, after\n%s\n%s", text, err, &all, &s.errs)
		}
		all.Write(append(buf[:n:n], '\n'))
		if strings.Contains(string(buf[:n]), text) {
			return all.String()
		}
	}
}

func (s *service) signal(sig syscall.Signal) {
	s.u.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.u.t.Fatal(err)
	}
}

// ends waits for the end of the process.
func (s *service) ends(code int) outcome {
	s.u.t.Helper()
	s.cmd.Wait()
	o := outcome{s.u.t, "the service", s.cmd.ProcessState.ExitCode(), "", s.errs.String()}
	return o.exits(code)
}

func newService(t *testing.T) *user {
	u := made(t)
	if err := os.Mkdir(u.path("mnt"), 0o700); err != nil {
		t.Fatal(err)
	}
	return u
}

func TestService(t *testing.T) {
	if unit(t, "Type") != "notify" || unit(t, "KillMode") != "mixed" || unit(t, "TimeoutStopSec") == "" || unit(t, "WatchdogSec") == "" {
		t.Error("the unit lacks what the program counts on")
	}
	u := newService(t)
	s := u.starts("WATCHDOG_USEC=100000")
	s.hears("READY=1")
	u.run("status", "mnt").exits(0)
	s.hears("WATCHDOG=1")
	s.hears("WATCHDOG=1")
	u.write("mnt/file", strings.Repeat("drained", 1000), 0o600)
	s.signal(syscall.SIGTERM)
	s.hears("STOPPING=1")
	s.ends(0)
	u.run("mount", "--passphrase-file", "pass", "mnt").exits(0)
	u.reads("mnt/file", strings.Repeat("drained", 1000))
	if s := u.status(); s["pending_ops"] != 0.0 {
		t.Errorf("the service did not store everything: %v", s)
	}
	u.run("umount", "mnt").exits(0)
}

// Two signals, to a service whose mount seems not to answer: it gives no sign of
// life, until it is being unmounted and is not asked any more.
func TestTwoSignals(t *testing.T) {
	u := newService(t)
	if err := os.Mkdir(u.path("bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	u.write("bin/stat", "#!/bin/sh\necho x >> "+u.path("asked")+"\nexit 1\n", 0o700)
	s := u.starts("WATCHDOG_USEC=100000", "PATH="+u.path("bin")+":"+os.Getenv("PATH"))
	s.hears("READY=1")
	u.renames("store", "away")
	u.write("mnt/file", "kept", 0o600)
	u.until("it was asked twice", func() bool { raw, _ := os.ReadFile(u.path("asked")); return len(raw) >= 4 })
	s.signal(syscall.SIGTERM)
	if all := s.hears("STOPPING=1"); strings.Contains(all, "WATCHDOG=1") {
		t.Errorf("a mount that does not answer is said to live:\n%s", all)
	}
	s.hears("WATCHDOG=1")
	s.hears("changes, 4 B to store")
	if fi, err := os.Stat(u.path("mnt/file")); err != nil || fi.Size() != 4 {
		t.Errorf("while it is being stored, the drive is mounted: %v", err)
	}
	s.signal(syscall.SIGTERM)
	s.hears("are in the journal")
	s.ends(5).warns("a second signal", "changes, 4 B, are in the journal")
	if left, err := os.ReadDir(u.path("mnt")); err != nil || len(left) > 0 {
		t.Errorf("still mounted: %v, %v", left, err)
	}
	u.renames("away", "store")
	u.run("mount", "--passphrase-file", "pass", "mnt").exits(0)
	u.reads("mnt/file", "kept")
	u.run("umount", "mnt").exits(0)
}

func TestNoDrainSaysWhatIsLeft(t *testing.T) {
	u := mounted(t)
	u.renames("store", "away")
	u.write("mnt/file", "kept", 0o600)
	u.run("umount", "--no-drain", "mnt").exits(0).quiet().warns("changes, 4 B, are in the journal", "next mount")
	u.renames("away", "store")
	u.run("mount", "mnt").exits(0)
	u.reads("mnt/file", "kept")
	if o := u.run("umount", "mnt").exits(0).quiet(); o.err != "" {
		t.Errorf("everything is stored, but: %s", o.err)
	}
}

// Others than kist unmount; the daemon goes on storing, and is not in the way of
// the next mount.
func TestUnmountedByOthers(t *testing.T) {
	u := mounted(t)
	u.renames("store", "away")
	u.write("mnt/file", "kept", 0o600)
	u.boot("fusermount3", "-u", u.path("mnt")).exits(0)
	o := u.run("mount", "mnt") // the store is away; that must be all that can be wrong
	if o.code == 7 {
		t.Errorf("the daemon that still stores is in the way: %s", o.err)
	}
	u.renames("away", "store")
	if o.code != 0 {
		u.run("mount", "mnt").exits(0)
	}
	u.reads("mnt/file", "kept")
	u.boot("fusermount3", "-u", u.path("mnt")).exits(0)
	u.until("everything is stored", func() bool { return len(globs(t, u.path("store/vaults/*/log/*"))) > 2 })
	u.run("mount", "mnt").exits(0)
	u.reads("mnt/file", "kept")
}

// The log is set aside while the daemon runs; its last words are in the new one.
func TestLogIsRenewed(t *testing.T) {
	u := mounted(t)
	log := globs(t, u.path("home/*/log"))[0]
	if err := os.Truncate(log, 4<<20); err != nil {
		t.Fatal(err)
	}
	u.renames("store", "away")
	u.write("mnt/file", "x", 0o600)
	u.until("the log is renewed", func() bool { _, err := os.Stat(log + ".old"); return err == nil })
	u.renames("away", "store")
	pid := int(u.status()["pid"].(float64))
	if err := syscall.Kill(pid, syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	u.until("the daemon has ended", func() bool { return u.run("status", "mnt").code == 1 })
	if raw, err := os.ReadFile(log); err != nil || !strings.Contains(string(raw), "SIGQUIT") || len(raw) > 4<<20 {
		t.Errorf("the log after the end: %v, %d bytes, %.300q", err, len(raw), raw)
	}
	u.run("mount", "mnt").exits(0)
}
