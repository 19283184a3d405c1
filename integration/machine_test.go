//go:build linux

package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"kist/integration/s3meter"

	"golang.org/x/sys/unix"
)

// The deadlines of ordinary steps. They are generous: the race detector is
// slow, and tests run side by side.
const (
	verbLimit = 120 * time.Second
	stepLimit = 60 * time.Second
)

const passphrase = "seven brass candle hooks\n"

// Machine is one computer: a state folder, a place to mount, a user.
type Machine struct {
	w    *World
	name string
	dir  string // everything of this machine
	home string // KIST_HOME
	mnt  string // where the drive is mounted
	tmp  string // TMPDIR; must be empty in the end
	pass string // the passphrase file
	uid  int
	env  []string // further variables

	meter *s3meter.Meter // between this machine and the server; nil: nothing is
}

// machine makes a computer that knows nothing yet.
func (w *World) machine(name string) *Machine { return w.machineOf(name, 0) }

// machineOf makes a computer whose user is uid.
func (w *World) machineOf(name string, uid int) *Machine {
	w.t.Helper()
	dir := filepath.Join(w.dir, name)
	m := &Machine{w: w, name: name, dir: dir, home: dir + "/home", mnt: dir + "/mnt", tmp: dir + "/tmp", pass: dir + "/pass", uid: uid}
	for _, d := range []string{m.dir, m.mnt, m.tmp} {
		w.ok(os.Mkdir(d, 0o755))
		w.ok(os.Chown(d, uid, uid))
	}
	w.ok(os.WriteFile(m.pass, []byte(passphrase), 0o600))
	w.ok(os.Chown(m.pass, uid, uid))
	w.machines = append(w.machines, m)
	if w.meters {
		m.metered()
	}
	return m
}

// first makes a machine that founds the store.
func (w *World) first(name string) *Machine {
	w.t.Helper()
	m := w.machine(name)
	m.init()
	return m
}

// join makes a further machine of the first one's identity.
func (w *World) join(name string) *Machine {
	w.t.Helper()
	m := w.machineOf(name, w.machines[0].uid)
	m.importFrom(w.machines[0])
	return m
}

// metered puts a proxy between this machine and the S3 server.
func (m *Machine) metered() *Machine {
	m.w.t.Helper()
	s, err := theServer()
	m.w.ok(err)
	m.meter, err = s3meter.Start(s.endpoint)
	m.w.ok(err)
	return m
}

// store is this machine's STORE argument.
func (m *Machine) store() string {
	if m.meter == nil {
		return m.w.storeAt("")
	}
	return m.w.storeAt(m.meter.Endpoint())
}

func (m *Machine) environment() []string {
	env := []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + m.dir, "TMPDIR=" + m.tmp, "LANG=C.UTF-8", "TZ=UTC",
		"KIST_HOME=" + m.home, "KIST_PASSPHRASE_FILE=" + m.pass,
		"AWS_ACCESS_KEY_ID=" + s3Access, "AWS_SECRET_ACCESS_KEY=" + s3Secret,
		"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_EC2_METADATA_DISABLED=true",
		"GORACE=halt_on_error=0 exitcode=66 atexit_sleep_ms=0 log_path=" + m.dir + "/race",
	}
	return append(env, m.env...)
}

// kist runs a verb and returns how it ended, whatever that was.
func (m *Machine) kist(verb ...string) result { return m.kistWith(nil, nil, verb...) }

// kistWith runs a verb with further variables and something to read.
func (m *Machine) kistWith(env []string, stdin *os.File, verb ...string) result {
	m.w.t.Helper()
	c := command{argv: append([]string{m.w.program}, verb...), dir: m.dir, uid: m.uid, limit: verbLimit,
		env: append(m.environment(), env...)}
	if stdin != nil {
		c.stdin = stdin
	}
	return m.run(c)
}

// must runs a verb that has to succeed, and returns its answer.
func (m *Machine) must(verb ...string) string {
	m.w.t.Helper()
	r := m.kist(verb...)
	if r.code != 0 {
		m.w.t.Fatalf("machine %s: %v", m.name, r)
	}
	return r.out
}

// refused runs a verb that has to exit with code and say all these words.
func (m *Machine) refused(code int, words []string, verb ...string) result {
	m.w.t.Helper()
	r := m.kist(verb...)
	if r.code != code {
		m.w.t.Errorf("machine %s: must exit %d: %v", m.name, code, r)
	}
	if r.out != "" {
		m.w.t.Errorf("machine %s: a refusal does not belong on standard output: %v", m.name, r)
	}
	for _, word := range words {
		if !strings.Contains(r.err, word) {
			m.w.t.Errorf("machine %s: must say %q: %v", m.name, word, r)
		}
	}
	return r
}

func (m *Machine) init() { m.w.t.Helper(); m.must("init", "--user", "ann", m.store()) }

// importFrom carries the identity over from another machine.
func (m *Machine) importFrom(from *Machine) {
	m.w.t.Helper()
	file := filepath.Join(from.dir, "exported-for-"+m.name)
	from.must("id", "export", file)
	mine := filepath.Join(m.dir, "identity")
	raw, err := os.ReadFile(file)
	m.w.ok(err)
	m.w.ok(os.WriteFile(mine, raw, 0o600))
	m.w.ok(os.Chown(mine, m.uid, m.uid))
	if m.meter == nil && from.meter == nil {
		m.must("id", "import", mine)
		return
	}
	m.must("id", "import", mine, m.store()) // each has an address of its own
}

func (m *Machine) mount(flags ...string) {
	m.w.t.Helper()
	m.must(append(append([]string{"mount"}, flags...), m.store(), m.mnt)...)
	if !m.mounted() {
		m.w.t.Fatalf("machine %s: mount returned, but nothing is mounted", m.name)
	}
}

func (m *Machine) umount() {
	m.w.t.Helper()
	m.must("umount", m.mnt)
	if m.mounted() {
		m.w.t.Fatalf("machine %s: umount returned, but the drive is still mounted", m.name)
	}
	m.daemonGone()
}

// daemonGone waits for the last moments of a daemon; TestUmount says what
// umount itself owes.
func (m *Machine) daemonGone() {
	m.w.t.Helper()
	eventually(m.w.t, stepLimit, "the end of the daemon", func() error {
		if left := m.daemons(); len(left) > 0 {
			return fmt.Errorf("it lives: %v", left)
		}
		return nil
	})
}

func (m *Machine) remount() { m.w.t.Helper(); m.umount(); m.mount() }
func (m *Machine) sync()    { m.w.t.Helper(); m.must("sync", m.mnt) }

// status is what `status --json` says of the mount.
func (m *Machine) status() map[string]any {
	m.w.t.Helper()
	var s map[string]any
	m.w.ok(json.Unmarshal([]byte(m.must("status", "--json", m.mnt)), &s))
	return s
}

func (m *Machine) mounted() bool { return len(mounts(m.mnt)) > 0 }

// daemons finds the processes of the program that use this state folder.
func (m *Machine) daemons() map[int]string {
	found := alive("KIST_HOME=" + m.home + "\x00")
	for pid := range found {
		exe, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/exe")
		if err != nil || exe != m.w.program {
			delete(found, pid)
		}
	}
	return found
}

// daemon is the one process that serves the mount.
func (m *Machine) daemon() int {
	m.w.t.Helper()
	pid := 0
	eventually(m.w.t, stepLimit, "finding the daemon", func() error {
		found := m.daemons()
		for pid = range found {
		}
		if len(found) != 1 {
			return errors.New("not exactly one process: " + strconv.Itoa(len(found)))
		}
		return nil
	})
	return pid
}

// crash kills the daemon as a power failure would, and waits for its end.
func (m *Machine) crash() {
	m.w.t.Helper()
	pid := m.daemon()
	killPid(pid)
	eventually(m.w.t, stepLimit, "the end of the daemon", func() error {
		if !ended(pid) {
			return errors.New("it is still dying")
		}
		return nil
	})
}

// ended says whether the last thread of a process is gone, and with it the files
// and locks it held. Its environment goes before them.
func ended(pid int) bool {
	dir := "/proc/" + strconv.Itoa(pid)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return true
	}
	threads, err := os.ReadDir(dir + "/task")
	return err != nil || len(threads) <= 1 && bytes.Contains(stat, []byte(") Z "))
}

// logs are the daemons' messages, and the reports of the race detector.
func (m *Machine) logs() []string {
	a, _ := filepath.Glob(m.home + "/*/log")
	b, _ := filepath.Glob(m.dir + "/race.*")
	return append(a, b...)
}

// noAccusations fails the test if the race detector or the runtime complained.
func (m *Machine) noAccusations() {
	races, _ := filepath.Glob(m.dir + "/race.*")
	for _, path := range races {
		m.w.t.Errorf("machine %s: a data race was reported in %s", m.name, filepath.Base(path))
	}
	logs, _ := filepath.Glob(m.home + "/*/log")
	for _, path := range logs {
		text, err := os.ReadFile(path)
		if err != nil {
			m.w.t.Error(err)
		}
		for _, word := range []string{"panic:", "fatal error:", "DATA RACE", "goroutine "} {
			if bytes.Contains(text, []byte(word)) {
				m.w.complain("machine %s: its log says %q", m.name, word)
			}
		}
	}
}

// run runs a command that may touch the mount; when it does not end in time,
// the daemon is questioned and the mount is cut.
func (m *Machine) run(c command) result {
	m.w.t.Helper()
	p, err := start(c)
	m.w.ok(err)
	r, err := p.wait(c.limit)
	if errors.Is(err, errDeadline) {
		m.question()
		p.kill()
		r, _ = p.wait(10 * time.Second)
		m.w.t.Fatalf("machine %s: %q did not end within %v\nstdout: %s\nstderr: %s", m.name, c.argv, c.limit, clip(r.out), clip(r.err))
	}
	if err != nil {
		m.w.t.Fatalf("machine %s: %q: %v", m.name, c.argv, err)
	}
	return r
}

// question makes the daemon print its stacks into its log, then cuts it off.
func (m *Machine) question() {
	size := func() (n int64) {
		for _, path := range m.logs() {
			if info, err := os.Stat(path); err == nil {
				n += info.Size()
			}
		}
		return n
	}
	before := size()
	for pid := range m.daemons() {
		syscall.Kill(pid, syscall.SIGQUIT)
	}
	for deadline := time.Now().Add(5 * time.Second); size() == before && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
	}
	for deadline := time.Now().Add(5 * time.Second); len(m.daemons()) > 0 && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
	}
	for pid := range m.daemons() {
		killPid(pid)
	}
	for _, dir := range mounts(m.mnt) {
		cut(dir)
	}
}

// cut detaches a mount that may hang.
func cut(dir string) { unix.Unmount(dir, unix.MNT_DETACH) }

func killPid(pid int) { syscall.Kill(pid, syscall.SIGKILL) }

// sh runs a shell script in the mount and returns its output; it must succeed.
func (m *Machine) sh(script string) string {
	m.w.t.Helper()
	r := m.try(stepLimit, script)
	if r.code != 0 {
		m.w.t.Fatalf("machine %s: %v", m.name, r)
	}
	return r.out
}

// try runs a shell script in the mount and returns how it ended.
func (m *Machine) try(limit time.Duration, script string) result {
	m.w.t.Helper()
	return m.run(m.shell(limit, script))
}

func (m *Machine) shell(limit time.Duration, script string) command {
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + m.dir, "TMPDIR=" + m.tmp, "LANG=C.UTF-8", "TZ=UTC", "MNT=" + m.mnt}
	// The shell itself enters the mount, so that this process never does.
	return command{argv: []string{"sh", "-euc", "cd \"$MNT\"\n" + script}, dir: m.dir, env: env, uid: m.uid, limit: limit}
}

// child runs a function of child_test.go in a process of its own, which must succeed.
func (m *Machine) child(limit time.Duration, name string, args ...string) string {
	m.w.t.Helper()
	r := m.run(m.childCommand(limit, name, args...))
	if r.code != 0 {
		m.w.t.Fatalf("machine %s: %s: %v", m.name, name, r)
	}
	return r.out
}

func (m *Machine) childCommand(limit time.Duration, name string, args ...string) command {
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + m.dir, "TMPDIR=" + m.tmp, "LANG=C.UTF-8", "TZ=UTC", childVar + "=" + name}
	return command{argv: append([]string{suite.self}, args...), dir: m.dir, env: env, uid: m.uid, limit: limit}
}

// background starts a child that goes on until it is told to end.
func (m *Machine) background(c command) *process {
	m.w.t.Helper()
	p, err := start(c)
	m.w.ok(err)
	m.w.t.Cleanup(p.kill)
	return p
}

// at is a path below the mount.
func (m *Machine) at(path string) string { return filepath.Join(m.mnt, path) }
