package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// mounted returns a user whose drive is mounted at mnt.
func mounted(t *testing.T) *user {
	u := made(t)
	u.setenv("KIST_PASSPHRASE_FILE", u.path("pass"))
	if err := os.Mkdir(u.path("mnt"), 0o700); err != nil {
		t.Fatal(err)
	}
	u.run("mount", "mnt").exits(0).quiet()
	t.Cleanup(func() {
		if o := u.run("umount", "mnt"); o.code != 0 && o.code != 1 {
			t.Errorf("%s: exit code %d: %s", o.line, o.code, o.err)
		}
	})
	return u
}

func (u *user) status() map[string]any {
	u.t.Helper()
	s := map[string]any{}
	if err := json.Unmarshal([]byte(u.run("status", "--json", "mnt").exits(0).out), &s); err != nil {
		u.t.Fatal(err)
	}
	return s
}

func (u *user) reads(name, want string) {
	u.t.Helper()
	if raw, err := os.ReadFile(u.path(name)); err != nil || string(raw) != want {
		u.t.Errorf("%s: %q, %v, want %q", name, raw, err, want)
	}
}

func TestSession(t *testing.T) {
	u := mounted(t)
	u.write("mnt/file", "hello", 0o600)
	s := u.status()
	if s["mounted"] != true || s["dir"] != u.path("mnt") || s["store"] != "dir:"+u.path("store") || s["user"] != "ann" {
		t.Errorf("status: %v", s)
	}
	u.run("status").exits(0).says("mounted", u.path("mnt"), "not yet in the store")
	u.run("sync", "mnt").exits(0).quiet()
	u.run("sync", "--timeout", "1m", "mnt").exits(0).quiet()
	if s := u.status(); s["pending_ops"] != 0.0 {
		t.Errorf("after sync: %v", s)
	}
	u.run("umount", "mnt").exits(0).quiet()
	if left, err := os.ReadDir(u.path("mnt")); err != nil || len(left) != 0 {
		t.Errorf("after umount: %v, %v", left, err)
	}
	u.run("status", "mnt").exits(1).quiet()
	u.run("mount", "dir:store", "mnt").exits(0).quiet()
	u.reads("mnt/file", "hello")
}

func TestMountRefusals(t *testing.T) {
	u := mounted(t)
	for _, dir := range []string{"other", "full"} {
		if err := os.Mkdir(u.path(dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	u.write("full/file", "x", 0o600)
	u.run("mount", "other").exits(7).quiet().warns("mounted on this machine already")
	u.run("mount", "mnt").exits(7).quiet()
	u.run("id", "show").exits(0)
	u.run("umount", "mnt").exits(0)
	u.run("mount", "full").exits(2).quiet().warns("not empty")
	u.run("mount", "absent").exits(2).quiet()
	u.run("mount", "full/file").exits(2).quiet()
	u.write("wrong", "wrong\n", 0o600)
	u.run("mount", "--passphrase-file", "wrong", "mnt").exits(6).quiet().warns("wrong passphrase or damaged keyfile")
	if err := os.Rename(u.path("store/kist.json"), u.path("kist.json")); err != nil {
		t.Fatal(err)
	}
	u.run("mount", "mnt").exits(0).quiet().warns("the store is away", "shows the state of commit")
	if s := u.status(); !strings.Contains(s["store_away"].(string), "kist.json") {
		t.Errorf("status: %v", s)
	}
	u.run("umount", "mnt").exits(0).quiet()
	caches, err := filepath.Glob(u.path("home/*/cache"))
	if err != nil || len(caches) != 1 || os.RemoveAll(caches[0]) != nil {
		t.Fatal(caches, err)
	}
	u.run("mount", "mnt").exits(5).quiet().warns("away", "cache was deleted")
	if err := os.Rename(u.path("kist.json"), u.path("store/kist.json")); err != nil {
		t.Fatal(err)
	}
	u.run("mount", "mnt").exits(0)
}

func TestBusy(t *testing.T) {
	u := mounted(t)
	f, err := os.Create(u.path("mnt/open"))
	if err != nil {
		t.Fatal(err)
	}
	u.run("umount", "mnt").exits(7).quiet().warns("device or resource busy", "nothing was changed", "open file")
	u.status()
	if _, err := f.WriteString("still here"); err != nil {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	u.run("umount", "--no-drain", "mnt").exits(0).quiet()
	u.run("mount", "mnt").exits(0)
	u.reads("mnt/open", "still here")
}

func TestDeadDaemon(t *testing.T) {
	u := mounted(t)
	for _, again := range [][]string{{"umount", "mnt"}, nil} {
		u.write("mnt/kept", "synced", 0o600)
		f, err := os.Open(u.path("mnt/kept"))
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		f.Close()
		u.kill()
		u.run("status", "mnt").exits(1).quiet().warns("gone")
		u.run("sync", "mnt").exits(1).quiet().warns("gone")
		if again != nil {
			u.run(again...).exits(0)
		}
		u.run("mount", "mnt").exits(0).quiet()
		u.reads("mnt/kept", "synced")
	}
}

// kill ends the daemon as power loss would, and waits for its end.
func (u *user) kill() {
	u.t.Helper()
	pid := int(u.status()["pid"].(float64))
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		u.t.Fatal(err)
	}
	u.until("the daemon has ended", func() bool { return u.run("status", "mnt").code == 1 })
}

func (u *user) until(what string, reached func() bool) {
	u.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !reached() {
		if time.Now().After(deadline) {
			u.t.Fatalf("not so after half a minute: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestForeground(t *testing.T) {
	u := made(t)
	if err := os.Mkdir(u.path("mnt"), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "mount", "--foreground", "--passphrase-file", u.path("pass"), u.path("mnt"))
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, u.env...)
	var errs strings.Builder
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	u.until("mounted", func() bool { return u.run("status", "mnt").code == 0 })
	u.write("mnt/file", "drained", 0o600)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, errs.String())
	}
	if packs := globs(t, u.path("store/vaults/*/log/*")); len(packs) < 3 {
		t.Errorf("the log after the end: %v", packs)
	}
	u.run("mount", "--passphrase-file", "pass", "mnt").exits(0)
	u.reads("mnt/file", "drained")
	u.run("umount", "mnt").exits(0)
}

func TestLogNamesNothing(t *testing.T) {
	u := mounted(t)
	u.write("mnt/secret-name", "x", 0o600)
	u.run("umount", "mnt").exits(0)
	for _, path := range globs(t, u.path("home/*/log")) {
		raw, err := os.ReadFile(path)
		if err != nil || len(raw) == 0 {
			t.Fatalf("%v, %d bytes", err, len(raw))
		}
		for _, word := range []string{"secret-name", filepath.Base(u.dir), "mnt", "ann"} {
			if strings.Contains(string(raw), word) {
				t.Errorf("the log names %q:\n%s", word, raw)
			}
		}
	}
}

func TestRolledBackStore(t *testing.T) {
	u := mounted(t)
	u.write("mnt/one", "1", 0o600)
	u.run("umount", "mnt").exits(0)
	if err := os.CopyFS(u.path("backup"), os.DirFS(u.path("store"))); err != nil {
		t.Fatal(err)
	}
	u.run("mount", "mnt").exits(0)
	u.write("mnt/two", "2", 0o600)
	u.run("umount", "mnt").exits(0)
	if err := os.RemoveAll(u.path("store")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(u.path("backup"), u.path("store")); err != nil {
		t.Fatal(err)
	}
	u.run("mount", "mnt").exits(4).quiet()
	u.run("trust", "reset", "dir:store").exits(2).quiet().warns("remembers", "shows", "--head")
	u.run("trust", "reset", "--head", "00000000", "dir:store").exits(4).quiet()
	u.run("mount", "mnt").exits(4).quiet()
	shown := u.run("trust", "reset", "dir:store").err
	_, shown, _ = strings.Cut(shown, "shows")
	hash := shown[strings.Index(shown, "(")+1 : strings.Index(shown, ")")]
	u.run("trust", "reset", "--head", hash, "dir:store").exits(0).says("accept")

	// What this device wrote is gone from the store, so it is a device of a past
	// that no longer is: it has to become another.
	u.run("mount", "mnt").exits(4).warns("kist id device new")
	u.run("id", "device", "new").exits(0)
	u.run("mount", "mnt").exits(0)
	u.reads("mnt/one", "1")
	u.run("umount", "mnt").exits(0)
}
