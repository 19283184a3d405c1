package drive

import (
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

// service tells the service manager how this process is, as sd_notify(3) has
// it. Without $NOTIFY_SOCKET it tells nobody; so does the zero service.
type service struct {
	socket   string        // a path, or @ and an abstract name
	watchdog time.Duration // without a sign of life for so long, we are killed; 0: never

	mu       sync.Mutex
	deaf     bool // it has been logged that nobody listens
	extended time.Time
}

// theService is what the environment tells of.
func theService() *service { return newService(os.Getenv) }

func newService(getenv func(string) string) *service {
	s := &service{socket: getenv("NOTIFY_SOCKET")}
	pid := getenv("WATCHDOG_PID")
	if n, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64); err == nil && n > 0 && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		s.watchdog = time.Duration(n) * time.Microsecond
	}
	return s
}

// tellTime is how long the service manager may take to receive a message.
const tellTime = time.Second

// tell sends lines such as READY=1. That nobody listens is no reason to end.
func (s *service) tell(lines ...string) {
	if s.socket == "" {
		return
	}
	err := s.send(strings.Join(lines, "\n"))
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && !s.deaf {
		slog.Warn("the service manager could not be told how the drive is")
	}
	s.deaf = err != nil
}

func (s *service) send(message string) error {
	c, err := net.DialTimeout("unixgram", s.socket, tellTime)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetWriteDeadline(time.Now().Add(tellTime)); err != nil {
		return err
	}
	_, err = io.WriteString(c, message)
	return err
}

// The end of a service may take as long as it makes progress: with each bit of
// it, but not more often than that, it is given as much time again as a drain
// without progress and the unmount after it may take.
const (
	extendEvery = 5 * time.Second
	extendBy    = stalled + stalled/2
)

func (s *service) extend() {
	s.mu.Lock()
	due := time.Since(s.extended) >= extendEvery
	if due {
		s.extended = time.Now()
	}
	s.mu.Unlock()
	if due {
		s.tell("EXTEND_TIMEOUT_USEC=" + strconv.FormatInt(extendBy.Microseconds(), 10))
	}
}

// guard gives the sign of life twice in the time in which it is expected, as
// long as alive returns true. One that never returns is a death, too.
func (s *service) guard(done <-chan struct{}, alive func() bool) {
	if s.socket == "" || s.watchdog == 0 {
		return
	}
	tick := time.NewTicker(s.watchdog / 2)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		if alive() {
			s.tell("WATCHDOG=1")
		}
	}
}

// alive returns true if the drive answers: the kernel, through the mount, and
// whoever needs the vault's lock. It may hang with them. The mount is asked by
// another process, because one that waits for its own mount can't be ended; and
// not during an unmount, which it would be in the way of.
func (d *daemon) alive() bool {
	d.vault.Status()
	d.mu.Lock()
	leaving := d.leaving
	d.mu.Unlock()
	ask := exec.Command("stat", "-f", "--", d.mount.Dir())
	ask.Env = []string{"LC_ALL=C"} // ours may hold the store's credentials, and others could read it there
	return leaving || ask.Run() == nil
}
