//go:build linux

package integration

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A twin run does the same random things in two directories, one on the file
// system of this machine and one on a drive, and expects the same outcome of
// each: results, errors, content read, link counts, and which times move. The
// first directory is the model of the second.

// side is one of the two directories, with its open files.
type side struct {
	root string
	fds  []int // by handle number; -1: closed
}

// step is one thing to do; run says how it went, in words that must be the
// same on both sides.
type step struct {
	what  string
	paths []string // whose times are watched
	run   func(s *side) string
}

const twinHandles = 6

type twin struct {
	rng         *rand.Rand
	model, real side
	trace       []string
}

// twinChild takes the model's directory, the drive's, a seed, a number of
// steps, and what to do at the end: "fsync" or "leave".
func twinChild(args []string) error {
	seed, err := strconv.ParseUint(args[2], 10, 64)
	if err != nil {
		return err
	}
	steps, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	unix.Umask(0o022)
	t := &twin{rng: rand.New(rand.NewPCG(seed, 7)), model: newSide(args[0]), real: newSide(args[1])}
	if entries, err := os.ReadDir(args[0]); err != nil {
		return err
	} else if len(entries) > 0 {
		if err := compareTrees(args[0], args[1]); err != nil {
			return fmt.Errorf("before the first step: %w", err)
		}
	}
	for i := range steps {
		if err := t.one(i); err != nil {
			return fmt.Errorf("seed %d, %w\nthe steps before:\n%s", seed, err, strings.Join(t.trace, "\n"))
		}
	}
	return t.end(args[4] == "fsync")
}

func newSide(root string) side {
	s := side{root: root, fds: make([]int, twinHandles)}
	for i := range s.fds {
		s.fds[i] = -1
	}
	return s
}

func (s *side) at(path string) string { return filepath.Join(s.root, path) }

func (t *twin) one(i int) error {
	st := t.next()
	t.trace = append(t.trace, fmt.Sprintf("%d %s", i, st.what))
	t.trace = t.trace[max(0, len(t.trace)-40):]
	watch := t.rng.IntN(4) == 0
	want, got := t.do(&t.model, st, watch), t.do(&t.real, st, watch)
	if want != got {
		return fmt.Errorf("step %d: %s\nthe model says:  %s\nthe drive says: %s", i, st.what, want, got)
	}
	t.trace[len(t.trace)-1] += ": " + clip(want)
	return nil
}

var longAgo = unix.Timespec{Sec: 1_000_000_000, Nsec: 1}

// do runs a step on one side; when it watches, it also says which of the
// paths had their modification time moved by it.
func (t *twin) do(s *side, st step, watch bool) string {
	watched := map[string]bool{}
	if watch {
		for _, p := range st.paths {
			for _, p := range []string{p, filepath.Dir(p)} {
				watched[p] = times(s.at(p), longAgo, longAgo) == nil
			}
		}
	}
	outcome := st.run(s)
	var moved []string
	for p, was := range watched {
		var now unix.Stat_t
		if was && unix.Lstat(s.at(p), &now) == nil && now.Mtim != longAgo {
			moved = append(moved, p)
		}
	}
	sort.Strings(moved)
	if len(moved) > 0 {
		outcome += "; moved the time of " + strings.Join(moved, ", ")
	}
	return outcome
}

// end closes what is open, gives everything the same times, and compares.
func (t *twin) end(fsync bool) error {
	for _, s := range []*side{&t.model, &t.real} {
		for i, fd := range s.fds {
			if fd >= 0 {
				unix.Close(fd)
				s.fds[i] = -1
			}
		}
		m := &maker{root: s.root}
		m.settle()
		if m.err != nil {
			return m.err
		}
	}
	if fsync {
		if err := fsyncAll(t.real.root); err != nil {
			return err
		}
	}
	return compareTrees(t.model.root, t.real.root)
}

// fsyncAll syncs every file and directory of a tree, the deepest first.
func fsyncAll(root string) error {
	var paths []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && (d.IsDir() || d.Type().IsRegular()) {
			paths = append(paths, path)
		}
		return err
	})
	for i := len(paths) - 1; i >= 0 && err == nil; i-- {
		err = fsyncPath(paths[i])
	}
	return err
}

func fsyncPath(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.Fsync(fd), unix.Close(fd))
}

// said is how a system call went.
func said(err error, more ...any) string {
	if err == nil {
		return "ok " + fmt.Sprint(more...)
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

// next chooses a step, data more often than names.
func (t *twin) next() step {
	switch n := t.rng.IntN(100); {
	case n < 22:
		return t.write()
	case n < 32:
		return t.read()
	case n < 38:
		return t.resize()
	case n < 44:
		return t.carve()
	case n < 50:
		return t.mapped()
	case n < 58:
		return t.openOrClose()
	case n < 68:
		return t.through()
	case n < 86:
		return t.names()
	case n < 95:
		return t.attributes()
	default:
		return t.listing()
	}
}

// path is a name out of few, so that steps meet.
func (t *twin) path() string {
	dirs := []string{"", "", "d0", "d1", "d0/e", "d1/f/g"}
	return filepath.Join(dirs[t.rng.IntN(len(dirs))], "n"+strconv.Itoa(t.rng.IntN(7)))
}

// dirPath is the path of a directory, or of what becomes one.
func (t *twin) dirPath() string {
	dirs := []string{"d0", "d1", "d0/e", "d1/f", "d1/f/g", "d2"}
	return dirs[t.rng.IntN(len(dirs))]
}

// offset lies near the edges that matter more often than elsewhere.
func (t *twin) offset() int64 {
	edges := []int64{0, 512, 4096, 64 << 10, 128 << 10, 1 << 20, 2 << 20, 3 << 20}
	switch t.rng.IntN(10) {
	case 0:
		return t.rng.Int64N(40 << 20)
	case 1, 2, 3, 4:
		return max(0, edges[t.rng.IntN(len(edges))]+t.rng.Int64N(9)-4)
	}
	return t.rng.Int64N(3 << 20)
}

func (t *twin) length() int {
	switch t.rng.IntN(8) {
	case 0:
		return t.rng.IntN(1400 << 10)
	case 1, 2:
		return t.rng.IntN(200 << 10)
	case 3:
		return 4096
	}
	return t.rng.IntN(5000)
}

func (t *twin) bytes(n int) []byte {
	switch t.rng.IntN(8) {
	case 0:
		return make([]byte, n)
	case 1:
		return []byte(strings.Repeat(strconv.Itoa(t.rng.IntN(100))+" ", n))[:n]
	}
	return noise(n, t.rng.Uint64())
}

func withFile(path string, flags int, mode uint32, f func(fd int) string) string {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, mode)
	if err != nil {
		return said(err)
	}
	outcome := f(fd)
	if err := unix.Close(fd); err != nil {
		return outcome + ", close: " + said(err)
	}
	return outcome
}

func (t *twin) write() step {
	p, off, data := t.path(), t.offset(), t.bytes(t.length())
	flags := unix.O_WRONLY | unix.O_CREAT | unix.O_NONBLOCK
	how := "write"
	switch t.rng.IntN(6) {
	case 0:
		flags, how, off = flags|unix.O_APPEND, "append", 0
	case 1:
		flags, how, off = flags|unix.O_TRUNC, "overwrite", 0
	case 2:
		flags, how = flags|unix.O_SYNC, "write synchronously"
	}
	return step{fmt.Sprintf("%s %s, %d octets at %d", how, p, len(data), off), []string{p}, func(s *side) string {
		return withFile(s.at(p), flags, 0o644, func(fd int) string { return said(pwriteAll(fd, data, off, flags&unix.O_APPEND != 0)) })
	}}
}

func pwriteAll(fd int, data []byte, off int64, appending bool) error {
	for {
		var n int
		var err error
		if appending {
			n, err = unix.Write(fd, data)
		} else {
			n, err = unix.Pwrite(fd, data, off)
		}
		if err != nil || n == len(data) {
			return err
		}
		data, off = data[n:], off+int64(n)
	}
}

// preadAll reads up to n octets, and says how many and which.
func preadAll(fd int, n int, off int64) string {
	buf := make([]byte, n)
	got := 0
	for got < n {
		k, err := unix.Pread(fd, buf[got:], off+int64(got))
		if err != nil {
			return said(err)
		}
		if k == 0 {
			break
		}
		got += k
	}
	return fmt.Sprintf("ok %d octets %x", got, sha256.Sum256(buf[:got]))
}

func (t *twin) read() step {
	p, off, n := t.path(), t.offset(), t.length()
	if t.rng.IntN(4) == 0 {
		off, n = 0, 4<<20
	}
	return step{fmt.Sprintf("read %s, %d octets at %d", p, n, off), nil, func(s *side) string {
		return withFile(s.at(p), unix.O_RDONLY|unix.O_NONBLOCK, 0, func(fd int) string { return preadAll(fd, n, off) })
	}}
}

func (t *twin) resize() step {
	p, size := t.path(), t.offset()
	return step{fmt.Sprintf("truncate %s to %d", p, size), []string{p}, func(s *side) string {
		return said(unix.Truncate(s.at(p), size))
	}}
}

func (t *twin) carve() step {
	p, off, n := t.path(), t.offset(), int64(t.length()+1)
	modes := []uint32{0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE,
		unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE}
	mode := modes[t.rng.IntN(len(modes))]
	return step{fmt.Sprintf("fallocate %s, mode %d, %d octets at %d", p, mode, n, off), nil, func(s *side) string {
		return withFile(s.at(p), unix.O_RDWR|unix.O_NONBLOCK, 0, func(fd int) string {
			return said(unix.Fallocate(fd, mode, off, n)) + " size " + sizeOf(fd)
		})
	}}
}

func sizeOf(fd int) string {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return said(err)
	}
	return fmt.Sprint(st.Size, " links ", st.Nlink)
}

// mapped reads or writes through shared memory.
func (t *twin) mapped() step {
	p, data, writing := t.path(), t.bytes(1+t.rng.IntN(70000)), t.rng.IntN(2) == 0
	at := t.rng.IntN(1 << 20)
	return step{fmt.Sprintf("mmap %s, writing %v, %d octets at %d", p, writing, len(data), at), nil, func(s *side) string {
		return withFile(s.at(p), unix.O_RDWR|unix.O_NONBLOCK, 0, func(fd int) string {
			var st unix.Stat_t
			if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size == 0 {
				return said(err, "nothing to map")
			}
			m, err := unix.Mmap(fd, 0, int(st.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				return said(err)
			}
			defer unix.Munmap(m)
			if !writing {
				return fmt.Sprintf("ok %x", sha256.Sum256(m))
			}
			copy(m[min(at, len(m)):], data)
			return said(unix.Msync(m, unix.MS_SYNC))
		})
	}}
}

// campaign says how long randomised tests go on, and with which seed.
func campaign() (time.Duration, uint64, error) {
	d, seed := 12*time.Second, uint64(time.Now().UnixNano())
	var err error
	if v := os.Getenv("KIST_CAMPAIGN"); v != "" {
		if d, err = time.ParseDuration(v); err != nil {
			return 0, 0, fmt.Errorf("KIST_CAMPAIGN: %w", err)
		}
	}
	if v := os.Getenv("KIST_SEED"); v != "" {
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			return 0, 0, fmt.Errorf("KIST_SEED: %w", err)
		}
	}
	return d, seed, nil
}
