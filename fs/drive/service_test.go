package drive

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// manager is a service manager that listens.
func manager(t *testing.T, name string) *net.UnixConn {
	t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// hears returns the next message, "" if none comes in time.
func hears(c *net.UnixConn, within time.Duration) string {
	buf := make([]byte, 4096)
	c.SetReadDeadline(time.Now().Add(within))
	n, _ := c.Read(buf)
	return string(buf[:n])
}

func environment(vars ...string) func(string) string {
	return func(name string) string {
		for _, v := range vars {
			if value, ok := strings.CutPrefix(v, name+"="); ok {
				return value
			}
		}
		return ""
	}
}

func TestServiceTells(t *testing.T) {
	for _, name := range []string{filepath.Join(t.TempDir(), "notify"), fmt.Sprintf("@kist-test-%d", os.Getpid())} {
		m := manager(t, name)
		s := newService(environment("NOTIFY_SOCKET=" + name))
		s.tell("READY=1", "STATUS=mounted")
		if got := hears(m, time.Minute); got != "READY=1\nSTATUS=mounted" {
			t.Errorf("at %q came %q", name, got)
		}
		s.extend()
		s.extend()
		s.tell("STOPPING=1")
		if got := hears(m, time.Minute); got != "EXTEND_TIMEOUT_USEC=90000000" {
			t.Errorf("%q", got)
		}
		if got := hears(m, time.Minute); got != "STOPPING=1" {
			t.Errorf("the second of two extensions at once is one too many: %q", got)
		}
		m.Close()
		s.tell("READY=1") // must return
	}
	new(service).tell("READY=1")
}

func TestWatchdog(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notify")
	m := manager(t, name)
	vars := []string{"NOTIFY_SOCKET=" + name, "WATCHDOG_USEC=20000"}
	if s := newService(environment(append(vars, "WATCHDOG_PID=1")...)); s.watchdog != 0 {
		t.Errorf("a watchdog for another process: %v", s.watchdog)
	}
	s := newService(environment(append(vars, fmt.Sprint("WATCHDOG_PID=", os.Getpid()))...))
	if s.watchdog != 20*time.Millisecond {
		t.Fatalf("watchdog: %v", s.watchdog)
	}

	// Alive, alive, not well, and then it hangs.
	var asked int
	hung, done, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		s.guard(done, func() bool {
			if asked++; asked == 4 {
				close(hung)
				<-done
				return false
			}
			return asked < 3
		})
	}()
	<-hung
	s.tell("END")
	var heard []string
	for m := range messages(m) {
		heard = append(heard, m)
	}
	if got := strings.Join(heard, " "); got != "WATCHDOG=1 WATCHDOG=1 END" {
		t.Errorf("heard: %s", got)
	}
	close(done)
	<-ended
}

// messages are those up to END.
func messages(c *net.UnixConn) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for m := "x"; m != "" && m != "END"; {
			if m = hears(c, time.Minute); !yield(m) {
				return
			}
		}
	}
}
