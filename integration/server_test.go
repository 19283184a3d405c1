//go:build linux

package integration

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// The credentials of the test server's only account.
const (
	s3Access = "kist-test-access"
	s3Secret = "kist-test-secret"
)

// server is a real S3 server; its buckets are folders and its objects files,
// so that tests can look at them and damage them.
type server struct {
	endpoint string
	top      string // holds a folder a bucket
	cmd      *exec.Cmd
	output   *bytes.Buffer
	gone     chan error
}

var running struct {
	sync.Mutex
	*server
}

// theServer starts the server at its first use.
func theServer() (*server, error) {
	running.Lock()
	defer running.Unlock()
	if running.server == nil {
		s, err := startServer(filepath.Join(suite.dir, "s3"))
		if err != nil {
			return nil, err
		}
		running.server = s
	}
	return running.server, nil
}

func stopServer() error {
	running.Lock()
	defer running.Unlock()
	if running.server == nil {
		return nil
	}
	s := running.server
	running.server = nil
	return s.stop()
}

func findServer() (string, error) {
	if path, err := filepath.Abs("../.tools/versitygw"); err == nil {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath("versitygw")
	if err != nil {
		return "", fmt.Errorf("versitygw v1.8.0 is neither in .tools nor in $PATH: run `make tools`")
	}
	return path, nil
}

func startServer(dir string) (*server, error) {
	path, err := findServer()
	if err != nil {
		return nil, err
	}
	s := &server{top: filepath.Join(dir, "top"), output: &bytes.Buffer{}, gone: make(chan error, 1)}
	if err := os.MkdirAll(s.top, 0o700); err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	s.endpoint = "http://" + address
	s.cmd = exec.Command(path, "--port", address, "--keep-alive", "--quiet", "posix", s.top)
	s.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "ROOT_ACCESS_KEY=" + s3Access, "ROOT_SECRET_KEY=" + s3Secret}
	s.cmd.Stdout, s.cmd.Stderr = s.output, s.output
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { s.gone <- s.cmd.Wait() }()
	return s, s.await(address)
}

// await returns when the server accepts connections.
func (s *server) await(address string) error {
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-s.gone:
			return fmt.Errorf("versitygw ended at once: %v\n%s", err, s.output)
		case <-deadline:
			return errors.Join(errors.New("versitygw does not answer"), s.stop())
		case <-tick.C:
		}
		if c, err := net.Dial("tcp", address); err == nil {
			return c.Close()
		}
	}
}

func (s *server) stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("versitygw had ended by itself: %w\n%s", err, s.output)
	}
	select {
	case <-s.gone:
		return nil
	case <-time.After(10 * time.Second):
		s.cmd.Process.Kill()
		return errors.New("versitygw did not end when told to")
	}
}

// bucket makes a bucket and returns the folder that holds its objects.
func (s *server) bucket(name string) (string, error) {
	dir := filepath.Join(s.top, name)
	return dir, os.Mkdir(dir, 0o755)
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
