//go:build linux

package mount

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kist/fs"
	"kist/fs/tree"
)

// memFS is an FS in memory that counts what it is asked and accuses its caller
// of references that it never gave.
type memFS struct {
	mu     sync.Mutex
	nodes  map[fs.Ino]*memNode
	next   fs.Ino
	calls  map[string]int
	faults []string
	news   fs.Notifier

	// hook, if set, runs before each call and may fail it, wait or panic.
	hook func(ctx context.Context, op string) error
}

type memNode struct {
	attr    fs.Attr
	data    []byte
	target  string
	entries map[string]fs.Ino
	sorted  []string // names of entries; nil: not known
	parent  fs.Ino
	xattrs  map[string][]byte
	lookups uint64
	opens   int
}

func newMemFS() *memFS {
	m := &memFS{nodes: map[fs.Ino]*memNode{}, next: fs.RootIno, calls: map[string]int{}}
	root := m.make(fs.Cred{}, syscall.S_IFDIR|0o755, 0)
	root.parent, root.attr.Nlink = fs.RootIno, 2
	return m
}

func now() tree.Time {
	t := time.Now()
	return tree.Time{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())}
}

func (m *memFS) make(c fs.Cred, mode, rdev uint32) *memNode {
	t := now()
	n := &memNode{attr: fs.Attr{Ino: m.next, Mode: mode, Uid: c.Uid, Gid: c.Gid, Rdev: rdev, Atime: t, Mtime: t, Ctime: t}, xattrs: map[string][]byte{}}
	if mode&syscall.S_IFMT == syscall.S_IFDIR {
		n.entries = map[string]fs.Ino{}
	}
	m.nodes[m.next] = n
	m.next++
	return n
}

// enter counts a call, runs the hook and takes the lock.
func (m *memFS) enter(ctx context.Context, op string) error {
	m.mu.Lock()
	m.calls[op]++
	hook := m.hook
	if hook == nil {
		return nil
	}
	m.mu.Unlock()
	err := hook(ctx, op)
	m.mu.Lock()
	return err
}

func (m *memFS) node(op string, ino fs.Ino) (*memNode, error) {
	n := m.nodes[ino]
	if n == nil || n.lookups == 0 && ino != fs.RootIno {
		m.faults = append(m.faults, fmt.Sprintf("%s of inode %d, to which the kernel has no reference", op, ino))
		return nil, syscall.ESTALE
	}
	return n, nil
}

func (m *memFS) child(op string, parent fs.Ino, name string) (dir, n *memNode, err error) {
	dir, err = m.node(op, parent)
	if err != nil {
		return nil, nil, err
	}
	if dir.entries == nil {
		return nil, nil, syscall.ENOTDIR
	}
	return dir, m.nodes[dir.entries[name]], nil
}

// gone frees a node that nothing refers to.
func (m *memFS) gone(n *memNode) {
	if n.lookups == 0 && n.opens == 0 && n.attr.Nlink == 0 {
		delete(m.nodes, n.attr.Ino)
	}
}

func (m *memFS) link(dir *memNode, name string, n *memNode) {
	dir.entries[name], dir.sorted = n.attr.Ino, nil
	n.attr.Nlink++
	if n.entries != nil {
		n.parent = dir.attr.Ino
		n.attr.Nlink = 2
		dir.attr.Nlink++
	}
	touch(dir)
	n.attr.Ctime = now()
}

func (m *memFS) unlink(dir *memNode, name string, n *memNode) {
	delete(dir.entries, name)
	dir.sorted = nil
	n.attr.Nlink--
	if n.entries != nil {
		n.attr.Nlink = 0
		dir.attr.Nlink--
	}
	touch(dir)
	n.attr.Ctime = now()
	m.gone(n)
}

func touch(n *memNode) { n.attr.Mtime, n.attr.Ctime = now(), now() }

func (m *memFS) Lookup(ctx context.Context, parent fs.Ino, name string) (fs.Attr, error) {
	err := m.enter(ctx, "lookup")
	defer m.mu.Unlock()
	if err != nil {
		return fs.Attr{}, err
	}
	_, n, err := m.child("lookup", parent, name)
	if err != nil {
		return fs.Attr{}, err
	}
	if n == nil {
		return fs.Attr{}, syscall.ENOENT
	}
	n.lookups++
	return n.attr, nil
}

func (m *memFS) Ref(ino, _ fs.Ino, _ string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := m.nodes[ino]; n != nil {
		n.lookups++
	}
}

func (m *memFS) Forget(ino fs.Ino, k uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodes[ino]
	if ino == fs.RootIno {
		return
	}
	if n == nil || n.lookups < k {
		m.faults = append(m.faults, fmt.Sprintf("forget of %d references to inode %d that were not given", k, ino))
		return
	}
	n.lookups -= k
	m.gone(n)
}

func (m *memFS) Getattr(ctx context.Context, ino fs.Ino) (fs.Attr, error) {
	err := m.enter(ctx, "getattr")
	defer m.mu.Unlock()
	if err != nil {
		return fs.Attr{}, err
	}
	n, err := m.node("getattr", ino)
	if err != nil {
		return fs.Attr{}, err
	}
	return n.attr, nil
}

func (n *memNode) killPriv() {
	if n.entries != nil {
		return
	}
	n.attr.Mode &^= syscall.S_ISUID
	if n.attr.Mode&0o010 != 0 {
		n.attr.Mode &^= syscall.S_ISGID
	}
	delete(n.xattrs, "security.capability")
}

func (n *memNode) resize(size uint64) {
	if size <= uint64(len(n.data)) {
		n.data = n.data[:size]
	} else {
		n.data = append(n.data, make([]byte, size-uint64(len(n.data)))...)
	}
	n.attr.Size, n.attr.Blocks = size, (size+511)/512
	touch(n)
}

func (m *memFS) Setattr(ctx context.Context, ino fs.Ino, s fs.SetAttr) (fs.Attr, error) {
	err := m.enter(ctx, "setattr")
	defer m.mu.Unlock()
	if err != nil {
		return fs.Attr{}, err
	}
	n, err := m.node("setattr", ino)
	if err != nil {
		return fs.Attr{}, err
	}
	if s.KillPriv {
		n.killPriv()
	}
	for mask, set := range map[uint32]func(){
		fs.SetMode:  func() { n.attr.Mode = n.attr.Mode&syscall.S_IFMT | s.Mode },
		fs.SetUid:   func() { n.attr.Uid = s.Uid },
		fs.SetGid:   func() { n.attr.Gid = s.Gid },
		fs.SetAtime: func() { n.attr.Atime = s.Atime },
	} {
		if s.Mask&mask != 0 {
			set()
		}
	}
	if s.Mask&fs.SetSize != 0 {
		n.resize(s.Size)
	}
	n.attr.Ctime = now()
	if s.Mask&fs.SetMtime != 0 {
		n.attr.Mtime = s.Mtime
	}
	return n.attr, nil
}

func (m *memFS) add(op string, c fs.Cred, parent fs.Ino, name string, mode, rdev uint32) (*memNode, error) {
	dir, old, err := m.child(op, parent, name)
	switch {
	case err != nil:
		return nil, err
	case old != nil:
		return nil, syscall.EEXIST
	case dir.attr.Nlink == 0:
		return nil, syscall.ENOENT
	}
	if dir.attr.Mode&syscall.S_ISGID != 0 {
		c.Gid = dir.attr.Gid
		if mode&syscall.S_IFMT == syscall.S_IFDIR {
			mode |= syscall.S_ISGID
		}
	}
	n := m.make(c, mode, rdev)
	m.link(dir, name, n)
	n.lookups++
	return n, nil
}

func (m *memFS) Create(ctx context.Context, c fs.Cred, parent fs.Ino, name string, mode, rdev uint32) (fs.Attr, error) {
	err := m.enter(ctx, "create")
	defer m.mu.Unlock()
	if err != nil {
		return fs.Attr{}, err
	}
	n, err := m.add("create", c, parent, name, mode, rdev)
	if err != nil {
		return fs.Attr{}, err
	}
	return n.attr, nil
}

func (m *memFS) Tmpfile(ctx context.Context, c fs.Cred, _ fs.Ino, mode uint32) (fs.Attr, error) {
	err := m.enter(ctx, "tmpfile")
	defer m.mu.Unlock()
	if err != nil {
		return fs.Attr{}, err
	}
	n := m.make(c, mode, 0)
	n.lookups++
	return n.attr, nil
}

func (m *memFS) Symlink(ctx context.Context, c fs.Cred, parent fs.Ino, name, target string) (fs.Attr, error) {
	err := m.enter(ctx, "symlink")
	defer m.mu.Unlock()
	if err != nil {
		return fs.Attr{}, err
	}
	n, err := m.add("symlink", c, parent, name, syscall.S_IFLNK|0o777, 0)
	if err != nil {
		return fs.Attr{}, err
	}
	n.target, n.attr.Size = target, uint64(len(target))
	return n.attr, nil
}

func (m *memFS) Readlink(ctx context.Context, ino fs.Ino) (string, error) {
	err := m.enter(ctx, "readlink")
	defer m.mu.Unlock()
	if err != nil {
		return "", err
	}
	n, err := m.node("readlink", ino)
	if err != nil {
		return "", err
	}
	return n.target, nil
}

func (m *memFS) Link(ctx context.Context, ino, parent fs.Ino, name string) (fs.Attr, error) {
	err := m.enter(ctx, "link")
	defer m.mu.Unlock()
	if err != nil {
		return fs.Attr{}, err
	}
	n, err := m.node("link", ino)
	if err != nil {
		return fs.Attr{}, err
	}
	dir, old, err := m.child("link", parent, name)
	if err == nil && old != nil {
		err = syscall.EEXIST
	}
	if err != nil {
		return fs.Attr{}, err
	}
	m.link(dir, name, n)
	n.lookups++
	return n.attr, nil
}

func (m *memFS) Unlink(ctx context.Context, parent fs.Ino, name string) error {
	return m.remove(ctx, "unlink", parent, name)
}

func (m *memFS) Rmdir(ctx context.Context, parent fs.Ino, name string) error {
	return m.remove(ctx, "rmdir", parent, name)
}

func (m *memFS) remove(ctx context.Context, op string, parent fs.Ino, name string) error {
	err := m.enter(ctx, op)
	defer m.mu.Unlock()
	if err != nil {
		return err
	}
	dir, n, err := m.child(op, parent, name)
	switch {
	case err != nil:
		return err
	case n == nil:
		return syscall.ENOENT
	case len(n.entries) > 0:
		return syscall.ENOTEMPTY
	}
	m.unlink(dir, name, n)
	return nil
}

func (m *memFS) Rename(ctx context.Context, p1 fs.Ino, n1 string, p2 fs.Ino, n2 string, flags uint32) error {
	err := m.enter(ctx, "rename")
	defer m.mu.Unlock()
	if err != nil {
		return err
	}
	d1, a, err1 := m.child("rename", p1, n1)
	d2, b, err2 := m.child("rename", p2, n2)
	switch {
	case err1 != nil || err2 != nil:
		return errors.Join(err1, err2)
	case a == nil || b == nil && flags&unix.RENAME_EXCHANGE != 0:
		return syscall.ENOENT
	case b != nil && flags&unix.RENAME_NOREPLACE != 0:
		return syscall.EEXIST
	case flags&unix.RENAME_EXCHANGE != 0:
		d1.entries[n1], d2.entries[n2] = b.attr.Ino, a.attr.Ino
		return nil
	case b != nil && len(b.entries) > 0:
		return syscall.ENOTEMPTY
	}
	if b != nil {
		m.unlink(d2, n2, b)
	}
	a.attr.Nlink++ // not to be freed between
	m.unlink(d1, n1, a)
	m.link(d2, n2, a)
	if a.entries == nil {
		a.attr.Nlink--
	}
	return nil
}

// count returns how often op was called since the last count.
func (m *memFS) count(op string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.calls[op]
	m.calls[op] = 0
	return n
}

func (m *memFS) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.calls)
}

func (m *memFS) intercept(hook func(ctx context.Context, op string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hook = hook
}

// put makes or changes a file in the root as another machine would, and says so.
func (m *memFS) put(name, content string) {
	m.mu.Lock()
	root := m.nodes[fs.RootIno]
	n := m.nodes[root.entries[name]]
	made := n == nil
	if made {
		n = m.make(fs.Cred{}, syscall.S_IFREG|0o644, 0)
		m.link(root, name, n)
	}
	n.data = []byte(content)
	n.resize(uint64(len(content)))
	m.mu.Unlock()
	if made {
		m.news.Entry(fs.RootIno, name)
	} else {
		m.news.Content(n.attr.Ino)
	}
}

// take removes a file from the root as another machine would, and says so.
func (m *memFS) take(name string) {
	m.mu.Lock()
	root := m.nodes[fs.RootIno]
	m.unlink(root, name, m.nodes[root.entries[name]])
	m.mu.Unlock()
	m.news.Entry(fs.RootIno, name)
}

var _ FS = (*memFS)(nil)
