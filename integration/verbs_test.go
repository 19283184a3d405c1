//go:build linux

package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"kist/integration/s3meter"
)

// The exit codes that scripts rely on.
const (
	exitDone = iota
	exitFailed
	exitUsage
	exitDamage
	exitRefused
	exitAway
	exitKeys
	exitInUse
)

// TestUsage gives the program what no situation can make right.
func TestUsage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onDir)
	w.lawless = true
	m := w.machine("m")
	for _, verb := range [][]string{
		{}, {"frobnicate"}, {"mount"}, {"mount", "a", "b", "c"}, {"init"}, {"init", "--no-such-flag", w.storeAt("")},
		{"init", "file:/x"}, {"init", "dir:"}, {"init", "dir:~/x"}, {"init", "s3://"}, {"init", "s3:bucket"},
		{"init", "s3://bucket/p?endpoint=http://127.0.0.1:1&colour=green"},
		{"init", "s3://bucket/p?path_style=maybe"}, {"init", "s3://key:secret@bucket/p"},
		{"mount", "--cache-size", "many", w.storeAt(""), m.mnt}, {"mount", "--fsync=sometimes", w.storeAt(""), m.mnt},
		{"id"}, {"id", "lose"}, {"id", "export"}, {"sync", "--timeout", "soon", m.mnt}, {"check"}, {"status", "a", "b"},
		{"mount", m.mnt},
	} {
		r := m.refused(exitUsage, nil, verb...)
		if strings.TrimSpace(r.err) == "" || strings.Contains(r.err, "secret") {
			t.Errorf("a wrong call must be told what is wrong, and no secret: %v", r)
		}
	}
	if entries, err := os.ReadDir(m.dir); err != nil || len(entries) > 4 {
		t.Errorf("wrong calls left something: %v, %v", entries, err)
	}
	if out := m.must("version"); strings.TrimSpace(out) == "" {
		t.Error("version says nothing")
	}
	if out := m.must("help"); !strings.Contains(out, "umount") {
		t.Errorf("help does not help: %q", out)
	}
}

// TestInit says what init makes, and what it refuses.
func TestInit(t *testing.T) {
	eachStore(t, func(t *testing.T, w *World) {
		a := w.machine("a")
		out := a.must("init", "--user", "ann", w.storeAt(""))
		keyfiles, _ := filepath.Glob(a.home + "/*/keyfile")
		if len(keyfiles) != 1 || !strings.Contains(out, keyfiles[0]) || !strings.Contains(out, "kist id export") {
			t.Errorf("init must say where the keyfile is and how to export it: %q (%q)", out, keyfiles)
		}
		a.private(a.home)
		before := w.list()
		for name := range before {
			if !objectName.MatchString(name) {
				t.Errorf("init made an object of an unknown kind: %s", name)
			}
		}
		// A store is never taken over, by whomever.
		a.refused(exitFailed, []string{"nothing was changed"}, "init", w.storeAt(""))
		c := w.machine("c")
		c.refused(exitFailed, []string{"nothing was changed"}, "init", w.storeAt(""))
		if after := w.list(); !sameObjects(before, after) {
			t.Errorf("a refused init changed the store")
		}
		if entries, err := os.ReadDir(c.home); err == nil && len(entries) > 0 {
			t.Errorf("a refused init left %v", entries)
		}
		w.machines = w.machines[:1]
	})
}

// private checks that nobody else can enter what a machine keeps.
func (m *Machine) private(dir string) {
	m.w.t.Helper()
	m.w.ok(filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			m.w.t.Errorf("%s is open to others: %v", strings.TrimPrefix(path, m.dir), info.Mode())
		}
		return err
	}))
}

// TestInitWithoutConditionalWrites refuses a store that takes two creations of
// one name.
func TestInitWithoutConditionalWrites(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onS3)
	w.lawless = true
	m := w.machine("m")
	s, err := theServer()
	w.ok(err)
	bad, err := startForgetful(s)
	w.ok(err)
	defer bad.Close()
	r := m.refused(exitFailed, []string{"no drive was made"}, "init", w.storeAt(bad.URL))
	if !strings.Contains(r.err, "conditional") {
		t.Errorf("it must say why: %v", r)
	}
	for name := range w.list() {
		t.Errorf("left in the refused store: %s", name)
	}
	if keyfiles, _ := filepath.Glob(m.home + "/*/keyfile"); len(keyfiles) > 0 {
		t.Errorf("left a keyfile: %v", keyfiles)
	}
}

// TestPassphrase goes through every source, and through their absence.
func TestPassphrase(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onDir, unraced)
	a := w.first("a")
	env := []string{"KIST_PASSPHRASE_FILE="}
	show := func(env []string, flags ...string) result {
		return a.kistWith(env, nil, append([]string{"id", "show"}, flags...)...)
	}
	creds := filepath.Join(a.dir, "creds")
	w.ok(os.Mkdir(creds, 0o700))
	w.ok(os.WriteFile(filepath.Join(creds, "kist.passphrase"), []byte(passphrase+"further lines do not count\n"), 0o600))
	open := filepath.Join(a.dir, "open-pass")
	w.ok(os.WriteFile(open, []byte(strings.TrimSuffix(passphrase, "\n")), 0o644))
	wrong := filepath.Join(a.dir, "wrong-pass")
	w.ok(os.WriteFile(wrong, []byte("something else\n"), 0o600))
	empty := filepath.Join(a.dir, "empty-pass")
	w.ok(os.WriteFile(empty, []byte("\nsecond\n"), 0o600))
	for _, c := range []struct {
		what  string
		env   []string
		flags []string
		code  int
		says  string
	}{
		{"a flag", env, []string{"--passphrase-file", a.pass}, exitDone, ""},
		{"a command", env, []string{"--passphrase-command", "cat '" + a.pass + "'"}, exitDone, ""},
		{"a variable", []string{"KIST_PASSPHRASE_FILE=" + a.pass}, nil, exitDone, ""},
		{"a credential", append(env, "CREDENTIALS_DIRECTORY="+creds), nil, exitDone, ""},
		{"no newline, readable by others", env, []string{"--passphrase-file", open}, exitDone, "others can read"},
		{"the flag before the variable", []string{"KIST_PASSPHRASE_FILE=" + wrong}, []string{"--passphrase-file", a.pass}, exitDone, ""},
		{"a wrong one", env, []string{"--passphrase-file", wrong}, exitKeys, "passphrase"},
		{"a wrong one from a command", env, []string{"--passphrase-command", "echo nope"}, exitKeys, "passphrase"},
		{"a failing command", env, []string{"--passphrase-command", "exit 3"}, exitFailed, "command"},
		{"no such file", env, []string{"--passphrase-file", a.dir + "/none"}, exitFailed, "passphrase file"},
		{"an empty line", env, []string{"--passphrase-file", empty}, exitFailed, "empty"},
		{"no source and no terminal", env, nil, exitUsage, "terminal"},
		{"the passphrase itself in a variable", append(env, "KIST_PASSPHRASE="+strings.TrimSpace(passphrase)), nil, exitUsage, "terminal"},
	} {
		start := time.Now()
		r := show(c.env, c.flags...)
		if r.code != c.code || !strings.Contains(r.err, c.says) || (r.code == 0) != strings.Contains(r.out, "ann") {
			t.Errorf("%s: want exit %d and %q: %v", c.what, c.code, c.says, r)
		}
		if strings.Contains(r.out+r.err, strings.TrimSpace(passphrase)) {
			t.Errorf("%s: the passphrase is shown: %v", c.what, r)
		}
		if c.code == exitUsage && time.Since(start) > 10*time.Second {
			t.Errorf("%s: an error at once took %v", c.what, time.Since(start))
		}
	}
}

// TestPasswd changes the passphrase; exports keep the one they were made with.
func TestPasswd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onDir, unraced)
	a := w.first("a")
	file := filepath.Join(a.dir, "before")
	a.must("id", "export", file)
	fresh := filepath.Join(a.dir, "fresh")
	w.ok(os.WriteFile(fresh, []byte("eleven wet umbrellas\n"), 0o600))
	a.mount()
	a.must("passwd", "--new-passphrase-file", fresh) // beside a mount
	a.sh("echo still > here")
	a.umount()
	a.refused(exitKeys, nil, "mount", w.storeAt(""), a.mnt)
	w.ok(os.WriteFile(a.pass, []byte("eleven wet umbrellas\n"), 0o600))
	a.mount()
	if got := a.sh("cat here"); got != "still\n" {
		t.Errorf("%q", got)
	}
	a.umount()
	old := w.machine("old")
	w.ok(os.Rename(file, filepath.Join(old.dir, "identity")))
	old.must("id", "import", filepath.Join(old.dir, "identity"))
	old.mount()
	if got := old.sh("cat here"); got != "still\n" {
		t.Errorf("%q", got)
	}
}

// TestMountRefuses says where a drive is not mounted, and that nothing changed.
func TestMountRefuses(t *testing.T) {
	eachStore(t, func(t *testing.T, w *World) {
		a := w.first("a")
		full := filepath.Join(a.dir, "full")
		w.ok(os.MkdirAll(filepath.Join(full, "of", "things"), 0o755))
		for dir, code := range map[string]int{full: exitUsage, a.pass: exitUsage, a.dir + "/none": exitUsage} {
			a.refused(code, nil, "mount", w.storeAt(""), dir)
		}
		a.mount()
		a.sh("echo x > file")
		second := filepath.Join(a.dir, "second")
		w.ok(os.Mkdir(second, 0o755))
		a.refused(exitInUse, nil, "mount", w.storeAt(""), second)
		a.refused(exitInUse, nil, "mount", w.storeAt(""), a.mnt)
		a.refused(exitInUse, nil, "mount", "--foreground", w.storeAt(""), second)
		a.refused(exitInUse, nil, "trust", "reset", "--head", "00", w.storeAt(""))
		a.refused(exitInUse, nil, "id", "device", "new")
		if got := a.sh("cat file"); got != "x\n" || len(mounts(second)) > 0 {
			t.Errorf("a refused mount did harm: %q", got)
		}
		// These work beside a mount.
		a.must("id", "show")
		a.must("id", "export", filepath.Join(a.dir, "export"))
		a.must("status")
		a.must("check", w.storeAt(""))
		a.must("check", "--read-data", a.mnt)
		a.sh("echo y >> file")
		a.umount()
		a.refused(exitFailed, nil, "umount", a.mnt)
		a.refused(exitFailed, nil, "sync", a.mnt)
		a.refused(exitFailed, nil, "status", a.mnt)
		// Without STORE: the only one known.
		a.must("mount", a.mnt)
		if got := a.sh("cat file"); got != "x\ny\n" {
			t.Errorf("%q", got)
		}
	})
}

// TestReadOnly mounts without changing anything, here or in the store.
func TestReadOnly(t *testing.T) {
	eachStore(t, func(t *testing.T, w *World) {
		a := w.first("a")
		a.mount()
		a.sh("mkdir d; echo x > d/file")
		a.umount()
		before := w.list()
		a.mount("--read-only")
		if got := a.sh("cat d/file"); got != "x\n" {
			t.Errorf("%q", got)
		}
		for _, change := range []string{"echo y > d/file", "touch d/file", "rm d/file", "mkdir e", "chmod 700 d", "setfattr -n user.x -v y d/file", "ln d/file d/link"} {
			if r := a.try(stepLimit, change); r.code == 0 || !strings.Contains(r.err, "Read-only") {
				t.Errorf("%s: %v", change, r)
			}
		}
		a.umount()
		if after := w.list(); !sameObjects(before, after) {
			t.Error("a read-only mount changed the store")
		}
	})
}

// TestUmount keeps a drive that is in use, and leaves nothing of one that is not.
func TestUmount(t *testing.T) {
	eachStore(t, func(t *testing.T, w *World) {
		a := w.first("a")
		a.mount()
		a.sh("echo x > file")
		p, end := a.holding("file")
		r := a.refused(exitInUse, []string{fmt.Sprint(p.cmd.Process.Pid)}, "umount", a.mnt)
		if got := a.sh("cat file; echo y >> file"); got != "x\n" || !a.mounted() {
			t.Errorf("after a refused umount: %q, %v", got, r)
		}
		end()
		if r, err := p.wait(stepLimit); err != nil || r.code != 0 {
			t.Fatal(r, err)
		}
		cwd, endCwd := a.fed(a.shell(stepLimit, "mkdir sub; cd sub; exec 3<../file; cat > /dev/null"))
		a.refused(exitInUse, []string{fmt.Sprint(cwd.cmd.Process.Pid)}, "umount", "--no-drain", a.mnt)
		endCwd()
		if r, err := cwd.wait(stepLimit); err != nil || r.code != 0 {
			t.Fatal(r, err)
		}
		pid := a.daemon()
		a.must("umount", a.mnt)
		if _, err := os.Stat(fmt.Sprint("/proc/", pid)); err == nil {
			t.Error("umount returned before the daemon was gone")
		}
		if a.mounted() {
			t.Error("umount returned, but the drive is mounted")
		}
		a.mount() // its locks are free
	})
}

// TestForeground serves in the very process, and ends well on SIGTERM.
func TestForeground(t *testing.T) {
	eachStore(t, func(t *testing.T, w *World) {
		a := w.first("a")
		for _, stop := range []func(p *process){
			func(p *process) { w.ok(p.cmd.Process.Signal(os.Interrupt)) },
			func(p *process) { a.must("umount", a.mnt) },
		} {
			p := a.background(command{argv: []string{w.program, "mount", "--foreground", w.storeAt(""), a.mnt}, dir: a.dir, env: a.environment()})
			eventually(t, stepLimit, "the mount in the foreground", func() error {
				if !a.mounted() {
					return fmt.Errorf("not mounted")
				}
				return nil
			})
			a.sh("echo x >> file")
			if pid := a.daemon(); pid != p.cmd.Process.Pid {
				t.Errorf("process %d serves, not the one that was started", pid)
			}
			stop(p)
			if r, err := p.wait(verbLimit); err != nil || r.code != 0 {
				t.Fatalf("%v, %v", r, err)
			}
			if a.mounted() {
				t.Fatal("still mounted")
			}
		}
		b := w.join("b")
		b.mount()
		if got := b.sh("cat file"); got != "x\nx\n" {
			t.Errorf("what a signal ended is not in the store: %q", got)
		}
	})
}

// TestStatus reads what programs read.
func TestStatus(t *testing.T) {
	eachStore(t, func(t *testing.T, w *World) {
		a := w.first("a")
		says := func(what string) {
			t.Helper()
			if out := a.must("status"); !strings.Contains(out, what) {
				t.Errorf("status must say %q: %s", what, out)
			}
		}
		says("kist id export")
		says("not reclaimed")
		a.mount()
		a.sh("echo x > file")
		s := a.status()
		for name, want := range map[string]any{"mounted": true, "dir": a.mnt, "user": "ann", "read_only": false, "keyfile_exported": false, "pid": float64(a.daemon())} {
			if s[name] != want {
				t.Errorf("status --json: %s is %v, want %v", name, s[name], want)
			}
		}
		a.sync()
		if s := a.status(); s["pending_ops"] != float64(0) || s["pending_bytes"] != float64(0) {
			t.Errorf("after a sync something waits: %v", s)
		}
		file := filepath.Join(a.dir, "export")
		a.must("id", "export", file)
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("an export must be 0600: %v, %v", info.Mode(), err)
		}
		a.refused(exitFailed, nil, "id", "export", file)
		if out := a.must("status"); strings.Contains(out, "kist id export") {
			t.Errorf("status goes on reminding of the export: %s", out)
		}
		if out := a.must("id", "export", "-"); len(out) < 100 {
			t.Errorf("an export to standard output has %d octets", len(out))
		}
		a.umount()
		var off map[string]any
		w.ok(json.Unmarshal([]byte(a.must("status", "--json")), &off))
		if off["mounted"] != false || off["keyfile_exported"] != true {
			t.Errorf("unmounted: %v", off)
		}
	})
}

// TestMissingStore finds the store gone in all the ways it can be: away, never
// empty.
func TestMissingStore(t *testing.T) {
	eachStore(t, func(t *testing.T, w *World) {
		a := w.first("a")
		a.mount()
		a.sh("echo x > file")
		a.umount()
		header := filepath.Join(w.objects, "kist.json")
		w.ok(os.Rename(header, header+".aside"))
		a.withoutCache()
		for _, verb := range [][]string{{"mount", w.storeAt(""), a.mnt}, {"check", w.storeAt("")}, {"check", "--read-data", w.storeAt("")}} {
			a.refused(exitAway, nil, verb...)
		}
		b := w.machine("b")
		a.must("id", "export", filepath.Join(b.dir, "identity"))
		b.refused(exitAway, nil, "id", "import", filepath.Join(b.dir, "identity"))
		w.ok(os.Rename(header+".aside", header))
		b.must("id", "import", filepath.Join(b.dir, "identity"))

		w.ok(os.Rename(w.objects, w.objects+".aside"))
		a.refused(exitAway, nil, "mount", w.storeAt(""), a.mnt)
		w.ok(os.Rename(w.objects+".aside", w.objects))
		a.mount()
		if got := a.sh("cat file"); got != "x\n" {
			t.Errorf("%q", got)
		}
	})
}

// TestUnreachable asks a server that is not there, refuses, or never answers.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onS3, metered)
	a := w.first("a")
	a.mount()
	a.umount()
	deny := a.meter.Add(s3meter.Rule{Act: s3meter.Deny})
	if r := a.kist("mount", a.store(), a.mnt); r.code != 0 || !strings.Contains(r.err, "refuses access") || strings.Contains(r.err, "the store is away") {
		t.Errorf("refused access is no outage: %v", r)
	}
	a.meter.Remove(deny)
	a.umount()
	a.withoutCache()
	for what, rule := range map[string]s3meter.Rule{
		"hangs up": {Act: s3meter.Drop}, "is overloaded": {Act: s3meter.Refuse}, "denies": {Act: s3meter.Deny},
	} {
		r := a.meter.Add(rule)
		res := a.refused(exitAway, nil, "mount", a.store(), a.mnt)
		if strings.Contains(res.err, s3Secret) {
			t.Errorf("a server that %s makes it tell the secret: %v", what, res)
		}
		a.refused(exitAway, nil, "check", a.store())
		a.meter.Remove(r)
	}
	a.refused(exitAway, nil, "mount", w.storeAt("http://127.0.0.1:1"), a.mnt)
	a.env = []string{"AWS_SECRET_ACCESS_KEY=not-the-one"}
	a.refused(exitAway, nil, "mount", a.store(), a.mnt)
	a.env = []string{"AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY="}
	a.refused(exitAway, nil, "mount", a.store(), a.mnt)
	a.env = nil
	a.mount()
	stall := a.meter.Add(s3meter.Rule{Delay: time.Hour})
	a.sh("echo x > file")
	start := time.Now()
	a.refused(exitAway, nil, "sync", "--timeout", "2s", a.mnt)
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("a timeout of 2s took %v", took)
	}
	a.meter.Remove(stall)
}

// withoutCache takes away all that may be deleted.
func (m *Machine) withoutCache() {
	m.w.t.Helper()
	dirs, err := filepath.Glob(m.home + "/*/cache")
	m.w.ok(err)
	for _, dir := range dirs {
		m.w.ok(os.RemoveAll(dir))
	}
}

// TestHangingStore reads from a store that takes requests and never answers: who waits
// can be interrupted, who does not give up gets an error in time, and nothing of it
// stays when the store is back.
func TestHangingStore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onS3, metered)
	a := w.first("a")
	a.mount()
	a.sh("head -c 3000000 /dev/urandom > file; sha256sum file > sum")
	a.umount()
	a.withoutCache()
	a.mount()
	a.sh("ls -l; cat sum") // the names are here, the content is not
	stall := a.meter.Add(s3meter.Rule{Delay: time.Hour})
	reader := a.background(a.shell(stepLimit, "exec cat file"))
	eventually(t, stepLimit, "a read that waits", func() error {
		for _, r := range a.meter.Requests() {
			if r.Class == s3meter.Pack && r.Verb == "GET" && r.Status == 0 {
				return nil
			}
		}
		return errors.New("it asks for nothing")
	})
	w.ok(syscall.Kill(reader.cmd.Process.Pid, syscall.SIGINT))
	if r, err := reader.wait(time.Second); err != nil || r.out != "" {
		t.Fatalf("a read that was interrupted: %v, %v", r, err)
	}
	a.umount()
	start := time.Now()
	if r := a.kist("mount", a.store(), a.mnt); r.code != 0 || !strings.Contains(r.err, "the store is away") {
		t.Fatalf("%v", r)
	}
	mounting := time.Since(start)
	if r := a.try(stepLimit, "cat sum; cat file >/dev/null"); r.code == 0 || !strings.Contains(r.err, "Input/output error") {
		t.Errorf("reading what is not here: %v", r)
	}
	if reading := time.Since(start) - mounting; mounting > 20*time.Second || reading > 30*time.Second {
		t.Errorf("mounting took %v, reading %v", mounting, reading)
	}
	a.meter.Remove(stall)
	a.shows(20*time.Second, "sha256sum --quiet -c sum && echo whole", "whole")
}

// TestKeys brings keyfiles that do not fit.
func TestKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onDir, unraced)
	a := w.first("a")
	file := filepath.Join(a.dir, "identity")
	a.must("id", "export", file)
	good, err := os.ReadFile(file)
	w.ok(err)
	other := newWorld(t, onDir, unraced)
	x := other.first("x")
	strange := filepath.Join(x.dir, "identity")
	x.must("id", "export", strange)
	foreign, err := os.ReadFile(strange)
	w.ok(err)
	b := w.machine("b")
	path := filepath.Join(b.dir, "identity")
	for what, raw := range map[string][]byte{
		"empty": {}, "not a keyfile": []byte(strings.Repeat("hello ", 200)), "cut": good[:len(good)-1], "longer": append(good[:len(good):len(good)], 0),
		"damaged": flipped(good, len(good)-40), "damaged in front": flipped(good, 60),
	} {
		w.ok(os.WriteFile(path, raw, 0o600))
		r := b.kist("id", "import", path, w.storeAt(""))
		if r.code != exitKeys {
			t.Errorf("%s: must exit %d: %v", what, exitKeys, r)
		}
	}
	w.ok(os.WriteFile(path, foreign, 0o600))
	b.refused(exitKeys, nil, "id", "import", path, w.storeAt(""))
	w.ok(os.WriteFile(path, good, 0o600))
	b.must("id", "import", path)
	b.refused(exitFailed, nil, "id", "import", path) // it is here already
}

func flipped(raw []byte, at int) []byte {
	raw = append([]byte(nil), raw...)
	raw[at] ^= 1
	return raw
}
