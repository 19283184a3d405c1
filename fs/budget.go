package fs

import "kist/fs/tree"

// DefaultMemory is the budget of a mount's buffers: plaintext and sealed bytes of content,
// pages of the tree, what is not yet in the journal, packs. What grows with the number of
// pending operations and of inodes that the kernel knows is not in it, nor the kernel's
// own requests (fs/mount bounds them) and what Badger takes for itself.
const DefaultMemory = 192 << 20

// shares is how the budget is cut. This is the one place; whoever holds a share keeps it.
type shares struct {
	hot      int64 // plaintext of content in use
	windows  int64 // sealed ranges of packs that came along
	flight   int64 // ranges that are being read
	ahead    int64 // plaintext read ahead
	pages    int64 // the tree, encoded size
	unsynced int64 // of the journal
	pack     int64 // the pack that is being made or sent; a pack is no smaller for a small budget
	cache    int64 // see CacheMemory
}

// sharesOf cuts a budget; 0 means the default.
func sharesOf(budget int64) shares {
	if budget <= 0 {
		budget = DefaultMemory
	}
	part := budget / 96
	return shares{hot: 15 * part, windows: 15 * part, flight: 8 * part, ahead: 10 * part, pages: 12 * part,
		unsynced: 16 * part, pack: 8 * part, cache: 12 * part}
}

func (s shares) sum() int64 {
	return s.hot + s.windows + s.flight + s.ahead + s.pages + s.unsynced + s.pack + s.cache
}

// CacheMemory is the share of the cache, which is opened by others.
func CacheMemory(budget int64) int64 { return sharesOf(budget).cache }

// memory is how much of the budget is in use.
func (v *Vault) memory() int64 {
	unsynced, _ := v.jrn.Usage()
	n := unsynced + v.hot.size() + v.packs.Memory() + v.pages.Load() + v.ahead.bytes.Load()
	if w := v.packing.Load(); w != nil {
		n += w.Buffered()
	}
	if v.opt.Cache != nil {
		n += v.opt.Cache.Stats().Memory
	}
	return n
}

// loaded counts a page that came into memory, and makes room when they are too many.
func (v *Vault) loaded(n int) {
	// What is new since the last commit cannot go: it is not asked for at every page.
	if v.pages.Add(int64(n)) > max(v.share.pages, v.spared.Load())+v.share.pages/8 {
		v.evict()
	}
}

// keepPages drops what the tree's share does not hold. Under turn and mu.
func (v *Vault) keepPages() {
	left := tree.Evict(tree.State{Root: v.w.root, Table: v.w.table}, v.share.pages)
	v.pages.Store(left)
	v.spared.Store(left)
}
