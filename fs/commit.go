package fs

import (
	"bytes"
	"context"
	"errors"
	"syscall"
	"time"

	"kist/crypto/seal"
	"kist/fs/journal"
	"kist/fs/log"
	"kist/fs/pack"
	"kist/fs/tree"
)

// A commit is cut into steps, each of which a crash may separate from the next:
//
//	freeze   the live tree is frozen at a journal position, and the journal synced to there
//	content  pieces become chunks; chunks fill packs, which are uploaded as they fill
//	nodes    pages are sealed, children before parents; the last pack is uploaded
//	sign     the commit is signed for its slot, and its exact bytes are journalled and synced
//	append   the slot is created; until the answer is known only these bytes are sent
//	install  the live tree goes over to the committed pages; the journal lets go
//
// Everything before «sign» may be thrown away and begun anew; chunks whose pack is in
// the store keep their place.

// pendingCommit is a signed commit on its way, with what follows from its success.
type pendingCommit struct {
	p       *log.Pending
	pos     journal.Pos   // operations up to here are in it
	sealing *tree.Sealing // nil: taken up from the journal, by holdCommit
	state   tree.State
	ops     int
	landed  bool // it is in the log, and the live tree does not yet stand on it
}

var errNothing = errors.New("fs: nothing to commit")

// Step names for Options.Step.
const (
	StepFreeze  = "freeze"
	StepContent = "content"
	StepNodes   = "nodes"
	StepSign    = "sign"
	StepAppend  = "append"
	StepInstall = "install"
)

// Commit puts everything done so far into the store: one commit, after a lost race as
// many tries as it takes. Without changes it does nothing.
func (v *Vault) Commit(ctx context.Context) error {
	if err := v.turn.await(ctx); err != nil {
		return err
	}
	defer v.turn.Unlock()
	err := v.commit(ctx)
	if errors.Is(err, syscall.ENOSPC) && v.jrn.GiveReserve() {
		// A commit frees the disk; to make it, trust file and journal need a little of it.
		err = v.commit(ctx)
	}
	v.commitEnded(err)
	return err
}

func (v *Vault) commit(ctx context.Context) error {
	for lost := 1; ; {
		resumed := v.pending != nil // holds older operations only
		err := v.commitOnce(ctx)
		switch {
		case err == nil && resumed:
		case errors.Is(err, errNothing):
			return nil
		case errors.Is(err, log.ErrLost):
			if err := v.yield(ctx, lost); err != nil {
				return err
			}
			lost = min(lost*2, 32)
		case err != nil:
			return v.observe(err)
		default:
			return v.observe(nil)
		}
	}
}

// yield follows the winner of a lost race. The more often in a row, the longer it waits
// before the next try, so that many writers find their turns. The first time it does not
// ask whether there is more behind the winner: mostly not, and the next try tells.
func (v *Vault) yield(ctx context.Context, lost int) error {
	if lost == 1 {
		return v.catchUp(ctx, 1)
	}
	if !v.opt.Manual && !wait(ctx, jitter(time.Duration(lost)*lostWait), nil) {
		return ctx.Err()
	}
	return v.catchUp(ctx, toHead)
}

// lostWait is the unit of waiting after lost races.
const lostWait = 50 * time.Millisecond

func (v *Vault) commitOnce(ctx context.Context) error {
	if v.pending == nil {
		if v.log.Head().Hash != v.base.Hash || v.log.Recalled() && v.pendingWork() {
			// The log was read further than the live tree could follow: what is signed
			// now would stand on a commit whose tree it does not contain. Or the store
			// has not yet shown that it knows the commit that this tree stands on.
			if err := v.catchUp(ctx, toHead); err != nil {
				return err
			}
		}
		b, err := v.freeze(ctx)
		if err != nil {
			return err
		}
		if err := v.build(ctx, b); err != nil {
			v.thaw(b)
			return err
		}
	}
	return v.finish(ctx)
}

// build is a commit in the making.
type build struct {
	pos     journal.Pos
	ops     int
	fw      *world // the frozen tree, whose content is being cut into chunks
	dirty   map[Ino]struct{}
	sink    *pack.Writer
	sealing *tree.Sealing
	summary log.Summary
}

func (v *Vault) freeze(ctx context.Context) (*build, error) {
	key, err := FooterKey(ctx, v.log, v.log.Head().Roster.Epoch)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.ops) == 0 {
		return nil, errNothing
	}
	if v.failed != nil {
		return nil, v.failed
	}
	if err := v.closeTail(); err != nil {
		return nil, err
	}
	b := &build{pos: v.jrn.Pos(), ops: len(v.ops), dirty: v.w.dirty}
	b.fw = newWorld(v.w.freeze(), v.number)
	b.fw.where = v.w.paths(v.w.dirty)
	v.w.dirty = map[Ino]struct{}{}
	// The commit lets the journal go up to here: what comes after describes anew.
	v.described = map[Ino]bool{}
	b.sink = pack.NewWriter(pack.Footer{Vault: v.opt.Vault, Epoch: v.log.Head().Roster.Epoch, Key: key}, func(p pack.Pack) error { return v.upload(ctx, p) })
	v.packing.Store(b.sink)
	b.sealing = tree.NewSealing(v.opt.Vault, b.sink)
	b.sealing.Keep = v.cacheNode
	for _, o := range v.ops {
		count(&b.summary, o)
	}
	v.stats.gathered = 0
	return b, nil
}

func count(s *log.Summary, o *op) {
	switch o.Kind {
	case opCreate, opLink:
		s.Created++
	case opUnlink:
		s.Removed++
	default:
		s.Changed++
	}
	if o.Kind == opWrite {
		s.Bytes += o.Len
	}
}

// paths copies the places of some inodes and of all directories above them.
func (w *world) paths(inos map[Ino]struct{}) map[Ino]place {
	out := map[Ino]place{}
	for ino := range inos {
		for {
			at, ok := w.where[ino]
			if !ok {
				break
			}
			if _, done := out[ino]; done {
				break
			}
			out[ino] = at
			ino = at.Parent
		}
	}
	return out
}

// thaw gives up a build: chunks whose packs arrived keep their place.
func (v *Vault) thaw(b *build) {
	v.mu.Lock()
	defer v.mu.Unlock()
	b.sealing.KeepChunks()
	for ino := range b.dirty {
		v.w.dirty[ino] = struct{}{}
	}
}

// build does everything up to the signature.
func (v *Vault) build(ctx context.Context, b *build) error {
	defer v.packing.Store(nil)
	if err := v.opt.Step(StepFreeze); err != nil {
		return err
	}
	// What the commit contains must be in the journal: a device whose journal does not
	// hold what the log says of it takes itself for a copy.
	if err := v.jrn.Sync(); err != nil {
		return v.journalFailed(err)
	}
	// What this commit contains can then be let go, however little came after it.
	if err := v.jrn.Cut(); err != nil {
		return v.journalFailed(err)
	}
	for ino := range b.dirty {
		if err := v.pack(ctx, b, ino); err != nil {
			return err
		}
	}
	if err := v.opt.Step(StepContent); err != nil {
		return err
	}
	st := b.fw.freeze()
	if err := tree.Load(func(m *tree.Miss) error { return v.fill(ctx, m) }, func() error { return b.sealing.SealState(st) }); err != nil {
		return err
	}
	last, err := b.sink.Close()
	if err != nil {
		return err
	}
	b.sealing.Finish(last)
	if err := v.opt.Step(StepNodes); err != nil {
		return err
	}
	return v.sign(b, st)
}

func (v *Vault) sign(b *build, st tree.State) error {
	root, err := b.sealing.State()
	if err != nil {
		return err
	}
	var nodes []log.Range
	for _, r := range b.sealing.Nodes() {
		nodes = append(nodes, log.Range(r))
	}
	v.mu.Lock()
	row := &log.DeviceRow{Number: v.number, HighIno: v.next, Journal: v.jrn.ID(), Op: b.pos.N, Run: b.pos.Run}
	v.mu.Unlock()
	p, err := v.log.Prepare(log.Body{Kind: log.Ordinary, Root: root, Nodes: nodes[:min(len(nodes), log.MaxRanges)], Row: row, Summary: b.summary})
	if err != nil {
		return err
	}
	if err := v.journalCommit(p); err != nil {
		return err
	}
	v.pending = &pendingCommit{p: p, pos: b.pos, sealing: b.sealing, state: st, ops: b.ops}
	return v.opt.Step(StepSign)
}

// journalCommit makes a signed commit durable before its first byte leaves.
func (v *Vault) journalCommit(p *log.Pending) error {
	v.mu.Lock()
	err := v.closeTail()
	if err == nil {
		v.witness() // synced with the commit, so that it outlives what the commit lets go
		for part := p.Bytes; err == nil && len(part) > 0; {
			n := min(len(part), commitPart)
			var e encoder
			e.u64(p.Seq)
			e.u32(uint32(len(p.Bytes)))
			_, err = v.jrn.Append(recCommit, e.b, part[:n], journal.Promised)
			part = part[n:]
		}
	}
	v.mu.Unlock()
	if err == nil {
		err = v.jrn.Sync()
	}
	if err != nil {
		return v.journalFailed(err)
	}
	return nil
}

// commitPart is how much of a commit one journal record carries.
const commitPart = 1 << 20

// finish sends the signed commit and draws the consequences of the answer.
func (v *Vault) finish(ctx context.Context) error {
	pc := v.pending
	if pc.landed {
		return v.install(ctx, pc)
	}
	err := v.log.Append(ctx, pc.p)
	if serr := v.opt.Step(StepAppend); serr != nil {
		return serr
	}
	switch {
	case errors.Is(err, log.ErrLost):
		v.pending = nil
		v.mu.Lock()
		if pc.sealing != nil {
			pc.sealing.KeepChunks()
		}
		v.redirty(v.ops)
		v.mu.Unlock()
		return err
	case err != nil:
		return err
	}
	pc.landed = true
	if pc.sealing != nil {
		pc.sealing.Install()
	}
	return v.install(ctx, pc)
}

// redirty marks every file that pending operations wrote to.
func (v *Vault) redirty(ops []*op) {
	for _, o := range ops {
		if o.Kind == opWrite || o.Kind == opPunch || o.Kind == opPut || o.Kind == opAttr && o.Mask&SetSize != 0 {
			v.w.dirty[o.Ino] = struct{}{}
		}
	}
}

// install makes the committed tree the one that stands in memory: operations made
// while the commit was under way are applied on top of it. Until that is done the commit
// stays pending: nobody may follow or commit from a tree that the log has left behind.
func (v *Vault) install(ctx context.Context, pc *pendingCommit) error {
	head := v.log.Head()
	if pc.sealing == nil {
		var err error
		if head, err = v.reread(ctx, pc); err != nil {
			return err
		}
	}
	r := v.newRebase(v, head, pc.state, pc.ops)
	r.own = true
	if err := v.rebase(ctx, r); err != nil {
		return err
	}
	v.pending = nil
	if err := v.opt.Step(StepInstall); err != nil {
		return err
	}
	v.mu.Lock()
	v.stats.lastCommit = v.opt.Now()
	v.stats.firstDirty = v.stats.lastChange
	if len(v.ops) == 0 {
		v.stats.firstDirty = time.Time{}
	}
	keep := v.keepFrom(pc.pos.N)
	v.keepPages()
	v.mu.Unlock()
	if head.Seq%64 == 0 {
		// A hint saves others probes; nothing depends on it.
		_ = v.log.WriteHint(ctx)
	}
	if pc.sealing == nil {
		// Taken up after a crash: nobody has noted which files had no name then, and their
		// content may stand before this commit. The next one lets go.
		return nil
	}
	return v.jrn.Trim(keep)
}

// keepFrom returns the record up to which the journal may let go, of those up to n, which
// a commit contains: nothing that an open file without a name still needs. No commit
// contains such a file. One that never had a name is made again from its records, until
// a commit contains the operation that gave it one.
func (v *Vault) keepFrom(n uint64) uint64 {
	upTo := n
	for ino, made := range v.nameless {
		if linked := v.linked[ino]; linked != 0 && linked <= upTo {
			delete(v.nameless, ino)
			delete(v.linked, ino)
			continue
		}
		n = min(n, made-1)
	}
	for _, rec := range v.w.orphans {
		err := rec.Extents.Scan("", func(_ string, x tree.Extent) bool {
			b, _ := x.Resolve()
			if _, stored := b.Pointer(); !stored {
				if l, ok := b.Local().(*local); ok && l.data == nil && l.loc.N <= n {
					n = l.loc.N - 1
				}
			}
			return true
		})
		if err != nil {
			return 0 // a page of it is not in memory, so nobody knows: it all stays
		}
	}
	return n
}

// upload puts one pack into the store.
func (v *Vault) upload(ctx context.Context, p pack.Pack) error {
	v.count(func(s *counters) { s.uploading += int64(len(p.Bytes)) })
	defer v.count(func(s *counters) { s.uploading -= int64(len(p.Bytes)) })
	err := v.opt.Store.Put(ctx, pack.ObjectKey(v.opt.Vault, p.Name), p.Bytes, p.Name)
	if err == nil {
		v.count(func(*counters) { v.pressure.uploaded++ })
	}
	return err
}

// pack gives every pending piece of one frozen file its place: inline, in a chunk of
// its own, or joined with its neighbours.
func (v *Vault) pack(ctx context.Context, b *build, ino Ino) error {
	rec, err := b.load(ctx, v, ino)
	if rec == nil || err != nil {
		return err
	}
	var xs []extentAt
	err = tree.Load(func(m *tree.Miss) error { return v.fill(ctx, m) }, func() error {
		xs = xs[:0]
		return rec.Extents.Scan("", func(k string, x tree.Extent) bool {
			xs = append(xs, extentAt{tree.KeyUint(k), x})
			return true
		})
	})
	if err != nil {
		return err
	}
	n := *rec
	if len(xs) == 1 && xs[0].off == 0 && xs[0].Len == rec.Size && rec.Size <= tree.MaxInline && pendingBlob(xs[0]) {
		data, err := v.gather(ctx, xs)
		if err != nil {
			return err
		}
		n.Inline, n.Extents = bytes.Clone(data), tree.Extents{}
		return b.fw.put(&n)
	}
	changed := false
	for len(xs) > 0 {
		end := 1
		for end < len(xs) && xs[end].off/chunkSize == xs[0].off/chunkSize {
			end++
		}
		did, err := v.packWindow(ctx, b, &n, xs[:end])
		if err != nil {
			return err
		}
		changed = changed || did
		xs = xs[end:]
	}
	if !changed {
		return nil
	}
	return b.fw.put(&n)
}

// load returns the frozen record of a file that was written to, nil if it has no name.
func (b *build) load(ctx context.Context, v *Vault, ino Ino) (rec *tree.Inode, err error) {
	err = tree.Load(func(m *tree.Miss) error { return v.fill(ctx, m) }, func() error {
		rec, err = b.fw.get(ino)
		return err
	})
	if errors.Is(err, errNoInode) {
		return nil, nil
	}
	return rec, err
}

func pendingBlob(x extentAt) bool {
	blob, _ := x.Resolve()
	_, stored := blob.Pointer()
	return !stored
}

// packWindow stores what is pending in one chunk's window. Runs of pending pieces
// become blobs of their own in a big, little changed window; otherwise every run of
// bytes is written whole (DESIGN.md, section 4: more than 8 extents, or more than an
// eighth changed).
func (v *Vault) packWindow(ctx context.Context, b *build, n *tree.Inode, xs []extentAt) (changed bool, err error) {
	fresh, total := uint64(0), uint64(0)
	for _, x := range xs {
		total += x.Len
		if pendingBlob(x) {
			fresh += x.Len
		}
	}
	if fresh == 0 {
		return false, nil
	}
	whole := len(xs) > 8 || fresh > total/8
	for len(xs) > 0 {
		end := 1
		for end < len(xs) && xs[end-1].off+xs[end-1].Len == xs[end].off && (whole || pendingBlob(xs[end]) == pendingBlob(xs[0])) {
			end++
		}
		run := xs[:end]
		xs = xs[end:]
		did, err := v.packRun(ctx, b, n, run)
		if err != nil {
			return false, err
		}
		changed = changed || did
	}
	return changed, nil
}

// packRun stores one run of adjacent extents as one blob.
func (v *Vault) packRun(ctx context.Context, b *build, n *tree.Inode, run []extentAt) (changed bool, err error) {
	any := false
	for _, x := range run {
		any = any || pendingBlob(x)
	}
	if !any {
		return false, nil
	}
	first, _ := run[0].Resolve()
	if len(run) == 1 && run[0].At == 0 && uint64(first.Len()) == run[0].Len {
		return false, v.place(ctx, b, first) // the piece is the chunk
	}
	data, err := v.gather(ctx, run)
	if err != nil {
		return false, err
	}
	blob := tree.NewBlob(uint32(len(data)), nil)
	sealed, err := seal.SealBlob(v.opt.Vault, tree.KindChunk, data)
	if err != nil {
		return false, err
	}
	if err := b.sealing.PlaceChunk(sealed, blob); err != nil {
		return false, err
	}
	v.cacheChunk(sealed.Fingerprint, data)
	for _, x := range run {
		if _, err := n.Extents.Delete(b.fw.edit, tree.Key(x.off)); err != nil {
			return false, err
		}
	}
	return true, n.Extents.Set(b.fw.edit, tree.Key(run[0].off), tree.Extent{Len: uint64(len(data)), Blob: blob})
}

// place puts a piece into a pack as it is.
func (v *Vault) place(ctx context.Context, b *build, blob *tree.Blob) error {
	if b.sealing.Placed(blob) {
		return nil
	}
	v.mu.Lock()
	l, _ := blob.Local().(*local)
	v.mu.Unlock()
	if l != nil && l.chunk != nil {
		raw, err := l.src.Payload(l.loc)
		if err != nil {
			return err
		}
		c := l.chunk
		return b.sealing.PlaceChunk(seal.Blob{Sealed: raw, Key: seal.Key(c.Key), Fingerprint: c.Fingerprint, Codec: c.Codec, PlainLen: c.PlainLen}, blob)
	}
	data, err := v.localBytes(blob)
	if err != nil {
		return err
	}
	sealed, err := seal.SealBlob(v.opt.Vault, tree.KindChunk, data)
	if err != nil {
		return err
	}
	v.cacheChunk(sealed.Fingerprint, data)
	return b.sealing.PlaceChunk(sealed, blob)
}

func (v *Vault) cacheNode(fp [32]byte, page []byte) {
	if v.opt.Cache != nil {
		v.opt.Cache.PutNode(fp, page)
	}
}

func (v *Vault) cacheChunk(fp [32]byte, data []byte) {
	if v.opt.Cache != nil {
		v.opt.Cache.PutChunk(fp, data)
	}
}

// gather reads adjacent extents into one buffer.
func (v *Vault) gather(ctx context.Context, run []extentAt) ([]byte, error) {
	last := run[len(run)-1]
	out := make([]byte, last.off+last.Len-run[0].off)
	for _, x := range run {
		blob, at := x.Resolve()
		if err := v.readBlob(ctx, blob, at, out[x.off-run[0].off:][:x.Len]); err != nil {
			return nil, err
		}
	}
	return out, nil
}
