package fs

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
)

// model is the simplest file system that can be right. A state of it never changes once
// there is a newer one: what is changed is copied first.
type model struct {
	inodes map[int]*modelInode
	next   int
	text   string // dump's, kept
}

type modelInode struct {
	dir   map[string]int
	data  []byte
	link  string
	mode  uint32
	nlink int
	xattr map[string]string
	text  string // describe's, kept
}

func newModel() *model {
	return &model{inodes: map[int]*modelInode{1: {dir: map[string]int{}, mode: 0o755}}, next: 2}
}

func (m *model) clone() *model { return &model{inodes: maps.Clone(m.inodes), next: m.next} }

// edit returns an inode that may be changed.
func (m *model) edit(id int) *modelInode {
	n := *m.inodes[id]
	n.text, m.text = "", ""
	if n.dir != nil {
		n.dir = maps.Clone(n.dir)
	}
	m.inodes[id] = &n
	return &n
}

func (m *model) set(dir int, name string, id int) {
	d := m.edit(dir)
	if id == 0 {
		delete(d.dir, name)
		return
	}
	d.dir[name] = id
}

func (m *model) add(dir int, name string, n *modelInode) {
	m.inodes[m.next] = n
	m.set(dir, name, m.next)
	m.next++
}

func (m *model) nlink(id, by int) {
	if n := m.edit(id); n.dir != nil || n.nlink+by == 0 {
		delete(m.inodes, id)
	} else {
		n.nlink += by
	}
}

func (n *modelInode) write(off int, p []byte) {
	b := make([]byte, max(len(n.data), off+len(p)))
	copy(b, n.data)
	copy(b[off:], p)
	n.data = b
}

func (n *modelInode) resize(size int) {
	b := make([]byte, size)
	copy(b, n.data)
	n.data = b
}

func (n *modelInode) punch(off, size int) {
	n.data = slices.Clone(n.data)
	clear(n.data[off:min(len(n.data), off+size)])
}

// below says whether a directory is id or inside it.
func (m *model) below(dir, id int) bool {
	if dir == id {
		return true
	}
	for _, c := range m.inodes[id].dir {
		if m.inodes[c].dir != nil && m.below(dir, c) {
			return true
		}
	}
	return false
}

// dump writes a tree as text, one line an entry.
func (m *model) dump() string {
	if m.text == "" {
		var b strings.Builder
		m.walk(&b, "", 1)
		m.text = b.String()
	}
	return m.text
}

func (m *model) walk(b *strings.Builder, path string, id int) {
	n := m.inodes[id]
	if n.text == "" {
		n.text = describe(n.dir != nil, n.mode, n.nlink, n.data, n.link, n.xattr)
	}
	fmt.Fprintf(b, "%s %s\n", path, n.text)
	for _, name := range slices.Sorted(maps.Keys(n.dir)) {
		m.walk(b, path+"/"+name, n.dir[name])
	}
}

func describe(dir bool, mode uint32, nlink int, data []byte, link string, xattr map[string]string) string {
	if dir {
		return fmt.Sprintf("d %o %v", mode, xattr)
	}
	if link != "" {
		return "l " + link
	}
	return fmt.Sprintf("f %o n%d %d %x %v", mode, nlink, len(data), sha256.Sum256(data), xattr)
}

// dump reads the whole tree through the vault.
func (m *machine) dump() (string, error) {
	ctx := context.Background()
	var b strings.Builder
	var walk func(path string, a Attr) error
	walk = func(path string, a Attr) error {
		isDir := a.Mode&syscall.S_IFMT == syscall.S_IFDIR
		var data []byte
		link := ""
		switch a.Mode & syscall.S_IFMT {
		case syscall.S_IFREG:
			data = make([]byte, a.Size)
			n, err := m.v.Read(ctx, a.Ino, data, 0)
			if err != nil || n != len(data) {
				return fmt.Errorf("%s: read %d of %d: %w", path, n, len(data), err)
			}
		case syscall.S_IFLNK:
			var err error
			if link, err = m.v.Readlink(ctx, a.Ino); err != nil {
				return err
			}
		}
		xattr := map[string]string{}
		names, err := m.v.Listxattr(ctx, a.Ino)
		if err != nil {
			return err
		}
		for _, n := range names {
			v, err := m.v.Getxattr(ctx, a.Ino, n)
			if err != nil {
				return err
			}
			xattr[n] = string(v)
		}
		fmt.Fprintf(&b, "%s %s\n", path, describe(isDir, a.Mode&07777, int(a.Nlink), data, link, xattr))
		if !isDir {
			return nil
		}
		ents, err := m.v.ReadDir(ctx, a.Ino, "", 1<<20)
		if err != nil {
			return err
		}
		for _, e := range ents {
			c, err := m.v.Lookup(ctx, a.Ino, e.Name)
			if err != nil {
				return err
			}
			c.Blocks, e.Attr.Blocks = 0, 0 // an estimate until the extents are in memory
			if c != e.Attr {
				return fmt.Errorf("%s/%s: lookup and listing differ:\n%+v\n%+v", path, e.Name, c, e.Attr)
			}
			if err := walk(path+"/"+e.Name, c); err != nil {
				return err
			}
			m.v.Forget(c.Ino, 1)
		}
		return nil
	}
	root, err := m.v.Getattr(ctx, RootIno)
	if err != nil {
		return "", err
	}
	err = walk("", root)
	return b.String(), err
}
