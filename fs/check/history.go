package check

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"kist/fs/log"
	"kist/fs/tree"
)

// keepState is how much of a state stays in memory until the next is compared
// with it.
const keepState = 16 << 20

// history walks the state of a commit as far as it differs from the one before,
// so that all of history is known to be readable at the cost of what changed.
// It keeps no books: those are the head's.
func (c *checker) history(ctx context.Context, commit *log.Commit) error {
	if c.cut {
		return nil
	}
	if c.report.Trees == 0 {
		c.begin(inHistory)
	}
	c.report.Trees++
	if c.prev != nil && bytes.Equal(c.prevRoot, commit.Root) {
		return nil
	}
	st, err := tree.ParseState(commit.Root)
	if err != nil {
		c.problem(KindTree, atSlot(commit.Seq), "the state in the commit "+reason(err))
		return nil
	}
	err = c.change(ctx, st)
	if errors.Is(err, errShared) {
		c.cut = true
		c.report.Trees--
		c.note(KindTree, atSlot(commit.Seq), "from here on the trees of earlier commits were not walked: "+err.Error())
		return nil
	}
	if err != nil {
		return err
	}
	c.prev, c.prevRoot = &st, commit.Root
	tree.Evict(st, keepState)
	return nil
}

// change walks what is in st and not in the state before; all of it, if that
// can't be compared.
func (c *checker) change(ctx context.Context, st tree.State) error {
	load := c.counted(ctx)
	if c.prev != nil {
		err := tree.Diff(*c.prev, st, load, func(ch tree.Change) error { return c.changed(ctx, ch) })
		if !isUnreadable(err) {
			return err
		}
	}
	_, err := scan(st.Table, load, dropTable(st.Table), func(_ string, in *tree.Inode) error {
		return c.content(ctx, in, "")
	})
	if err != nil {
		return err
	}
	return c.below(ctx, st.Root.Dir)
}

func (c *checker) changed(ctx context.Context, ch tree.Change) error {
	if ch.New == nil || ch.New.Inode == nil {
		return nil
	}
	in := ch.New.Inode
	if in.Type != tree.TypeDir {
		return c.content(ctx, in, "")
	}
	if ch.Old != nil && ch.Old.Inode != nil && ch.Old.Type == tree.TypeDir && ch.Old.Ino == ch.New.Ino {
		return nil // Diff looks inside
	}
	return c.below(ctx, in.Dir)
}

// below walks a directory and all below it, but for directories that were
// walked before, which are the same all the way down.
func (c *checker) below(ctx context.Context, top tree.Dir) error {
	load := c.counted(ctx)
	stack := []tree.Dir{top}
	for len(stack) > 0 {
		d := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		ptr, ok := d.Pointer()
		if !ok {
			continue
		}
		if _, done := c.dirs[ptr.Fingerprint]; done {
			continue
		}
		c.dirs[ptr.Fingerprint] = struct{}{}
		_, err := scan(d, load, dropDir(d), func(_ string, e tree.Entry) error {
			if e.Inode == nil {
				return nil
			}
			if e.Type == tree.TypeDir {
				stack = append(stack, e.Inode.Dir)
				return nil
			}
			c.step("history: %d trees, %d pages", c.report.Trees, c.report.Nodes)
			return c.content(ctx, e.Inode, "")
		})
		if err != nil {
			return fmt.Errorf("walking a tree: %w", err)
		}
	}
	return nil
}
