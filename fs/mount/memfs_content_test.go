//go:build linux

package mount

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"kist/fs"
)

func (m *memFS) Open(ctx context.Context, ino fs.Ino) error {
	err := m.enter(ctx, "open")
	defer m.mu.Unlock()
	if err != nil {
		return err
	}
	n, err := m.node("open", ino)
	if err != nil {
		return err
	}
	n.opens++
	return nil
}

func (m *memFS) Release(ino fs.Ino) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodes[ino]
	if n == nil || n.opens == 0 {
		m.faults = append(m.faults, fmt.Sprintf("release of inode %d, which is not open", ino))
		return
	}
	n.opens--
	m.gone(n)
}

func (m *memFS) Read(ctx context.Context, ino fs.Ino, p []byte, off uint64) (int, error) {
	err := m.enter(ctx, "read")
	defer m.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n, err := m.node("read", ino)
	if err != nil {
		return 0, err
	}
	return copy(p, n.data[min(off, uint64(len(n.data))):]), nil
}

func (m *memFS) Write(ctx context.Context, ino fs.Ino, p []byte, off uint64, opt fs.WriteOpts) (int, error) {
	err := m.enter(ctx, "write")
	defer m.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n, err := m.node("write", ino)
	if err != nil {
		return 0, err
	}
	if opt.KillPriv {
		n.killPriv()
	}
	if opt.Append {
		off = uint64(len(n.data))
	}
	if end := off + uint64(len(p)); end > uint64(len(n.data)) {
		n.resize(end)
	}
	touch(n)
	return copy(n.data[off:], p), nil
}

func (m *memFS) Flush(ctx context.Context, _ fs.Ino) error {
	defer m.mu.Unlock()
	return m.enter(ctx, "flush")
}

func (m *memFS) Fsync(ctx context.Context, _ fs.Ino) error {
	defer m.mu.Unlock()
	return m.enter(ctx, "fsync")
}

func (m *memFS) Fallocate(ctx context.Context, ino fs.Ino, mode uint32, off, size uint64) error {
	err := m.enter(ctx, "fallocate")
	defer m.mu.Unlock()
	if err != nil {
		return err
	}
	n, err := m.node("fallocate", ino)
	if err != nil {
		return err
	}
	if mode&unix.FALLOC_FL_PUNCH_HOLE != 0 {
		end := min(off+size, uint64(len(n.data)))
		clear(n.data[min(off, end):end])
	} else if mode&unix.FALLOC_FL_KEEP_SIZE == 0 && off+size > uint64(len(n.data)) {
		n.resize(off + size)
	}
	return nil
}

func (m *memFS) Seek(ctx context.Context, ino fs.Ino, off uint64, whence uint32) (uint64, error) {
	err := m.enter(ctx, "seek")
	defer m.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n, err := m.node("seek", ino)
	switch {
	case err != nil:
		return 0, err
	case off >= n.attr.Size:
		return 0, syscall.ENXIO
	case whence == unix.SEEK_HOLE:
		return n.attr.Size, nil
	default:
		return off, nil
	}
}

func (m *memFS) ReadDir(ctx context.Context, dir fs.Ino, from string, limit int) ([]fs.DirEnt, error) {
	err := m.enter(ctx, "readdir")
	defer m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	n, err := m.node("readdir", dir)
	if err != nil {
		return nil, err
	}
	if n.sorted == nil {
		n.sorted = slices.Sorted(maps.Keys(n.entries))
	}
	i, found := slices.BinarySearch(n.sorted, from)
	if found {
		i++
	}
	var ents []fs.DirEnt
	for _, name := range n.sorted[i:min(i+limit, len(n.sorted))] {
		ents = append(ents, fs.DirEnt{Name: name, Attr: m.nodes[n.entries[name]].attr})
	}
	return ents, nil
}

func (m *memFS) Parent(ino fs.Ino) fs.Ino {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.nodes[ino].parent
}

func (m *memFS) State(ctx context.Context, ino fs.Ino) (string, error) {
	err := m.enter(ctx, "state")
	defer m.mu.Unlock()
	if err == nil {
		_, err = m.node("state", ino)
	}
	return fs.InMemory, err
}

func (m *memFS) Getxattr(ctx context.Context, ino fs.Ino, name string) ([]byte, error) {
	err := m.enter(ctx, "getxattr")
	defer m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	n, err := m.node("getxattr", ino)
	if err != nil {
		return nil, err
	}
	if v, ok := n.xattrs[name]; ok {
		return v, nil
	}
	return nil, unix.ENODATA
}

func (m *memFS) Setxattr(ctx context.Context, ino fs.Ino, name string, value []byte, flags uint32) error {
	err := m.enter(ctx, "setxattr")
	defer m.mu.Unlock()
	if err != nil {
		return err
	}
	n, err := m.node("setxattr", ino)
	if err != nil {
		return err
	}
	_, there := n.xattrs[name]
	if there && flags&unix.XATTR_CREATE != 0 {
		return syscall.EEXIST
	}
	if !there && flags&unix.XATTR_REPLACE != 0 {
		return unix.ENODATA
	}
	n.xattrs[name] = slices.Clone(value)
	return nil
}

func (m *memFS) Listxattr(ctx context.Context, ino fs.Ino) ([]string, error) {
	err := m.enter(ctx, "listxattr")
	defer m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	n, err := m.node("listxattr", ino)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(n.xattrs)), nil
}

func (m *memFS) Removexattr(ctx context.Context, ino fs.Ino, name string) error {
	err := m.enter(ctx, "removexattr")
	defer m.mu.Unlock()
	if err != nil {
		return err
	}
	n, err := m.node("removexattr", ino)
	if err != nil {
		return err
	}
	if _, ok := n.xattrs[name]; !ok {
		return unix.ENODATA
	}
	delete(n.xattrs, name)
	return nil
}

func (m *memFS) Statfs() fs.Statfs {
	return fs.Statfs{Bsize: 4096, Blocks: 1 << 30, Bfree: 1 << 29, Bavail: 1 << 28, Files: 1 << 20, Ffree: 1 << 19, Namelen: 255}
}

func (m *memFS) SetNotifier(n fs.Notifier) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.news = n
}
