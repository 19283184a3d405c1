//go:build linux

package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a program on a terminal of its own, with somebody typing.
type terminal struct {
	m      *Machine
	master *os.File
	cmd    *exec.Cmd
	done   chan struct{} // closed when the program has closed its terminal

	mu     sync.Mutex
	screen strings.Builder
}

// typing runs a verb on a terminal.
func (m *Machine) typing(env []string, verb ...string) *terminal {
	m.w.t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	m.w.ok(err)
	m.w.ok(unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	m.w.ok(err)
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	m.w.ok(err)
	t := &terminal{m: m, master: master, cmd: exec.Command(m.w.program, verb...), done: make(chan struct{})}
	t.cmd.Dir, t.cmd.Env = m.dir, append(m.environment(), env...)
	t.cmd.Stdin, t.cmd.Stdout, t.cmd.Stderr = tty, tty, tty
	t.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	m.w.ok(t.cmd.Start())
	m.w.ok(tty.Close())
	go t.read()
	return t
}

// read copies what the program writes to the screen until nobody writes.
func (t *terminal) read() {
	defer close(t.done)
	buf := make([]byte, 4096)
	for {
		n, err := t.master.Read(buf)
		t.mu.Lock()
		t.screen.Write(buf[:n])
		t.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (t *terminal) shown() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.screen.String()
}

// answer waits for a question that has not been asked before, and types.
func (t *terminal) answer(question string, times int, line string) {
	t.m.w.t.Helper()
	eventually(t.m.w.t, stepLimit, "the question "+question, func() error {
		if strings.Count(t.shown(), question) < times {
			return fmt.Errorf("the screen shows %q", t.shown())
		}
		return nil
	})
	// Typed before the echo is off, a passphrase would be seen.
	eventually(t.m.w.t, stepLimit, "a terminal without echo", func() error {
		state, err := unix.IoctlGetTermios(int(t.master.Fd()), unix.TCGETS)
		if err == nil && line != "" && strings.HasPrefix(line, "accept") {
			return nil
		}
		if err == nil && state.Lflag&unix.ECHO != 0 {
			return errors.New("what is typed would be seen")
		}
		return err
	})
	_, err := t.master.WriteString(line + "\n")
	t.m.w.ok(err)
}

// end waits for the program and returns its exit code and the screen.
func (t *terminal) end() (int, string) {
	t.m.w.t.Helper()
	select {
	case <-t.done:
	case <-time.After(verbLimit):
		t.cmd.Process.Kill()
		t.m.w.t.Fatalf("it does not end; the screen shows %q", t.shown())
	}
	err := t.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.m.w.t.Fatal(err)
	}
	t.m.w.ok(t.master.Close())
	return t.cmd.ProcessState.ExitCode(), t.shown()
}

// TestPrompts types passphrases: twice where one is new, once where it is not,
// never to be seen.
func TestPrompts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onDir)
	a := w.machine("a")
	none := []string{"KIST_PASSPHRASE_FILE="}
	pass := strings.TrimSpace(passphrase)

	p := a.typing(none, "init", "--user", "ann", w.storeAt(""))
	p.answer("assphrase", 1, pass)
	p.answer("again", 1, "something else")
	if code, screen := p.end(); code == exitDone || strings.Contains(screen, pass) {
		t.Errorf("two different passphrases: exit %d, %q", code, screen)
	}
	p = a.typing(none, "init", "--user", "ann", w.storeAt(""))
	p.answer("assphrase", 1, pass)
	p.answer("again", 1, pass)
	if code, screen := p.end(); code != exitDone || strings.Contains(screen, pass) || !strings.Contains(screen, "kist id export") {
		t.Fatalf("init: exit %d, %q", code, screen)
	}
	p = a.typing(none, "mount", w.storeAt(""), a.mnt)
	p.answer("assphrase", 1, "wrong")
	if code, screen := p.end(); code != exitKeys {
		t.Errorf("a wrong passphrase: exit %d, %q", code, screen)
	}
	p = a.typing(none, "mount", w.storeAt(""), a.mnt)
	p.answer("assphrase", 1, pass)
	if code, screen := p.end(); code != exitDone || strings.Contains(screen, pass) {
		t.Fatalf("mount: exit %d, %q", code, screen)
	}
	a.sh("echo x > file")
	p = a.typing(nil, "umount", a.mnt)
	if code, screen := p.end(); code != exitDone {
		t.Errorf("umount with progress: exit %d, %q", code, screen)
	}
	a.daemonGone()
	a.mount() // the file holds the same passphrase
}

// TestGeneratedPassphrase lets init make the passphrase, and uses it.
func TestGeneratedPassphrase(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onDir)
	a := w.machine("a")
	p := a.typing([]string{"KIST_PASSPHRASE_FILE="}, "init", w.storeAt(""))
	p.answer("assphrase", 1, "")
	made := ""
	eventually(t, stepLimit, "a generated passphrase", func() error {
		for _, line := range strings.Split(p.shown(), "\n") {
			if strings.HasPrefix(line, "    ") {
				made = strings.TrimSpace(line)
			}
		}
		if made == "" {
			return fmt.Errorf("the screen shows %q", p.shown())
		}
		return nil
	})
	p.answer("again", 1, made)
	if code, screen := p.end(); code != exitDone {
		t.Fatalf("init: exit %d, %q", code, screen)
	}
	if len(made) < 16 {
		t.Errorf("a generated passphrase of %d characters", len(made))
	}
	w.ok(os.WriteFile(a.pass, []byte(made+"\n"), 0o600))
	a.mount()
}

// TestTrustPhrase resets a lost memory by typing the phrase, and by nothing else.
func TestTrustPhrase(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onDir)
	a := w.first("a")
	a.mount()
	a.sh("echo x > file")
	a.umount()
	a.setTrust(nil)
	for _, c := range []struct {
		line string
		code int
	}{{"accept it", exitFailed}, {"accept what the store shows", exitDone}} {
		p := a.typing(nil, "trust", "reset", w.storeAt(""))
		p.answer("type:", 1, c.line)
		if code, screen := p.end(); code != c.code {
			t.Errorf("%q: exit %d, %q", c.line, code, screen)
		}
		if c.code != exitDone {
			a.refused(exitRefused, nil, "mount", w.storeAt(""), a.mnt)
		}
	}
	a.mount()
	if got := a.sh("cat file"); got != "x\n" {
		t.Errorf("%q", got)
	}
}

// TestXDG keeps state and cache where the rules of the desktop put them.
func TestXDG(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onDir)
	a := w.machine("a")
	state, cache := filepath.Join(a.dir, "xdg-state"), filepath.Join(a.dir, "xdg-cache")
	a.env = []string{"KIST_HOME=", "XDG_STATE_HOME=" + state, "XDG_CACHE_HOME=" + cache}
	a.init()
	a.mount()
	a.sh("head -c 100000 /dev/urandom > file")
	a.sync()
	for _, pattern := range []string{state + "/kist/*/keyfile", state + "/kist/*/journal", cache + "/kist/*"} {
		if found, err := filepath.Glob(pattern); err != nil || len(found) != 1 {
			t.Errorf("%s: %v, %v", strings.TrimPrefix(pattern, a.dir), found, err)
		}
	}
	a.private(state)
	a.private(cache)
	a.umount()
	// Without any of it: below $HOME.
	h := w.machine("h")
	h.env = []string{"KIST_HOME=", "XDG_STATE_HOME=", "XDG_CACHE_HOME="}
	h.importFrom(a)
	h.mount()
	h.umount()
	if found, err := filepath.Glob(h.dir + "/.local/state/kist/*/keyfile"); err != nil || len(found) != 1 {
		t.Errorf("below $HOME: %v, %v", found, err)
	}
}
