//go:build linux

package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// command is a program to run with a deadline.
type command struct {
	argv  []string
	dir   string
	env   []string
	uid   int // 0: as root
	stdin io.Reader
	limit time.Duration
}

// result is how it ended; code is -1 for a death by signal.
type result struct {
	argv     []string
	code     int
	out, err string
}

func (r result) String() string {
	return fmt.Sprintf("%q: exit %d\nstdout: %s\nstderr: %s", r.argv, r.code, clip(r.out), clip(r.err))
}

// clip keeps the beginning and the end of a long text.
func clip(s string) string {
	const most = 12 << 10
	if len(s) <= most {
		return s
	}
	return s[:most/4] + "\n[...]\n" + s[len(s)-3*most/4:]
}

var errDeadline = errors.New("did not end in time")

// process is a started command.
type process struct {
	argv     []string
	cmd      *exec.Cmd
	out, err bytes.Buffer
	done     chan error
}

func start(c command) (*process, error) {
	p := &process{argv: c.argv, cmd: exec.Command(c.argv[0], c.argv[1:]...), done: make(chan error, 1)}
	p.cmd.Dir, p.cmd.Env, p.cmd.Stdin = c.dir, c.env, c.stdin
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.err
	// Where a child of the command keeps its output open, Wait says so.
	p.cmd.WaitDelay = 10 * time.Second
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if c.uid != 0 {
		p.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(c.uid), Gid: uint32(c.uid)}
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { p.done <- p.cmd.Wait() }()
	return p, nil
}

// wait returns errDeadline, with the process still running, if it takes longer
// than limit.
func (p *process) wait(limit time.Duration) (result, error) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case err := <-p.done:
		p.done <- err
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			return result{argv: p.argv, code: -1}, err
		}
		return result{p.argv, p.cmd.ProcessState.ExitCode(), p.out.String(), p.err.String()}, nil
	case <-timer.C:
		return result{argv: p.argv, code: -1}, errDeadline
	}
}

// kill ends the process and what it started.
func (p *process) kill() { syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) }

// alive lists the processes that carry text in their environment, command
// line or working directory, as pid → command line.
func alive(text string) map[int]string {
	found := map[int]string{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		dir := filepath.Join("/proc", e.Name())
		if state, err := os.ReadFile(dir + "/stat"); err != nil || strings.Contains(string(state), ") Z ") {
			continue
		}
		line, _ := os.ReadFile(dir + "/cmdline")
		env, _ := os.ReadFile(dir + "/environ")
		cwd, _ := os.Readlink(dir + "/cwd")
		if bytes.Contains(line, []byte(text)) || bytes.Contains(env, []byte(text)) || strings.Contains(cwd, text) {
			found[pid] = strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}

// mounts lists the mount points below dir.
func mounts(dir string) []string {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{"/proc/self/mountinfo: " + err.Error()}
	}
	var list []string
	for _, line := range strings.Split(string(raw), "\n") {
		f := strings.Fields(line)
		if len(f) > 4 && (f[4] == dir || strings.HasPrefix(f[4], dir+"/")) {
			list = append(list, f[4])
		}
	}
	return list
}

// eventually asks again until check is content, and fails the test if it is
// not within limit.
func eventually(t *testing.T, limit time.Duration, what string, check func() error) time.Duration {
	t.Helper()
	start := time.Now()
	pause := 10 * time.Millisecond
	for {
		err := check()
		took := time.Since(start)
		if err == nil {
			return took
		}
		if took > limit {
			t.Fatalf("%s: not within %v: %v", what, limit, err)
		}
		time.Sleep(pause)
		pause = min(2*pause, 200*time.Millisecond)
	}
}
