//go:build linux

package integration

import (
	"fmt"
	"os"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// The steps of a twin run that concern open files, names and attributes.

func (t *twin) openOrClose() step {
	h, p := t.rng.IntN(twinHandles), t.path()
	flags := []int{unix.O_RDWR, unix.O_RDWR | unix.O_CREAT, unix.O_RDWR | unix.O_CREAT | unix.O_EXCL,
		unix.O_RDWR | unix.O_APPEND, unix.O_RDONLY, unix.O_RDWR | unix.O_TRUNC, unix.O_RDWR | unix.O_TMPFILE}[t.rng.IntN(7)]
	what := fmt.Sprintf("open %s as handle %d, flags %#o", p, h, flags)
	return step{what, nil, func(s *side) string {
		if s.fds[h] >= 0 {
			fd := s.fds[h]
			s.fds[h] = -1
			return "closed " + said(unix.Close(fd))
		}
		path := s.at(p)
		if flags&unix.O_TMPFILE == unix.O_TMPFILE {
			path = s.root
		}
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0o640)
		if err == nil {
			s.fds[h] = fd
		}
		return said(err)
	}}
}

// through uses an open file, whatever became of its name.
func (t *twin) through() step {
	h, off, data, kind := t.rng.IntN(twinHandles), t.offset(), t.bytes(t.length()), t.rng.IntN(7)
	p := t.path()
	what := fmt.Sprintf("handle %d, kind %d, %d octets at %d, %s", h, kind, len(data), off, p)
	return step{what, nil, func(s *side) string {
		fd := s.fds[h]
		if fd < 0 {
			return "not open"
		}
		switch kind {
		case 0, 1:
			return said(pwriteAll(fd, data, off, false)) + " " + sizeOf(fd)
		case 2, 3:
			return preadAll(fd, len(data), off)
		case 4:
			return said(unix.Ftruncate(fd, off)) + " " + sizeOf(fd)
		case 5:
			return said(unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, s.at(p), unix.AT_SYMLINK_FOLLOW)) + " " + sizeOf(fd)
		}
		return said(unix.Fsync(fd)) + " " + sizeOf(fd)
	}}
}

func (t *twin) names() step {
	p, q, d := t.path(), t.path(), t.dirPath()
	if t.rng.IntN(8) == 0 {
		q = t.dirPath()
	}
	if t.rng.IntN(8) == 0 {
		p = t.dirPath()
	}
	switch t.rng.IntN(16) {
	case 0, 1, 2:
		return step{"mkdir " + d, []string{d}, func(s *side) string { return said(unix.Mkdir(s.at(d), 0o775)) }}
	case 3:
		return step{"rmdir " + d, []string{d}, func(s *side) string { return said(unix.Rmdir(s.at(d))) }}
	case 4, 5:
		return step{"unlink " + p, []string{p}, func(s *side) string { return said(unix.Unlink(s.at(p))) }}
	case 6, 7, 8, 9:
		return t.rename(p, q, 0)
	case 10:
		return t.rename(p, q, unix.RENAME_NOREPLACE)
	case 11:
		return t.rename(p, q, unix.RENAME_EXCHANGE)
	case 12, 13:
		return step{"link " + p + " " + q, []string{p, q}, func(s *side) string { return said(unix.Link(s.at(p), s.at(q))) }}
	case 14:
		target := strings.Repeat("x/", t.rng.IntN(40)) + "y"
		return step{"symlink " + p, []string{p}, func(s *side) string { return said(unix.Symlink(target, s.at(p))) }}
	}
	return step{"mkfifo " + p, []string{p}, func(s *side) string { return said(unix.Mkfifo(s.at(p), 0o622)) }}
}

func (t *twin) rename(p, q string, flags uint) step {
	return step{fmt.Sprintf("rename %s %s, flags %d", p, q, flags), []string{p, q}, func(s *side) string {
		return said(unix.Renameat2(unix.AT_FDCWD, s.at(p), unix.AT_FDCWD, s.at(q), flags))
	}}
}

func (t *twin) attributes() step {
	p, n := t.path(), t.rng.Uint32()
	if t.rng.IntN(4) == 0 {
		p = t.dirPath()
	}
	name := fmt.Sprintf("user.x%d", n%5)
	value := t.bytes(t.rng.IntN(600))
	switch t.rng.IntN(8) {
	case 0, 1:
		mode := n & 0o7777
		return step{fmt.Sprintf("chmod %s %o", p, mode), []string{p}, func(s *side) string { return said(unix.Chmod(s.at(p), mode)) + " " + modeOf(s.at(p)) }}
	case 2:
		uid, gid := int(n%3)-1, int(n>>8%3)-1
		return step{fmt.Sprintf("chown %s %d %d", p, uid, gid), []string{p}, func(s *side) string { return said(unix.Lchown(s.at(p), uid, gid)) + " " + modeOf(s.at(p)) }}
	case 3:
		ts := unix.Timespec{Sec: int64(int32(n)), Nsec: int64(n % 1e9)}
		return step{fmt.Sprintf("times of %s to %d", p, ts.Sec), nil, func(s *side) string { return said(times(s.at(p), ts, ts)) + " " + modeOf(s.at(p)) }}
	case 4, 5:
		flags := []int{0, 0, unix.XATTR_CREATE, unix.XATTR_REPLACE}[n%4]
		return step{fmt.Sprintf("setxattr %s %s, %d octets, flags %d", p, name, len(value), flags), []string{p}, func(s *side) string {
			return said(unix.Lsetxattr(s.at(p), name, value, flags))
		}}
	case 6:
		return step{"removexattr " + p + " " + name, []string{p}, func(s *side) string { return said(unix.Lremovexattr(s.at(p), name)) }}
	}
	return step{"xattrs of " + p, nil, func(s *side) string {
		list, err := xattrs(s.at(p))
		return said(err, fmt.Sprintf("%q", list))
	}}
}

func modeOf(path string) string {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return said(err)
	}
	return fmt.Sprintf("%o %d %d", st.Mode, st.Uid, st.Gid)
}

// listing reads a directory, and of one file what stat and seek say.
func (t *twin) listing() step {
	d, p, off := t.dirPath(), t.path(), t.offset()
	if t.rng.IntN(3) == 0 {
		return step{fmt.Sprintf("stat and seek %s at %d", p, off), nil, func(s *side) string { return statAndSeek(s.at(p), off) }}
	}
	if t.rng.IntN(3) == 0 {
		d = "."
	}
	return step{"list " + d, nil, func(s *side) string {
		entries, err := os.ReadDir(s.at(d))
		var names []string
		for _, e := range entries {
			names = append(names, e.Name()+e.Type().String())
		}
		sort.Strings(names)
		return said(err, names)
	}}
}

// statAndSeek checks the holes that a file claims against its content; where
// exactly they lie is each file system's own affair.
func statAndSeek(path string, off int64) string {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return said(err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Sprintf("%o", st.Mode)
	}
	return withFile(path, unix.O_RDONLY, 0, func(fd int) string {
		first := int64(-1)
		buf := make([]byte, 256<<10)
		for at := off; at < st.Size && first < 0; {
			n, err := unix.Pread(fd, buf, at)
			if err != nil || n == 0 {
				return said(err, "short")
			}
			for i, b := range buf[:n] {
				if b != 0 {
					first = at + int64(i)
					break
				}
			}
			at += int64(n)
		}
		data, err := unix.Seek(fd, off, unix.SEEK_DATA)
		if first >= 0 && (err != nil || data > first || data < off) {
			return fmt.Sprintf("SEEK_DATA from %d says %d, %v; there is data at %d", off, data, err, first)
		}
		hole, err := unix.Seek(fd, off, unix.SEEK_HOLE)
		if off < st.Size && (err != nil || hole < off || hole > st.Size) || off >= st.Size && err != unix.ENXIO {
			return fmt.Sprintf("SEEK_HOLE from %d of %d says %d, %v", off, st.Size, hole, err)
		}
		return fmt.Sprintf("%o, %d octets, %d links", st.Mode, st.Size, st.Nlink)
	})
}
