package fs

import (
	"container/list"
	"sync"

	"kist/fs/tree"
)

// hotCache keeps the plaintext of blobs in use. Least recently used goes first.
type hotCache struct {
	mu     sync.Mutex
	budget int
	used   int
	order  *list.List
	byBlob map[*tree.Blob]*list.Element
}

type hotItem struct {
	blob  *tree.Blob
	plain []byte
}

func newHotCache(budget int) *hotCache {
	return &hotCache{budget: budget, order: list.New(), byBlob: map[*tree.Blob]*list.Element{}}
}

func (h *hotCache) get(b *tree.Blob) ([]byte, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e, ok := h.byBlob[b]
	if !ok {
		return nil, false
	}
	h.order.MoveToFront(e)
	return e.Value.(hotItem).plain, true
}

func (h *hotCache) size() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return int64(h.used)
}

func (h *hotCache) put(b *tree.Blob, plain []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.byBlob[b]; ok || len(plain) > h.budget {
		return
	}
	h.byBlob[b] = h.order.PushFront(hotItem{b, plain})
	h.used += cap(plain)
	for h.used > h.budget {
		e := h.order.Back()
		it := h.order.Remove(e).(hotItem)
		delete(h.byBlob, it.blob)
		h.used -= cap(it.plain)
	}
}
