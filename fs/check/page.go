package check

import (
	"context"
	"errors"
	"fmt"

	"kist/crypto/seal"
	"kist/fs/tree"
)

// mark says what is known of a page.
type mark uint8

const (
	inHistory mark = 1 << iota // fetched in the walk through history
	inHead                     // fetched in the walk through the head's tree
	isBad                      // cannot be had; reported
)

// pages are the pages that were met, by fingerprint.
type pages struct {
	seen    map[seal.Fingerprint]mark
	phase   mark
	fresh   uint64 // of this phase: fetched for the first time
	repeats uint64 // of this phase: fetched again for another parent
}

var (
	// errPage: a page cannot be had; it was reported.
	errPage = errors.New("check: a page cannot be read")
	// errShared: so many parents share pages that walking all of them is not
	// worth it. Nothing that kist writes comes near.
	errShared = errors.New("pages that too many others share")
)

// keepLoaded is how many bytes of a map's pages, encoded, may be in memory
// before they are dropped.
const keepLoaded = 4 << 20

func (c *checker) begin(phase mark) { c.pages.phase, c.pages.fresh, c.pages.repeats = phase, 0, 0 }

// counted is page for maps that may share pages with others. It bounds what that
// costs. Pages that were dropped and are wanted again count too, which is why it
// is generous.
func (c *checker) counted(ctx context.Context) func(*tree.Miss) error {
	return func(m *tree.Miss) error {
		p := &c.pages
		if p.seen[m.Ptr.Fingerprint]&p.phase != 0 {
			if p.repeats++; p.repeats > 1<<16+32*p.fresh {
				return errShared
			}
		}
		return c.page(ctx, m)
	}
}

// page fetches, verifies and decodes a page. errPage: it was reported.
func (c *checker) page(ctx context.Context, m *tree.Miss) error {
	fp, p := m.Ptr.Fingerprint, &c.pages
	if p.seen[fp]&isBad != 0 {
		return errPage
	}
	for _, n := range m.Next {
		c.reader.Note(n.Ptr)
	}
	c.packs.refer(m.Ptr.Pack, m.Ptr.Offset+m.Ptr.SealedLen)
	plain, err := c.reader.Fetch(ctx, m.Ptr)
	if err == nil {
		err = m.Fill(plain)
	}
	if away(err) {
		return err
	}
	if err != nil {
		p.seen[fp] |= isBad
		c.problem(KindTree, fmt.Sprintf("%s+%d", atPack(m.Ptr.Pack), m.Ptr.Offset), "a page "+which(reason(err)))
		return errPage
	}
	if p.seen[fp] == 0 {
		c.report.Nodes++
	}
	if p.seen[fp]&p.phase == 0 {
		p.fresh++
	}
	p.seen[fp] |= p.phase
	return nil
}

// which makes a clause of a reason.
func which(what string) string {
	switch what {
	case "missing", "shorter than what refers to it", "larger than it may be":
		return "whose pack is " + what
	}
	return "that " + what
}

// scan calls fn for each key of a map. It steps over pages that cannot be had;
// whole says that there were none. drop takes the map's pages from memory.
func scan[V any, C tree.Codec[V]](m tree.Map[V, C], load func(*tree.Miss) error, drop func(), fn func(key string, v V) error) (whole bool, err error) {
	from, whole, loaded := "", true, 0
	for {
		last, some := "", false
		var failed error
		err := m.Scan(from, func(key string, v V) bool {
			failed = fn(key, v)
			last, some = key, true
			return failed == nil
		})
		if failed != nil {
			return false, failed
		}
		if some {
			from = last + "\x00"
		}
		var miss *tree.Miss
		if !errors.As(err, &miss) {
			return whole, err
		}
		if some && loaded > keepLoaded {
			drop()
			loaded = 0
			continue // what was missing may have stood in a page that is gone now
		}
		loaded += int(miss.Ptr.PlainLen)
		err = load(miss)
		if errors.Is(err, errPage) {
			whole = false
			next, more := behind(m, from, miss.Ptr)
			if !more {
				return false, nil
			}
			from, err = next, nil
		}
		if err != nil {
			return false, err
		}
	}
}

// behind finds the first key behind a page that cannot be had, given a key at
// which the map asks for it. The pages above it are in memory and know that key,
// but do not say it: it is felt for, byte by byte. false: there is none.
func behind[V any, C tree.Codec[V]](m tree.Map[V, C], from string, bad tree.Pointer) (key string, more bool) {
	beyond := func(x string) bool {
		if x <= from {
			return false
		}
		var miss *tree.Miss
		return !errors.As(m.Scan(x, func(string, V) bool { return false }), &miss) || miss.Ptr != bad
	}
	for prefix := ""; len(prefix) < tree.MaxName; {
		low, high := 0, 256 // the smallest byte with which prefix lies beyond
		for low < high {
			if mid := (low + high) / 2; beyond(prefix + string([]byte{byte(mid)})) {
				high = mid
			} else {
				low = mid + 1
			}
		}
		if low == 256 {
			break
		}
		key, more = prefix+string([]byte{byte(low)}), true
		if low == 0 {
			break
		}
		prefix += string([]byte{byte(low - 1)})
	}
	return key, more
}

func dropDir(d tree.Dir) func() { return func() { tree.Evict(onlyDir(d), 0) } }

func dropTable(t tree.Table) func() {
	return func() { tree.Evict(tree.State{Root: &tree.Inode{}, Table: t}, 0) }
}

func onlyDir(d tree.Dir) tree.State { return tree.State{Root: &tree.Inode{Dir: d}} }
