package mount

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// mountPoint is a line of mountinfo.
type mountPoint struct {
	id, dev, dir, fsType string
}

// mountPoints reads the kernel's table, oldest first.
func mountPoints() ([]mountPoint, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []mountPoint
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		left, right, ok := strings.Cut(lines.Text(), " - ")
		fields, kind := strings.Fields(left), strings.Fields(right)
		if !ok || len(fields) < 6 || len(kind) < 1 {
			return nil, errors.New("/proc/self/mountinfo has a line of an unknown form")
		}
		all = append(all, mountPoint{id: fields[0], dev: fields[2], dir: unescape(fields[4]), fsType: kind[0]})
	}
	return all, lines.Err()
}

// unescape undoes the kernel's octal escapes for blanks in paths.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// find returns the mount on dir that is on top, if it is one of ours.
func find(dir string) (mountPoint, bool, error) {
	all, err := mountPoints()
	if err != nil {
		return mountPoint{}, false, err
	}
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].dir == dir {
			return all[i], all[i].fsType == fsType, nil
		}
	}
	return mountPoint{}, false, nil
}

// IsMounted tells whether one of our mounts is on dir, alive or dead.
func IsMounted(dir string) (bool, error) {
	dir, err := resolve(dir)
	if err != nil {
		return false, err
	}
	_, ok, err := find(dir)
	return ok, err
}

// patience is how long a mount has to say that it is alive.
const patience = 10 * time.Second

// CleanDead takes away a mount of ours on dir whose process has died, and
// tells whether there was one. What is alive is left alone.
func CleanDead(dir string) (bool, error) {
	dir, err := resolve(dir)
	if err != nil {
		return false, err
	}
	if _, ok, err := find(dir); err != nil || !ok {
		return false, err
	}
	alive := make(chan error, 1)
	go func() {
		var st unix.Statfs_t // never answered from the kernel's memory
		alive <- unix.Statfs(dir, &st)
	}()
	select {
	case err := <-alive:
		if !errors.Is(err, syscall.ENOTCONN) && !errors.Is(err, syscall.ECONNABORTED) {
			return false, nil
		}
	case <-time.After(patience):
		return false, fmt.Errorf("what is mounted there does not answer; it was left alone: %w", syscall.EBUSY)
	}
	if err := detachDead(dir); err != nil {
		return false, fmt.Errorf("could not take away the dead mount: %w", err)
	}
	return true, nil
}

// Proc is a process that keeps a mount busy.
type Proc struct {
	PID  int
	Name string
	How  string // "open file", "working directory", "root directory", "mapped file"
}

// Busy names the processes that use the mount on dir, as far as this user may
// know. Nothing below dir is touched: what processes have open is told apart
// by the number of the mount and of the device.
func Busy(dir string) ([]Proc, error) {
	dir, err := resolve(dir)
	if err != nil {
		return nil, err
	}
	m, ok, err := find(dir)
	if err != nil || !ok {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var users []Proc
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if how := m.usedBy(filepath.Join("/proc", e.Name())); how != "" {
			comm, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "comm"))
			users = append(users, Proc{PID: pid, Name: strings.TrimSpace(string(comm)), How: how})
		}
	}
	return users, nil
}

func (m mountPoint) usedBy(proc string) string {
	for _, l := range []struct{ link, how string }{{"cwd", "working directory"}, {"root", "root directory"}} {
		if target, err := os.Readlink(filepath.Join(proc, l.link)); err == nil && m.holds(target) {
			return l.how
		}
	}
	fds, _ := os.ReadDir(filepath.Join(proc, "fdinfo"))
	for _, fd := range fds {
		info, err := os.ReadFile(filepath.Join(proc, "fdinfo", fd.Name()))
		if err == nil && m.opened(string(info)) {
			return "open file"
		}
	}
	maps, _ := os.ReadFile(filepath.Join(proc, "maps"))
	for line := range strings.Lines(string(maps)) {
		if f := strings.Fields(line); len(f) >= 6 && m.mapped(f[3]) {
			return "mapped file"
		}
	}
	return ""
}

func (m mountPoint) holds(path string) bool {
	return path == m.dir || strings.HasPrefix(path, m.dir+"/")
}

// opened looks for the mount's number in an fdinfo file.
func (m mountPoint) opened(fdinfo string) bool {
	for line := range strings.Lines(fdinfo) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "mnt_id:" {
			return f[1] == m.id
		}
	}
	return false
}

// mapped compares a device of a maps file, which is in hexadecimal.
func (m mountPoint) mapped(dev string) bool {
	major, minor, ok := strings.Cut(dev, ":")
	if !ok {
		return false
	}
	x, err1 := strconv.ParseUint(major, 16, 32)
	y, err2 := strconv.ParseUint(minor, 16, 32)
	return err1 == nil && err2 == nil && m.dev == fmt.Sprintf("%d:%d", x, y)
}
