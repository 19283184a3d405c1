package mount

import (
	"container/list"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"

	"kist/fs"
)

// kernel is the part of a *fuse.Server that the notifier speaks to.
type kernel interface {
	InodeNotify(node uint64, off, length int64) fuse.Status
	EntryNotify(parent uint64, name string) fuse.Status
}

type newsKind uint8

const (
	newsEntry   newsKind = iota // a name means something else
	newsAttr                    // attributes only
	newsContent                 // attributes and pages; a directory's pages are its listing
)

// news is one thing to tell the kernel.
type news struct {
	kind newsKind
	ino  fs.Ino // the parent for an entry
	name string
}

// notifier tells the kernel what to forget. The kernel may make it wait for a
// request in flight, so it is a goroutine of its own that holds no lock, and
// those who bring news never wait. News that is brought again while it still
// waits moves to the end of the queue: it must be told after the latest change.
type notifier struct {
	k    kernel
	opts notifierOptions

	mu     sync.Mutex
	wake   sync.Cond
	queue  list.List // of news
	index  map[news]*list.Element
	closed bool

	gate sync.Mutex // held while the kernel is spoken to
	done sync.WaitGroup
}

// notifierOptions are how the pages of a file that is open are treated: hold
// says whether it is and takes note that its pages are old, later drops them.
type notifierOptions struct {
	hold  func(ino fs.Ino) bool
	later func(ino fs.Ino)
}

func newNotifier(k kernel, opts notifierOptions) *notifier {
	n := &notifier{k: k, opts: opts, index: map[news]*list.Element{}}
	n.wake.L = &n.mu
	n.done.Add(1)
	go n.run()
	return n
}

func (n *notifier) Entry(parent fs.Ino, name string) {
	n.add(news{newsEntry, parent, name}, news{newsContent, parent, ""})
}

func (n *notifier) Inode(ino fs.Ino)   { n.add(news{newsAttr, ino, ""}) }
func (n *notifier) Content(ino fs.Ino) { n.add(news{newsContent, ino, ""}) }

func (n *notifier) add(items ...news) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return
	}
	for _, it := range items {
		if e := n.index[it]; e != nil {
			n.queue.MoveToBack(e)
			continue
		}
		n.index[it] = n.queue.PushBack(it)
	}
	n.wake.Signal()
}

// next waits for news; false: closed.
func (n *notifier) next() (news, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for n.queue.Len() == 0 && !n.closed {
		n.wake.Wait()
	}
	if n.closed {
		return news{}, false
	}
	it := n.queue.Remove(n.queue.Front()).(news)
	delete(n.index, it)
	return it, true
}

func (n *notifier) run() {
	defer n.done.Done()
	for {
		it, ok := n.next()
		if !ok {
			return
		}
		n.gate.Lock()
		if !n.isClosed() {
			n.tell(it)
		}
		n.gate.Unlock()
	}
}

// tell ignores what the kernel answers: ENOENT says that it had nothing to
// forget, anything else that the mount is gone.
func (n *notifier) tell(it news) {
	switch {
	case it.kind == newsEntry:
		n.k.EntryNotify(it.ino, it.name)
	case it.kind == newsAttr:
		n.k.InodeNotify(it.ino, -1, 0)
	case n.opts.hold(it.ino):
		n.k.InodeNotify(it.ino, -1, 0)
		n.opts.later(it.ino)
	default:
		n.k.InodeNotify(it.ino, 0, 0)
	}
}

func (n *notifier) isClosed() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.closed
}

// quietly runs fn while the kernel is not spoken to.
func (n *notifier) quietly(fn func() error) error {
	n.gate.Lock()
	defer n.gate.Unlock()
	return fn()
}

func (n *notifier) close() {
	n.mu.Lock()
	n.closed = true
	n.wake.Signal()
	n.mu.Unlock()
}
