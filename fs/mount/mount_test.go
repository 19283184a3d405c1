//go:build linux

package mount

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// A mount must not be touched by the process that serves it, so each test
// that needs a client runs this binary again: as one of clients, or as the
// agent, which does what it is told line by line.
const (
	envClient = "KIST_TEST_CLIENT"
	envDir    = "KIST_TEST_DIR"
)

func TestMain(m *testing.M) {
	flag.Parse()
	switch name, dir := os.Getenv(envClient), os.Getenv(envDir); {
	case name == "":
		os.Exit(prepared(m.Run))
	case name == "agent":
		agent(dir)
	case name == "server":
		serve(dir)
	default:
		test := testing.InternalTest{Name: name, F: func(t *testing.T) { clients[name](t, dir) }}
		testing.Main(func(string, string) (bool, error) { return true, nil }, []testing.InternalTest{test}, nil, nil)
	}
}

// base holds mountpoints and a copy of this binary that other users may reach.
var base string

func prepared(run func() int) int {
	dir, err := os.MkdirTemp("/tmp", "kist-mount-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	base = dir
	binary, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = errors.Join(os.Chmod(base, 0o755), os.WriteFile(filepath.Join(base, "self"), binary, 0o755))
	}
	if err != nil {
		panic(err)
	}
	return run()
}

func mountPointFor(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(base, "m")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	return dir
}

// mounted mounts a new memFS for the length of a test.
func mounted(t *testing.T, opt Options) (*memFS, string) {
	t.Helper()
	m := newMemFS()
	_, dir := mountFS(t, m, opt)
	return m, dir
}

func mountFS(t *testing.T, m *memFS, opt Options) (*Server, string) {
	t.Helper()
	leaks := goleak.IgnoreCurrent()
	dir := mountPointFor(t)
	s, err := Mount(m, dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Unmount(); err != nil {
			t.Error(err)
		}
		if on, err := IsMounted(dir); on || err != nil {
			t.Errorf("still mounted: %v %v", on, err)
		}
		goleak.VerifyNone(t, leaks)
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, f := range m.faults {
			t.Error(f)
		}
	})
	return s, dir
}

func self(ctx context.Context, client, dir string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(base, "self"), "-test.v")
	cmd.Env = append(os.Environ(), envClient+"="+client, envDir+"="+dir)
	cmd.Dir = "/"
	return cmd
}

// client runs one of clients against dir. A test that it skips was not run.
func client(t *testing.T, name, dir string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := self(ctx, name, dir).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+name) || strings.Contains(string(out), "--- SKIP") {
		t.Errorf("%v\n%s", err, out)
	}
}

// shell runs a script with dir as its first argument and returns what it prints.
func shell(t *testing.T, dir, script string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-euc", script, "sh", dir)
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return string(out)
}

// An order to the agent and its answer.
type order struct {
	Op, Path, Data string
	Off            int64
	N              int
}

type report struct {
	Out   []string
	Errno int
	Err   string
}

// agent obeys until its input ends. Files that it opened stay open.
func agent(dir string) {
	files := map[string]*os.File{}
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var o order
		if in.Decode(&o) != nil {
			return
		}
		lines, err := obey(files, filepath.Join(dir, o.Path), o)
		r := report{Out: lines}
		if err != nil {
			r.Err = err.Error()
			var code syscall.Errno
			errors.As(err, &code)
			r.Errno = int(code)
		}
		out.Encode(r)
	}
}

func obey(files map[string]*os.File, path string, o order) ([]string, error) {
	switch o.Op {
	case "read":
		b, err := os.ReadFile(path)
		return []string{string(b)}, err
	case "write":
		return nil, os.WriteFile(path, []byte(o.Data), 0o644)
	case "chmod":
		return nil, syscall.Chmod(path, uint32(o.N))
	case "chown":
		return nil, os.Chown(path, o.N, o.N)
	case "list":
		ents, err := os.ReadDir(path)
		var names []string
		for _, e := range ents {
			names = append(names, e.Name())
		}
		return names, err
	case "stat":
		var st syscall.Stat_t
		err := syscall.Lstat(path, &st)
		return []string{fmt.Sprintf("%o %d:%d %d", st.Mode, st.Uid, st.Gid, st.Size)}, err
	case "open":
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		files[o.Path] = f
		return nil, err
	case "pread":
		b := make([]byte, o.N)
		n, err := files[o.Path].ReadAt(b, o.Off)
		if err == io.EOF {
			err = nil
		}
		return []string{string(b[:n])}, err
	case "pwrite":
		_, err := files[o.Path].WriteAt([]byte(o.Data), o.Off)
		return nil, err
	case "close":
		return nil, files[o.Path].Close()
	case "chdir":
		return nil, os.Chdir(path)
	case "fsync":
		return nil, files[o.Path].Sync()
	}
	return nil, fmt.Errorf("unknown order %q", o.Op)
}

// remote is an agent in another process.
type remote struct {
	t   *testing.T
	cmd *exec.Cmd
	in  *json.Encoder
	out *json.Decoder
}

func startAgent(t *testing.T, dir string, as *syscall.Credential) *remote {
	t.Helper()
	cmd := self(context.Background(), "agent", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	return &remote{t, cmd, json.NewEncoder(in), json.NewDecoder(bufio.NewReader(out))}
}

func (r *remote) try(o order) report {
	r.t.Helper()
	var rep report
	if err := r.in.Encode(o); err != nil {
		r.t.Fatal(err)
	}
	if err := r.out.Decode(&rep); err != nil {
		r.t.Fatal(err)
	}
	return rep
}

func (r *remote) do(o order) string {
	r.t.Helper()
	rep := r.try(o)
	if rep.Err != "" {
		r.t.Fatalf("%s %s: %s", o.Op, o.Path, rep.Err)
	}
	return strings.Join(rep.Out, " ")
}

// eventually waits for what the notifier brings about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not so after ten seconds", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// serve is a server in a process of its own: it mounts and waits to be killed,
// or to be asked by the end of its input.
func serve(dir string) {
	m := newMemFS()
	m.nodes[1].attr.Uid = uint32(os.Geteuid())
	s, err := Mount(m, dir, Options{})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("mounted")
	io.Copy(io.Discard, os.Stdin)
	if err := s.Unmount(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func TestMountRefusesWhatIsNoDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{file, file + ".absent"} {
		if _, err := Mount(newMemFS(), dir, Options{}); err == nil {
			t.Errorf("mounted on %s", dir)
		}
	}
}
