package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "kist-cmd-")
	if err != nil {
		panic(err)
	}
	if err := build(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.RemoveAll(dir)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// build builds the program with the least cost of a passphrase that it accepts: with the
// cost of new keyfiles these tests would mostly stretch passphrases.
func build(dir string) error {
	const source, dear, cheap = "../../crypto/keys/stretch.go", "M: 256 << 10,", "M: 64 << 10,"
	text, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	if strings.Count(string(text), dear) != 1 {
		return fmt.Errorf("%s no longer says %s once; the tests must follow", source, dear)
	}
	path, err := filepath.Abs(source)
	if err != nil {
		return err
	}
	other, list := filepath.Join(dir, "stretch.go"), filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(other, []byte(strings.Replace(string(text), dear, cheap, 1)), 0o600); err != nil {
		return err
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{path: other}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		return err
	}
	binary = filepath.Join(dir, "kist")
	out, err := exec.Command("go", "build", "-overlay", list, "-o", binary, ".").CombinedOutput()
	if err != nil {
		return fmt.Errorf("go build: %w: %s", err, out)
	}
	return nil
}

// user is a person at a shell: a home of their own, a folder they stand in.
type user struct {
	t   *testing.T
	dir string
	env []string
	in  string
}

type outcome struct {
	t        *testing.T
	line     string
	code     int
	out, err string
}

func newUser(t *testing.T) *user {
	t.Helper()
	dir := t.TempDir()
	u := &user{t: t, dir: dir}
	u.setenv("KIST_HOME", filepath.Join(dir, "home"))
	u.write("pass", "correct horse\nsecond line\n", 0o600)
	return u
}

func (u *user) setenv(name, value string) { u.env = append(u.env, name+"="+value) }

func (u *user) path(name string) string { return filepath.Join(u.dir, name) }

func (u *user) write(name, content string, mode os.FileMode) {
	u.t.Helper()
	if err := os.WriteFile(u.path(name), []byte(content), mode); err != nil {
		u.t.Fatal(err)
	}
	if err := os.Chmod(u.path(name), mode); err != nil {
		u.t.Fatal(err)
	}
}

// run calls kist without a terminal, in a session of its own.
func (u *user) run(args ...string) outcome {
	u.t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(binary, args...)
	cmd.Dir = u.dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + u.dir, "TMPDIR=" + u.dir}, u.env...)
	cmd.Stdin = strings.NewReader(u.in)
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		u.t.Fatal(err)
	}
	return outcome{u.t, "kist " + strings.Join(args, " "), cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

func (o outcome) exits(code int) outcome {
	o.t.Helper()
	if o.code != code {
		o.t.Errorf("%s: exit code %d, want %d\nout: %serr: %s", o.line, o.code, code, o.out, o.err)
	}
	return o
}

func (o outcome) says(words ...string) outcome {
	o.t.Helper()
	for _, w := range words {
		if !strings.Contains(o.out, w) {
			o.t.Errorf("%s: standard output lacks %q:\n%s", o.line, w, o.out)
		}
	}
	return o
}

func (o outcome) warns(words ...string) outcome {
	o.t.Helper()
	for _, w := range words {
		if !strings.Contains(o.err, w) {
			o.t.Errorf("%s: standard error lacks %q:\n%s", o.line, w, o.err)
		}
	}
	return o
}

// quiet demands that nothing went to standard output.
func (o outcome) quiet() outcome {
	o.t.Helper()
	if o.out != "" {
		o.t.Errorf("%s: standard output holds %q", o.line, o.out)
	}
	return o
}

func TestUsage(t *testing.T) {
	u := newUser(t)
	for _, args := range [][]string{
		{}, {"nonsense"}, {"--nonsense"}, {"init"}, {"init", "a", "b"}, {"init", "--nonsense", "dir:x"}, {"init", "ftp://x"}, {"init", "dir:"},
		{"init", "s3://bucket?secret=1"}, {"mount"}, {"mount", "a", "b", "c"}, {"mount", "--cache-size", "many", "d"},
		{"mount", "--fsync=never", "d"}, {"mount", "--fsync=store=1", "d"}, {"umount"}, {"sync"}, {"sync", "--timeout", "soon", "d"},
		{"sync", "--timeout=-1s", "d"}, {"status", "a", "b"}, {"check"}, {"id"}, {"id", "nonsense"}, {"id", "show", "x"}, {"id", "export"},
		{"id", "import"}, {"id", "device"}, {"id", "device", "old"}, {"passwd", "x"}, {"trust"}, {"trust", "reset"}, {"version", "x"},
	} {
		u.run(args...).exits(2).quiet()
	}
	u.run("nonsense").warns("nonsense")
	u.run("init", "ftp://x").warns("dir:PATH")
}

func TestAnswersAndHelp(t *testing.T) {
	u := newUser(t)
	u.run("version").exits(0).says("kist ", "format 1")
	u.run("--help").exits(0).says("init", "mount", "umount", "sync", "status", "check", "id", "passwd", "trust", "version")
	u.run("mount", "--help").exits(0).says("--foreground", "--read-only", "--allow-other", "--cache-size", "--fsync")
	if out := u.run("--help").out; strings.Contains(out, "stretch") || strings.Contains(out, "daemon") {
		t.Errorf("the hidden verbs are shown:\n%s", out)
	}
	u.run("daemon").exits(2).quiet()
}

func TestNothingKnown(t *testing.T) {
	u := newUser(t)
	for _, args := range [][]string{{"mount", "."}, {"id", "show"}, {"id", "export", "x"}, {"passwd"}, {"status"}} {
		u.run(args...).exits(2).quiet()
	}
	u.run("mount", ".").warns("kist init", "kist id import")
	u.run("umount", ".").exits(1).warns("no kist drive")
	u.run("sync", ".").exits(1).warns("no kist drive")
	u.run("status", ".").exits(1).warns("no kist drive")
	u.run("status", "absent").exits(1)
	if _, err := os.Stat(u.path("home")); !os.IsNotExist(err) {
		t.Errorf("asking made a state folder: %v", err)
	}
}

func TestAwayIsNotEmpty(t *testing.T) {
	u := newUser(t)
	if err := os.Mkdir(u.path("empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	u.run("mount", "--passphrase-file", "pass", "dir:empty", ".").exits(5).quiet().warns("away")
	u.run("mount", "--passphrase-file", "pass", "dir:absent", ".").exits(5).quiet()
	u.run("check", "--passphrase-file", "pass", "dir:empty").exits(5).quiet()
}

func TestInitNeedsAPassphrase(t *testing.T) {
	u := newUser(t)
	u.run("init", "dir:store").exits(2).quiet().warns("--passphrase-file")
	u.run("init", "--passphrase-file", "absent", "dir:store").exits(1).quiet()
	u.write("blank", "\nsecond\n", 0o600)
	u.run("init", "--passphrase-file", "blank", "dir:store").exits(1).quiet().warns("empty")
	u.run("init", "--passphrase-command", "exit 3", "dir:store").exits(1).quiet()
	u.run("init", "--passphrase-file", "pass", "--passphrase-command", "echo x", "dir:store").exits(2).quiet()
	u.setenv("KIST_PASSPHRASE", "ignored")
	u.run("init", "dir:store").exits(2).quiet()
	if _, err := os.Stat(u.path("store/kist.json")); !os.IsNotExist(err) {
		t.Errorf("a header was written: %v", err)
	}
}
