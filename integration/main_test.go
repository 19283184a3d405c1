//go:build linux

package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// tools are the programs that the tests drive; `make needs` installs them.
var tools = []string{"rsync", "git", "sqlite3", "fio", "tar", "cp", "mv", "sh", "setfattr", "getfattr",
	"setfacl", "getfacl", "fusermount3", "mkfs.ext4", "mount", "umount"}

// suite is what all tests of a run share.
var suite struct {
	dir  string // temporary, removed at the end, passable for every user
	self string // a copy of this binary that every user may run
}

func TestMain(m *testing.M) {
	if name := os.Getenv(childVar); name != "" {
		os.Exit(beChild(name, os.Args[1:]))
	}
	code, err := runSuite(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		code = 1
	}
	os.Exit(code)
}

func runSuite(m *testing.M) (code int, err error) {
	if suite.dir, err = os.MkdirTemp("", "kist-it-"); err != nil {
		return 1, err
	}
	if os.Getenv("KIST_KEEP") == "" {
		defer os.RemoveAll(suite.dir)
	}
	if err := os.Chmod(suite.dir, 0o755); err != nil {
		return 1, err
	}
	exe, err := os.Executable()
	if err != nil {
		return 1, err
	}
	suite.self = filepath.Join(suite.dir, "child")
	if out, err := exec.Command("cp", exe, suite.self).CombinedOutput(); err != nil {
		return 1, fmt.Errorf("copying the test binary: %v: %s", err, out)
	}
	if err := os.Chmod(suite.self, 0o755); err != nil {
		return 1, err
	}
	code = m.Run()
	if err := stopServer(); err != nil {
		return 1, err
	}
	return code, nil
}

// requireMachine fails the run where the machine lacks something, rather than
// leaving tests out.
var requireMachine = sync.OnceValue(func() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("these tests mount as root and as an ordinary user: run them as root (sudo make test)")
	}
	if info, err := os.Stat("/dev/fuse"); err != nil || info.Mode().Perm()&0o006 != 0o006 {
		return fmt.Errorf("/dev/fuse is missing or closed to ordinary users: run `make needs`")
	}
	var missing []string
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, tool)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("not installed: %s: run `make needs`", strings.Join(missing, ", "))
	}
	return nil
})

// racing is the program with the race detector, which most tests drive, and
// with the least cost of a passphrase that it accepts: with the cost of new
// keyfiles the tests would mostly guess passphrases. quick is the program as it
// is, for tests that count, carry much data, or are about passphrases. hasty has
// a deadline of seconds for a call that needs the store.
var (
	racing = sync.OnceValues(func() (string, error) { return buildOther("kist-race", []change{cheap, plain}, "-race") })
	quick  = sync.OnceValues(func() (string, error) { return build("kist") })
	hasty  = sync.OnceValues(func() (string, error) { return buildOther("kist-hasty", []change{cheap, short, shorter}) })
)

// change is a piece of source, and what stands for it in another program; QUICK is the
// path of the program as it is.
type change struct{ file, was, is string }

var (
	cheap = change{"crypto/keys/stretch.go", "Params{T: 3, M: 256 << 10, P: 4}", "Params{T: 3, M: 64 << 10, P: 4}"}
	// With the race detector a child without environment waits a second before it ends.
	plain   = change{"crypto/keys/stretch.go", "exec.Command(argv[0], argv[1:]...)", `exec.Command("QUICK", argv[1:]...)`}
	short   = change{"fs/background.go", "opDeadline   = time.Minute", "opDeadline   = 5 * time.Second"}
	shorter = change{"fs/background.go", "awayDeadline = 10 * time.Second", "awayDeadline = 5 * time.Second"}
)

// buildOther builds the program with changes.
func buildOther(name string, changes []change, flags ...string) (string, error) {
	program, err := quick()
	if err != nil {
		return "", err
	}
	replace := map[string]string{}
	for i, c := range changes {
		source, err := filepath.Abs("../" + c.file)
		if err != nil {
			return "", err
		}
		from := source
		if earlier := replace[source]; earlier != "" {
			from = earlier
		}
		text, err := os.ReadFile(from)
		if err != nil {
			return "", err
		}
		if strings.Count(string(text), c.was) != 1 {
			return "", fmt.Errorf("%s no longer says %q once; the tests must follow", c.file, c.was)
		}
		replace[source] = filepath.Join(suite.dir, fmt.Sprint(name, i, ".go"))
		is := strings.ReplaceAll(c.is, "QUICK", program)
		if err := os.WriteFile(replace[source], []byte(strings.Replace(string(text), c.was, is, 1)), 0o644); err != nil {
			return "", err
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	list := filepath.Join(suite.dir, name+".json")
	if err := os.WriteFile(list, overlay, 0o644); err != nil {
		return "", err
	}
	return build(name, append(flags, "-overlay", list)...)
}

func build(name string, flags ...string) (string, error) {
	path := filepath.Join(suite.dir, name)
	args := append(append([]string{"build", "-o", path}, flags...), "kist/cmd/kist")
	out, err := exec.Command("go", args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return path, os.Chmod(path, 0o755)
}
