package check

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"kist/fs/log"
	"kist/fs/tree"
)

// rootIno is the number of a vault's root directory.
const rootIno = 1

// books are kept over the head's tree: what no single page shows.
type books struct {
	numbers    map[uint64]uint64 // inode numbers met: a bit each, by number / 64
	links      map[uint64]*links // records of the inode table
	high       map[uint64]uint32 // by device number: the highest counter met
	tableWhole bool              // no page of the table was missing
	dirsWhole  bool
}

type links struct {
	typ           tree.Type
	claims, names uint32
}

// directory is one that waits to be walked.
type directory struct {
	dir  tree.Dir
	path string // only if names are asked for
}

// walk is a walk through the head's tree.
type walk struct {
	*checker
	books
	stack []directory
}

// tree walks the head's tree.
func (c *checker) tree(ctx context.Context) error {
	c.begin(inHead)
	head := c.log.Head()
	st, err := tree.ParseState(head.Root)
	if err != nil {
		c.problem(KindTree, atSlot(head.Seq), "the state in the commit "+reason(err))
		return nil
	}
	if !c.cfg.ReadData || c.cut {
		c.report.Trees++ // history has not counted it
	}
	w := &walk{checker: c, books: books{numbers: map[uint64]uint64{}, links: map[uint64]*links{}, high: map[uint64]uint32{}}}
	if err := w.table(ctx, st.Table); err != nil {
		return err
	}
	if err := w.directories(ctx, st.Root); err != nil {
		return err
	}
	w.balance()
	w.devices(head)
	w.earlier()
	return nil
}

// load fetches a page that only one parent may have: its entries would be there
// twice. own are the pages of the same map, which are fetched again once dropped.
func (w *walk) load(ctx context.Context) func(*tree.Miss) error {
	own := map[[32]byte]struct{}{}
	return func(m *tree.Miss) error {
		fp := m.Ptr.Fingerprint
		if _, mine := own[fp]; !mine && w.pages.seen[fp]&inHead != 0 && w.pages.seen[fp]&isBad == 0 {
			w.problem(KindTree, fmt.Sprintf("%s+%d", atPack(m.Ptr.Pack), m.Ptr.Offset), "a page that stands in two places of the tree")
			return errPage
		}
		own[fp] = struct{}{}
		return w.page(ctx, m)
	}
}

func (w *walk) table(ctx context.Context, t tree.Table) error {
	whole, err := scan(t, w.load(ctx), dropTable(t), func(_ string, in *tree.Inode) error {
		w.links[in.Ino] = &links{typ: in.Type, claims: in.Nlink}
		w.number(in.Ino, "")
		return w.inode(ctx, in, "")
	})
	w.tableWhole = whole
	return err
}

func (w *walk) directories(ctx context.Context, root *tree.Inode) error {
	w.dirsWhole = true
	w.report.Directories++
	if root.Ino != rootIno {
		w.problem(KindInode, atInode(root.Ino), fmt.Sprintf("the root directory has not the number %d", rootIno))
	}
	w.number(root.Ino, "/")
	w.stack = append(w.stack, directory{root.Dir, ""})
	for len(w.stack) > 0 {
		d := w.stack[len(w.stack)-1]
		w.stack = w.stack[:len(w.stack)-1]
		first := len(w.stack)
		whole, err := scan(d.dir, w.load(ctx), dropDir(d.dir), func(name string, e tree.Entry) error {
			return w.entry(ctx, w.path(d.path, name), e)
		})
		if err != nil {
			return err
		}
		w.dirsWhole = w.dirsWhole && whole
		slices.Reverse(w.stack[first:]) // in the order in which they stand in their packs
	}
	return nil
}

// path names an entry, if names are asked for. Of a very deep tree it keeps the end.
func (w *walk) path(dir, name string) string {
	if !w.cfg.Names {
		return ""
	}
	const most = 4096
	p := dir + "/" + name
	if len(p) > most {
		p = "…" + p[len(p)-most:]
	}
	return p
}

func (w *walk) entry(ctx context.Context, path string, e tree.Entry) error {
	if e.Linked {
		w.name(e, path)
		return nil
	}
	w.step("%d directories, %d files", w.report.Directories, w.report.Files)
	again := w.number(e.Ino, path)
	if e.Type != tree.TypeDir {
		return w.inode(ctx, e.Inode, path)
	}
	w.report.Directories++
	if !again && !e.Inode.Dir.Empty() {
		w.stack = append(w.stack, directory{e.Inode.Dir, path})
	}
	return nil
}

// inode counts what is not a directory, and looks at its content.
func (w *walk) inode(ctx context.Context, in *tree.Inode, path string) error {
	switch in.Type {
	case tree.TypeFile:
		w.report.Files++
		w.report.Bytes += in.Size
	case tree.TypeSymlink:
		w.report.Symlinks++
	default:
		w.report.Specials++
	}
	return w.content(ctx, in, path)
}

// number enters an inode number; true: it was there already.
func (w *walk) number(ino uint64, path string) (again bool) {
	word, bit := ino>>6, uint64(1)<<(ino&63)
	if w.numbers[word]&bit != 0 {
		w.found(KindInode, ino, path, "stands in two places of the tree")
		return true
	}
	w.numbers[word] |= bit
	device, counter := ino>>32, uint32(ino)
	if device == 0 && ino != rootIno {
		w.found(KindInode, ino, path, "a number that no device gives")
	}
	w.high[device] = max(w.high[device], counter)
	return false
}

// found tells of an inode. What history finds waits until it is known whether the
// head has it too.
func (c *checker) found(kind Kind, ino uint64, path, what string) {
	p := Problem{Kind: kind, Where: atInode(ino), What: what, Path: path}
	if c.pages.phase == inHistory {
		if _, ok := c.past[ino]; ok || len(c.past) < maxListed {
			c.past[ino] = p
		}
		return
	}
	delete(c.past, ino)
	c.report.problem(p)
}

// earlier tells of what only earlier commits have.
func (c *checker) earlier() {
	for _, ino := range slices.Sorted(maps.Keys(c.past)) {
		p := c.past[ino]
		p.What = "in an earlier commit: " + p.What
		c.report.problem(p)
	}
}

// name enters a name of a record in the inode table.
func (w *walk) name(e tree.Entry, path string) {
	l := w.links[e.Ino]
	switch {
	case l == nil && w.tableWhole:
		w.found(KindInode, e.Ino, path, "a name refers to a record that the inode table does not have")
	case l == nil:
	case l.typ != e.Type:
		w.found(KindInode, e.Ino, path, "a name gives another type than the record")
		l.names++
	default:
		l.names++
	}
}

// balance compares link counts with names. Where directories could not be read,
// too few names are no wonder.
func (w *walk) balance() {
	for _, ino := range slices.Sorted(maps.Keys(w.links)) {
		l := w.links[ino]
		switch {
		case l.names == l.claims || l.names < l.claims && !w.dirsWhole:
		case l.names == 0:
			w.found(KindInode, ino, "", "a record in the inode table without a name")
		default:
			w.found(KindInode, ino, "", fmt.Sprintf("%d names, and the record says %d", l.names, l.claims))
		}
	}
}

// devices holds inode numbers against the device table, whose own order and
// uniqueness the log has judged.
func (w *walk) devices(head *log.Commit) {
	rows := map[uint64]uint32{}
	for _, r := range head.Devices {
		rows[uint64(r.Number)] = r.HighIno
	}
	for _, device := range slices.Sorted(maps.Keys(w.high)) {
		if device == 0 {
			continue
		}
		mark, ok := rows[device]
		where := fmt.Sprintf("device %d", device)
		if !ok {
			w.problem(KindDevice, where, "inodes have its number, but the device table does not")
		} else if w.high[device] > mark {
			w.problem(KindDevice, where, fmt.Sprintf("inode %d lies above its mark: the number would be given twice", device<<32|uint64(w.high[device])))
		}
	}
}

// isUnreadable reports whether an error means that a part of a tree was reported
// and the rest can be walked.
func isUnreadable(err error) bool {
	return errors.Is(err, errPage) || errors.Is(err, tree.ErrMalformed)
}
