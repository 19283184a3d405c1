package fs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"
)

// operation does one random thing to the vault and to the model; both must agree on
// whether it can be done.
func (s *sim) operation() {
	ctx := context.Background()
	s.d.clock.add(time.Duration(s.rnd.IntN(1000)) * time.Millisecond)
	dir, dirPath := s.someDir()
	name := string(rune('a' + s.rnd.IntN(6)))
	at, ok := s.look(dirPath...)
	if !ok {
		return
	}
	id, taken := s.model.inodes[dir].dir[name]
	path := strings.Join(append(dirPath, name), "/")
	var err error
	switch s.rnd.IntN(14) {
	case 0, 1:
		_, err = s.v.Create(ctx, Cred{}, at, name, syscall.S_IFREG|0o644, 0)
		if s.agree("create "+path, err, taken, syscall.EEXIST) {
			s.model.add(dir, name, &modelInode{mode: 0o644, nlink: 1})
		}
	case 2:
		_, err = s.v.Create(ctx, Cred{}, at, name, syscall.S_IFDIR|0o755, 0)
		if s.agree("mkdir "+path, err, taken, syscall.EEXIST) {
			s.model.add(dir, name, &modelInode{mode: 0o755, dir: map[string]int{}})
		}
	case 3:
		_, err = s.v.Symlink(ctx, Cred{}, at, name, "to/"+name)
		if s.agree("symlink "+path, err, taken, syscall.EEXIST) {
			s.model.add(dir, name, &modelInode{mode: 0o777, nlink: 1, link: "to/" + name})
		}
	case 4, 5, 6, 7, 8:
		if taken {
			s.edit(append(dirPath, name), path, id)
		}
	case 9:
		if taken {
			s.remove(at, dir, name, path, id)
		}
	case 10, 11:
		if taken {
			s.rename(at, dir, name, path, id)
		}
	case 12:
		if taken && s.model.inodes[id].dir == nil {
			s.link(append(dirPath, name), path, id)
		}
	case 13:
		if taken {
			s.setxattr(append(dirPath, name), path, id)
		}
	}
	s.push()
}

// agree compares an outcome with what the model expects, and says whether it was done.
func (s *sim) agree(what string, err error, refused bool, want error) bool {
	s.note("%s: %v", what, err)
	if s.excused(err) {
		return false
	}
	if refused != (err != nil) || refused && !errors.Is(err, want) {
		s.d.t.Fatalf("%s: %v, expected refused=%v with %v", what, err, refused, want)
	}
	return !refused
}

func (s *sim) someDir() (int, []string) {
	id, path := 1, []string{}
	for s.rnd.IntN(3) > 0 {
		names := []string{}
		for n, c := range s.model.inodes[id].dir {
			if s.model.inodes[c].dir != nil {
				names = append(names, n)
			}
		}
		if len(names) == 0 {
			break
		}
		slices.Sort(names)
		n := names[s.rnd.IntN(len(names))]
		id, path = s.model.inodes[id].dir[n], append(path, n)
	}
	return id, path
}

// look walks a path; only a fault may be in its way.
func (s *sim) look(path ...string) (Ino, bool) {
	ino, err := s.at(path...)
	if err != nil && !s.excused(err) {
		s.d.t.Fatalf("%v: %v", path, err)
	}
	return ino, err == nil
}

// bytes makes content; sizes are chosen around the limits of the format.
func (s *sim) bytes() []byte {
	sizes := []int{1, 7, 512, 513, 4096, 70_000, chunkSize - 1, chunkSize, chunkSize + 3}
	if s.small { // many records that fill a segment of the journal soon
		sizes = []int{1, 513, 4096, 70_000, 70_000}
	}
	n := sizes[s.rnd.IntN(len(sizes))]
	if n > 4096 && !s.small && s.rnd.IntN(6) > 0 {
		n = s.rnd.IntN(2000) + 1
	}
	b := make([]byte, n)
	v := byte(s.rnd.Uint32())
	for i := range b {
		b[i] = v + byte(i>>3)
	}
	return b
}

func (s *sim) edit(at []string, path string, id int) {
	n := s.model.inodes[id]
	if n.dir != nil || n.link != "" {
		return
	}
	ino, ok := s.look(at...)
	if !ok {
		return
	}
	ctx := context.Background()
	switch s.rnd.IntN(6) {
	case 0, 1:
		s.write(ino, path, id, s.rnd.IntN(len(n.data)+1), WriteOpts{})
	case 2:
		s.write(ino, path, id, len(n.data), WriteOpts{Append: true})
	case 3:
		size := s.rnd.IntN(2*len(n.data) + 10)
		_, err := s.v.Setattr(ctx, ino, SetAttr{Mask: SetSize, Size: uint64(size)})
		if s.agree(fmt.Sprintf("truncate %s to %d", path, size), err, false, nil) {
			s.model.edit(id).resize(size)
		}
	case 4:
		off, size := s.rnd.IntN(len(n.data)+1), s.rnd.IntN(5000)+1
		err := s.v.Fallocate(ctx, ino, fallocPunchHole|fallocKeepSize, uint64(off), uint64(size))
		if s.agree(fmt.Sprintf("punch %s at %d: %d", path, off, size), err, false, nil) {
			s.model.edit(id).punch(off, size)
		}
	case 5:
		mode := uint32(s.rnd.IntN(0o1000))
		_, err := s.v.Setattr(ctx, ino, SetAttr{Mask: SetMode, Mode: mode})
		if s.agree("chmod "+path, err, false, nil) {
			s.model.edit(id).mode = mode
		}
	}
}

// write writes; a crash may come between two records of one write, and on a full disk
// the first may be all.
func (s *sim) write(ino Ino, path string, id, off int, opt WriteOpts) {
	p := s.bytes()
	done, err := s.v.Write(context.Background(), ino, p, uint64(off), opt)
	if !s.agree(fmt.Sprintf("write %s at %d: %d of %d", path, off, done, len(p)), err, false, nil) {
		return
	}
	if done < len(p) && !s.small && !s.armed {
		s.d.t.Fatalf("wrote %d of %d", done, len(p))
	}
	for part := range slices.Chunk(p[:done], chunkSize) {
		s.model.edit(id).write(off, part)
		off += len(part)
		s.push()
	}
}

func (s *sim) setxattr(at []string, path string, id int) {
	ino, ok := s.look(at...)
	if !ok {
		return
	}
	value := string(s.bytes()[:1])
	err := s.v.Setxattr(context.Background(), ino, "user.x", []byte(value), 0)
	if s.agree("setxattr "+path, err, false, nil) {
		n := s.model.edit(id)
		if n.xattr = maps.Clone(n.xattr); n.xattr == nil {
			n.xattr = map[string]string{}
		}
		n.xattr["user.x"] = value
	}
}

func (s *sim) remove(at Ino, dir int, name, path string, id int) {
	n := s.model.inodes[id]
	var err error
	if n.dir != nil {
		err = s.v.Rmdir(context.Background(), at, name)
	} else {
		err = s.v.Unlink(context.Background(), at, name)
	}
	if s.agree("remove "+path, err, len(n.dir) > 0, syscall.ENOTEMPTY) {
		s.model.set(dir, name, 0)
		s.model.nlink(id, -1)
	}
}

func (s *sim) link(at []string, path string, id int) {
	to, toPath := s.someDir()
	toIno, ok := s.look(toPath...)
	ino, there := s.look(at...)
	if !ok || !there {
		return
	}
	as := string(rune('a' + s.rnd.IntN(6)))
	_, taken := s.model.inodes[to].dir[as]
	_, err := s.v.Link(context.Background(), ino, toIno, as)
	if s.agree("link "+path+" "+strings.Join(append(toPath, as), "/"), err, taken, syscall.EEXIST) {
		s.model.set(to, as, id)
		s.model.nlink(id, 1)
	}
}

func (s *sim) rename(at Ino, dir int, name, path string, id int) {
	to, toPath := s.someDir()
	toIno, ok := s.look(toPath...)
	if !ok {
		return
	}
	as := string(rune('a' + s.rnd.IntN(6)))
	old, taken := s.model.inodes[to].dir[as]
	n, over := s.model.inodes[id], s.model.inodes[old]
	var want error
	switch {
	case taken && old == id:
	case n.dir != nil && s.model.below(to, id):
		want = syscall.EINVAL
	case taken && over.dir != nil && n.dir == nil:
		want = syscall.EISDIR
	case taken && over.dir == nil && n.dir != nil:
		want = syscall.ENOTDIR
	case taken && len(over.dir) > 0:
		want = syscall.ENOTEMPTY
	}
	err := s.v.Rename(context.Background(), at, name, toIno, as, 0)
	if want != nil && err != nil {
		want = err // which of several reasons comes first is not the matter here
	}
	if !s.agree("rename "+path+" "+strings.Join(append(toPath, as), "/"), err, want != nil, want) || old == id {
		return
	}
	s.model.set(dir, name, 0)
	s.model.set(to, as, id)
	if taken {
		s.model.nlink(old, -1)
	}
}
