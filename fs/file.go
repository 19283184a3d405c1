package fs

import (
	"context"
	"errors"
	"syscall"

	"kist/crypto/seal"
	"kist/fs/journal"
	"kist/fs/tree"
)

// local says where the bytes of a pending blob are on this machine.
type local struct {
	data  []byte           // in memory: the growing tail, or spilled inline content
	loc   journal.Loc      // in the journal
	src   *journal.Journal // which journal that is
	chunk *chunkKey        // the journal keeps the sealed blob itself
}

// Open counts a handle on an inode; Release takes it back. An inode stays readable
// and writable without a name for as long as it is open.
func (v *Vault) Open(ctx context.Context, ino Ino) error {
	v.probe()
	return v.locked(ctx, func() error {
		if _, err := v.w.get(ino); err != nil {
			return err
		}
		v.ref(ino).opens++
		return nil
	})
}

// Release takes one Open back.
func (v *Vault) Release(ino Ino) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if r := v.refs[ino]; r != nil && r.opens > 0 {
		r.opens--
		v.drop(ino, r)
	}
}

// Read reads up to len(p) bytes at off; short only at the end of the file.
func (v *Vault) Read(ctx context.Context, ino Ino, p []byte, off uint64) (int, error) {
	for try := 0; ; try++ {
		var segs []segment
		err := v.locked(ctx, func() (err error) {
			n, err := v.w.get(ino)
			if err != nil {
				return err
			}
			if n.Type != tree.TypeFile {
				return syscall.EISDIR
			}
			segs, err = segments(n, off, uint64(len(p)))
			return err
		})
		if err != nil {
			return 0, err
		}
		v.readAhead(ino, off, uint64(len(p)))
		n, err := v.readSegments(ctx, segs, p)
		if err == nil || try == 2 || !errors.Is(err, journal.ErrGone) {
			return n, err
		}
		// The journal let go of a piece that has been stored since: look again.
	}
}

func (v *Vault) readSegments(ctx context.Context, segs []segment, p []byte) (int, error) {
	n := 0
	for _, s := range segs {
		dst := p[n : n+int(s.len)]
		switch {
		case s.mem != nil:
			copy(dst, s.mem)
		case s.blob == nil:
			clear(dst)
		default:
			if err := v.readBlob(ctx, s.blob, s.at, dst); err != nil {
				return n, err
			}
		}
		n += int(s.len)
	}
	return n, nil
}

// readBlob copies bytes of a blob from the nearest place that has them.
func (v *Vault) readBlob(ctx context.Context, b *tree.Blob, at uint32, dst []byte) error {
	if plain, ok := v.hot.get(b); ok {
		copy(dst, plain[at:])
		return nil
	}
	ptr, stored := b.Pointer()
	if stored && v.opt.Cache != nil {
		if part, ok := v.opt.Cache.Chunk(ptr.Fingerprint, int(at), len(dst)); ok {
			copy(dst, part)
			return nil
		}
	}
	plain, err := v.blob(ctx, b)
	if err != nil {
		return err
	}
	if uint64(at)+uint64(len(dst)) > uint64(len(plain)) {
		return seal.ErrUnseal
	}
	copy(dst, plain[at:])
	return nil
}

// blob returns a whole blob's plaintext; the caller must not change it.
func (v *Vault) blob(ctx context.Context, b *tree.Blob) ([]byte, error) {
	if plain, ok := v.hot.get(b); ok {
		return plain, nil
	}
	if ptr, stored := b.Pointer(); stored {
		plain, err := v.fetch(ctx, ptr)
		if err != nil {
			return nil, err
		}
		v.cacheChunk(ptr.Fingerprint, plain)
		v.hot.put(b, plain)
		return plain, nil
	}
	plain, err := v.localBytes(b)
	if err == nil {
		v.hot.put(b, plain)
	}
	return plain, err
}

// localBytes reads a pending blob back from memory or from the journal.
func (v *Vault) localBytes(b *tree.Blob) ([]byte, error) {
	v.mu.Lock()
	l, _ := b.Local().(*local)
	var c local
	if l != nil {
		c = *l
	}
	v.mu.Unlock()
	if l == nil {
		return nil, journal.ErrGone
	}
	if c.data != nil {
		return c.data, nil
	}
	raw, err := c.src.Payload(c.loc)
	if err != nil || c.chunk == nil {
		return raw, err
	}
	key := seal.Key(c.chunk.Key)
	return seal.OpenBlob(v.opt.Vault, tree.KindChunk, c.chunk.Codec, c.chunk.PlainLen, c.chunk.Fingerprint, &key, raw)
}

// Write writes p at off, or at the end. It is recorded in memory when it returns, on
// this disk after Fsync or within a second.
func (v *Vault) Write(ctx context.Context, ino Ino, p []byte, off uint64, opt WriteOpts) (int, error) {
	done := 0
	for done < len(p) {
		n, err := v.writeSome(ctx, ino, p[done:], off+uint64(done), opt)
		done += n
		if err != nil {
			if done > 0 {
				return done, nil
			}
			return 0, err
		}
	}
	return done, nil
}

// writeSome writes up to a chunk's worth: one record, so that it is there or absent as a whole.
func (v *Vault) writeSome(ctx context.Context, ino Ino, p []byte, off uint64, opt WriteOpts) (n int, err error) {
	err = v.change(ctx, func() error {
		rec, err := v.w.get(ino)
		if err != nil {
			return err
		}
		if rec.Type != tree.TypeFile {
			return syscall.EBADF
		}
		if opt.Append {
			off = rec.Size
		}
		if off+uint64(len(p)) > tree.MaxFileSize || off+uint64(len(p)) < off {
			return syscall.EFBIG
		}
		n = min(len(p), chunkSize)
		return v.write(rec, p[:n], off, opt)
	})
	if err != nil {
		n = 0
	}
	return n, err
}

func (v *Vault) write(rec *tree.Inode, p []byte, off uint64, opt WriteOpts) error {
	var flags uint8
	if opt.Append {
		flags |= flagAppend
	}
	if opt.KillPriv && killPriv(rec.Mode) != rec.Mode {
		flags |= flagKillPriv
	}
	need := int64(len(p)) + recordSlack
	if v.tail != nil {
		need += int64(v.tail.Len) // not yet in the journal
	}
	if err := v.jrn.Reserve(need); err != nil {
		return err
	}
	v.stats.gathered += int64(len(p))
	if t := v.tail; t != nil && t.Ino == rec.Ino && t.Off+t.Len == off && t.Flags == flags && off%chunkSize+uint64(len(p)) <= chunkSize {
		return v.growTail(p)
	}
	if err := v.closeTail(); err != nil {
		return err
	}
	at := v.w.where[rec.Ino]
	if err := v.describe(at.Parent); err != nil {
		return err
	}
	data := append(make([]byte, 0, len(p)), p...)
	o := v.subject(&op{Kind: opWrite, Flags: flags, Off: off, Len: uint64(len(p))}, rec)
	o.N = v.jrn.Pos().N + 1
	o.Blob = tree.NewBlob(uint32(len(p)), &local{data: data})
	if err := v.w.apply(o); err != nil {
		return err
	}
	v.remember(o)
	v.tail = o
	if off%chunkSize+uint64(len(p)) >= chunkSize {
		return v.closeTail()
	}
	return nil
}

// recordSlack is what a write's record takes besides its bytes: meta, seals, descriptions.
const recordSlack = 4 << 10

// growTail makes the newest write longer instead of recording another one.
func (v *Vault) growTail(p []byte) error {
	t := v.tail
	data := append(t.Blob.Local().(*local).data, p...)
	grown := *t
	grown.Len = uint64(len(data))
	grown.Time = v.now()
	grown.Blob = tree.NewBlob(uint32(len(data)), &local{data: data})
	if err := v.w.apply(&grown); err != nil {
		return err
	}
	*t = grown
	v.stats.lastChange = v.opt.Now()
	if (t.Off+t.Len)%chunkSize == 0 {
		return v.closeTail()
	}
	return nil
}

// closeTail puts the newest write into the journal. A full chunk goes in as the very
// blob that will be uploaded.
func (v *Vault) closeTail() error {
	t := v.tail
	if t == nil {
		return nil
	}
	v.tail = nil
	l := t.Blob.Local().(*local)
	payload, flags := l.data, journal.Flags(0)
	var chunk *chunkKey
	if t.Len == chunkSize && t.Off%chunkSize == 0 {
		b, err := seal.SealBlob(v.opt.Vault, tree.KindChunk, l.data)
		if err != nil {
			return err
		}
		chunk = &chunkKey{Key: b.Key, Fingerprint: b.Fingerprint, Codec: b.Codec, PlainLen: b.PlainLen, SealedLen: uint32(len(b.Sealed))}
		payload, flags = b.Sealed, journal.Raw
		t.Flags |= flagChunk
		t.Chunk = *chunk
	}
	rec, err := v.append(recOp, t.encode(), payload, flags)
	if err != nil {
		return err
	}
	v.hot.put(t.Blob, l.data)
	t.Blob.SetLocal(&local{src: v.jrn, loc: rec.Loc, chunk: chunk})
	return nil
}

// Fsync returns when everything done before it is in the journal on this disk, or,
// with FsyncStore, in a commit.
func (v *Vault) Fsync(ctx context.Context, ino Ino) error {
	if v.opt.ReadOnly {
		return nil
	}
	if v.opt.FsyncStore {
		return v.Sync(ctx)
	}
	return v.flush()
}

// FlushJournal returns when everything done before it is in the journal on this disk.
func (v *Vault) FlushJournal() error { return v.flush() }

// flush is the group commit: the tail goes into the journal, the journal to the disk.
func (v *Vault) flush() error {
	v.mu.Lock()
	err := v.failed
	if err == nil {
		err = v.closeTail()
	}
	v.mu.Unlock()
	if err != nil {
		return err
	}
	if err := v.jrn.Sync(); err != nil {
		return v.journalFailed(err)
	}
	return nil
}

// Flush is called at each close; the data is on its way to the journal already.
func (v *Vault) Flush(context.Context, Ino) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.failed
}

// Modes of Fallocate, as in fallocate(2).
const (
	fallocKeepSize  = 1
	fallocPunchHole = 2
	fallocZeroRange = 16
)

// Fallocate extends a file, or makes a range of it read as zeros. Space is never set
// aside: it is the bucket's.
func (v *Vault) Fallocate(ctx context.Context, ino Ino, mode uint32, off, n uint64) error {
	if n == 0 || off+n < off || off+n > tree.MaxFileSize {
		return syscall.EINVAL
	}
	switch mode {
	case 0, fallocKeepSize, fallocPunchHole | fallocKeepSize, fallocZeroRange, fallocZeroRange | fallocKeepSize:
	default:
		return syscall.EOPNOTSUPP
	}
	return v.change(ctx, func() error {
		rec, err := v.w.get(ino)
		if err != nil {
			return err
		}
		if rec.Type != tree.TypeFile {
			return syscall.ENODEV
		}
		if mode&fallocKeepSize == 0 && off+n > rec.Size {
			o := v.subject(&op{Kind: opAttr, Mask: SetSize, Size: off + n}, rec)
			if err := v.do(o); err != nil {
				return err
			}
			if rec, err = v.w.get(ino); err != nil {
				return err
			}
		}
		if mode&(fallocPunchHole|fallocZeroRange) == 0 || off >= rec.Size {
			return nil
		}
		if _, err := overlapping(rec.Extents, off, n); err != nil {
			return err
		}
		return v.do(v.subject(&op{Kind: opPunch, Off: off, Len: min(n, rec.Size-off)}, rec))
	})
}

// Whence values of Seek, as in lseek(2) on Linux.
const (
	SeekData = 3
	SeekHole = 4
)

// Seek finds the next data or hole at or after off.
func (v *Vault) Seek(ctx context.Context, ino Ino, off uint64, whence uint32) (uint64, error) {
	var at uint64
	err := v.locked(ctx, func() error {
		rec, err := v.w.get(ino)
		if err != nil {
			return err
		}
		if off >= rec.Size {
			return syscall.ENXIO
		}
		at, err = seek(rec, off, whence)
		return err
	})
	return at, err
}

func seek(rec *tree.Inode, off uint64, whence uint32) (uint64, error) {
	if whence != SeekData && whence != SeekHole {
		return 0, syscall.EINVAL
	}
	if len(rec.Inline) > 0 {
		if whence == SeekHole {
			off = rec.Size
		}
		return off, nil
	}
	xs, err := overlapping(rec.Extents, off, rec.Size-off)
	if err != nil {
		return 0, err
	}
	if whence == SeekData {
		if len(xs) == 0 {
			return 0, syscall.ENXIO
		}
		return max(off, xs[0].off), nil
	}
	for _, x := range xs {
		if x.off > off {
			return off, nil
		}
		off = x.off + x.Len
	}
	return off, nil
}

// Statfs answers from memory: a bucket has no size, so there is always room.
func (v *Vault) Statfs() Statfs {
	const bsize, blocks = 4096, 1 << 38 // 1 PiB
	return Statfs{Blocks: blocks, Bfree: blocks, Bavail: blocks, Files: 1 << 45, Ffree: 1 << 45, Bsize: bsize, Namelen: tree.MaxName}
}
