package fs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"kist/backend"
	"kist/cache"
	"kist/crypto/keys"
	"kist/crypto/seal"
	"kist/fs/journal"
	"kist/fs/log"
	"kist/fs/pack"
	"kist/fs/tree"
)

var (
	// ErrCloned: the store says that this device wrote what this home does not
	// remember. The home was copied or restored; nothing of it is used.
	ErrCloned = errors.New("this home is a copy or was restored: the store holds work of this device that is not in its journal. Nothing was changed; «kist id device new» makes a new device and keeps what is here")
	// ErrBroken: the journal's disk failed; the mount reads, it does not write.
	ErrBroken = fmt.Errorf("the journal cannot be written: what was acknowledged is safe, the mount is read-only until it is mounted anew: %w", syscall.EROFS)
	// ErrReadOnly: mounted read-only.
	ErrReadOnly = fmt.Errorf("mounted read-only: %w", syscall.EROFS)
	// ErrClosed: the vault was closed.
	ErrClosed = errors.New("the vault is closed")
)

// Options are what a Vault is made of. Everything that tests must control is here.
type Options struct {
	Store   backend.Store
	Vault   seal.VaultID
	Session *keys.Session
	Trust   *log.Trust
	Known   log.Head     // a head vouched for by the keyfile
	Cache   *cache.Cache // nil: none
	Disk    journal.Disk // the journal's folder; Open takes it over
	Now     func() time.Time
	Logger  *slog.Logger

	ReadOnly   bool
	FsyncStore bool  // fsync waits for the commit
	Budget     int64 // bytes of journal on disk; 0: no limit but the disk
	Floor      int64 // bytes that the journal leaves free on its disk
	Memory     int64 // bytes of buffers in memory; 0: DefaultMemory

	// Step is called before each step of a commit that a crash could separate from
	// the next one; a test that returns an error stops there. nil in production.
	Step func(name string) error
	// Manual leaves out every goroutine: the owner calls Step functions itself.
	Manual bool
}

// Vault is an open vault: the one place where tree, journal, log, cache and store
// meet. All methods are safe for concurrent use.
//
// Locks: mu guards every field below it, the live world included; it is never held
// while the network or the cache's disk is waited for. It is held while the journal
// takes a record into memory, not while it syncs. turn serialises commits and
// following, that is, everything that changes base; it is taken before mu.
type Vault struct {
	opt   Options
	log   *log.Log
	jrn   *journal.Journal
	packs *pack.Reader
	hot   *hotCache
	ahead readahead

	share   shares
	pages   atomic.Int64                // about how much of the tree is in memory, encoded size
	spared  atomic.Int64                // of it, what the last eviction left
	packing atomic.Pointer[pack.Writer] // of the commit under way

	turn   lock
	untold *world // the live tree that the kernel was last told of, if that is not this one; guarded by turn

	mu        sync.Mutex
	w         *world
	base      *log.Commit // the live tree stands on this commit
	baseState tree.State
	ops       []*op  // made since base, oldest first
	waits     *waits // what they are about
	baseAt    uint64 // the record of base
	number    uint16
	next      uint32 // counter of the next inode made here
	tail      *op    // the newest write, still growing: not yet in the journal
	described map[Ino]bool
	refs      map[Ino]*ref
	nameless  map[Ino]uint64 // made without a name: the record that made it
	linked    map[Ino]uint64 // of these, with a name that no commit contains: the record that gave it
	pending   *pendingCommit
	notify    Notifier
	closed    bool
	failed    error         // the journal's disk failed
	back      chan struct{} // closed when a store that was away answers again
	stats     counters
	pressure  pressure

	background
}

// ref counts who holds an inode: the kernel's lookups and the open handles.
type ref struct {
	lookups uint64
	opens   uint64
}

// counters are what Status tells.
type counters struct {
	firstDirty time.Time // when the oldest operation not in the store was made
	lastChange time.Time
	gathered   int64 // bytes of content since the last commit
	touched    time.Time
	probed     time.Time
	away       error
	awaySince  time.Time
	since      time.Time // the store answers since
	lastCommit time.Time
	uploading  int64
	errs       []string
	lastErr    string // of what failed last, until it succeeds
	lastErrOf  string // what that was
	lastErrAt  time.Time
}

// Open opens a vault: finds the head, replays the journal, takes a device number if
// this device has none yet. The trust file is durable before anything is shown. While
// the store is away it stands on the head that this device remembers, if the cache
// has what that takes: Away then tells why, and the first Follow goes on from there.
func Open(ctx context.Context, opt Options) (*Vault, error) {
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	if opt.Step == nil {
		opt.Step = func(string) error { return nil }
	}
	share := sharesOf(opt.Memory)
	jrn, replay, err := journal.Open(opt.Disk, opt.Session.JournalKey(),
		journal.Options{Vault: opt.Vault, Budget: opt.Budget, Floor: opt.Floor, Unsynced: share.unsynced})
	if err != nil {
		return nil, explainJournal(err)
	}
	// Before the log is followed: that would bring an old memory up to date.
	if err := compareTrust(replay, opt.Trust, opt.Vault); err != nil {
		return nil, errors.Join(err, jrn.Close())
	}
	l, away, err := openLog(ctx, log.Config{Store: opt.Store, Vault: opt.Vault, Session: opt.Session, Trust: opt.Trust,
		Cache: logCache(opt.Cache), Now: opt.Now, Known: opt.Known, CheckRoot: checkRoot})
	if err != nil {
		return nil, errors.Join(err, jrn.Close())
	}
	v := &Vault{opt: opt, turn: make(lock, 1), log: l, jrn: jrn, share: share, packs: pack.NewReader(opt.Store, opt.Vault, share.windows, share.flight), hot: newHotCache(int(share.hot)),
		described: map[Ino]bool{}, refs: map[Ino]*ref{}, nameless: map[Ino]uint64{}, linked: map[Ino]uint64{}, waits: newWaits(),
		pressure: pressure{ended: make(chan struct{})}, back: make(chan struct{})}
	v.stats.since = opt.Now()
	_ = v.observe(away)
	err = v.recover(ctx, replay)
	if err == nil && away != nil {
		err = v.hasRoot(ctx)
	}
	if err != nil {
		return nil, errors.Join(withoutStore(away, err), jrn.Close())
	}
	if head := l.Head(); v.ownWork(head) {
		v.stats.lastCommit = head.Time
	}
	v.witness()
	_ = jrn.Sync() // of a read-only mount nothing else is synced; an error meets the next write
	v.startBackground()
	return v, nil
}

func checkRoot(b []byte) error {
	_, err := tree.ParseState(b)
	return err
}

// logCacheAdapter lets the log keep its sealed objects among the nodes.
type logCacheAdapter struct{ c *cache.Cache }

func (a logCacheAdapter) Get(key string) []byte {
	b, _ := a.c.Hint([]byte("log/" + key))
	return b
}
func (a logCacheAdapter) Put(key string, val []byte) { a.c.PutHint([]byte("log/"+key), val) }

func logCache(c *cache.Cache) log.Cache {
	if c == nil {
		return nil
	}
	return logCacheAdapter{c}
}

// lock is a mutex that can be waited for under a context.
type lock chan struct{}

func (l lock) Lock()   { l <- struct{}{} }
func (l lock) Unlock() { <-l }

func (l lock) TryLock() bool {
	select {
	case l <- struct{}{}:
		return true
	default:
		return false
	}
}

func (l lock) await(ctx context.Context) error {
	select {
	case l <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Root returns the number of the root directory.
func (v *Vault) Root() Ino { return RootIno }

func (v *Vault) now() tree.Time { return timeOf(v.opt.Now()) }

func timeOf(t time.Time) tree.Time { return tree.Time{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())} }

// locked runs fn under mu, and again whenever a page that fn needed has been fetched.
func (v *Vault) locked(ctx context.Context, fn func() error) error {
	for {
		v.mu.Lock()
		err := fn()
		v.mu.Unlock()
		var miss *tree.Miss
		if !errors.As(err, &miss) {
			if errors.Is(err, errNoInode) {
				return syscall.ESTALE
			}
			return err
		}
		if err := v.fill(ctx, miss); err != nil {
			return err
		}
	}
}

// fill brings one page into memory, from the cache or from the store.
func (v *Vault) fill(ctx context.Context, m *tree.Miss) error {
	fp := [32]byte(m.Ptr.Fingerprint)
	if v.opt.Cache != nil {
		if plain, ok := v.opt.Cache.Node(fp); ok && m.Fill(plain) == nil {
			v.loaded(len(plain))
			return nil
		}
	}
	for _, n := range m.Next {
		v.packs.Note(n.Ptr)
	}
	plain, err := v.fetch(ctx, m.Ptr)
	if err != nil {
		return err
	}
	v.loaded(len(plain))
	v.cacheNode(fp, plain)
	return m.Fill(plain)
}

// change runs fn, which builds and performs operations, under mu.
func (v *Vault) change(ctx context.Context, fn func() error) error {
	if v.opt.ReadOnly {
		return ErrReadOnly
	}
	err := v.retryFull(ctx, func() error {
		return v.locked(ctx, func() error {
			switch {
			case v.closed:
				return ErrClosed
			case v.failed != nil:
				return v.failed
			}
			return fn()
		})
	})
	v.wake()
	return err
}

// do applies an operation to the live tree and puts it into the journal. It is called
// under mu. On an error from apply nothing has happened.
func (v *Vault) do(o *op) error {
	if err := v.closeTail(); err != nil {
		return err
	}
	meta, flags := o.encode(), flagsOf(o)
	if err := v.room(int64(len(meta))+recordSlack, flags); err != nil {
		return err
	}
	if err := v.describe(o.At.Parent, o.To.Parent); err != nil {
		return err
	}
	o.N = v.jrn.Pos().N + 1
	if err := v.w.apply(o); err != nil {
		return err
	}
	v.remember(o)
	if o.Kind == opRename || o.Kind == opExchange {
		delete(v.described, o.Ino)
		delete(v.described, o.ToIno)
	}
	return v.record(recOp, meta, nil, flags)
}

// room makes sure that a record can be kept before the tree holds what it says. What
// frees space may take all but what a commit needs to be recorded: it frees the rest.
func (v *Vault) room(n int64, flags journal.Flags) error {
	if flags&journal.Urgent == 0 {
		return v.jrn.Reserve(n)
	}
	return v.jrn.ReserveUrgent(n + commitRoom)
}

// commitRoom is what the record of a commit takes, with much to spare.
const commitRoom = 128 << 10

// flagsOf lets what frees space through on a full disk.
func flagsOf(o *op) journal.Flags {
	if o.Kind == opUnlink || o.Kind == opRename || o.Kind == opPunch || o.Kind == opAttr && o.Mask&SetSize != 0 {
		return journal.Urgent
	}
	return 0
}

// remember notes an operation as not yet in the store.
func (v *Vault) remember(o *op) {
	v.ops = append(v.ops, o)
	v.waits.note(v.w, o)
	now := v.opt.Now()
	if v.stats.firstDirty.IsZero() {
		v.stats.firstDirty = now
	}
	v.stats.lastChange, v.stats.touched = now, now
}

// record appends to the journal. The tree already holds what the record says, and room
// for it was made: if that is gone, the record waits in memory, and fsync says so. If it
// cannot be kept for another reason, nothing further is accepted.
func (v *Vault) record(kind uint8, meta, payload []byte, flags journal.Flags) error {
	_, err := v.append(kind, meta, payload, flags)
	return err
}

func (v *Vault) append(kind uint8, meta, payload []byte, flags journal.Flags) (journal.Rec, error) {
	rec, err := v.jrn.Append(kind, meta, payload, flags|journal.Promised)
	if err != nil {
		v.failed = errors.Join(ErrBroken, err)
		v.logError("journal", err)
		return rec, v.failed
	}
	return rec, nil
}

// describe makes sure that the journal says where these directories stand, up to the
// root, and how to make them again.
func (v *Vault) describe(dirs ...Ino) error {
	for _, d := range dirs {
		if d == 0 || d == RootIno {
			continue
		}
		at := v.w.where[d]
		if err := v.describe(at.Parent); err != nil {
			return err
		}
		if v.described[d] {
			continue
		}
		rec, err := v.w.get(d)
		if err != nil {
			return err
		}
		r := &dirRecord{Ino: d, At: at, Rec: encodeRec(rec)}
		if err := v.record(recDir, r.encode(), nil, 0); err != nil {
			return err
		}
		v.described[d] = true
	}
	return nil
}

// alloc gives a new inode number.
func (v *Vault) alloc() Ino {
	v.next++
	return Ino(v.number)<<32 | Ino(v.next)
}

// subject fills in which inode an operation is about, as seen now.
func (v *Vault) subject(o *op, rec *tree.Inode) *op {
	o.Ino, o.Seen = rec.Ino, version{rec.VerDev, rec.VerOp}
	o.Time = v.now()
	if o.At == (place{}) && rec.Ino != RootIno {
		o.At = v.w.where[rec.Ino]
	}
	return o
}

// SetNotifier says whom to tell what the kernel must forget.
func (v *Vault) SetNotifier(n Notifier) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.notify = n
}

func jitter(d time.Duration) time.Duration {
	return d - d/8 + time.Duration(rand.Int64N(int64(d/4)+1))
}
