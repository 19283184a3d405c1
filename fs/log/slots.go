package log

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"kist/backend"
)

const (
	readers = 16 // slots read at once
	window  = 32 // slots asked for in one go
)

func (l *Log) key(seq uint64) string {
	return fmt.Sprintf("vaults/%s/log/%016x", hex.EncodeToString(l.vault[:]), seq)
}

func (l *Log) hintKey() string {
	return fmt.Sprintf("vaults/%s/hint", hex.EncodeToString(l.vault[:]))
}

// get reads a slot. Of an object that is too large to be a commit it returns
// one byte more than a commit may have: enough to judge and to name it.
func (l *Log) get(ctx context.Context, seq uint64) ([]byte, error) {
	raw, err := l.cfg.Store.Get(ctx, l.key(seq), MaxCommit)
	if errors.Is(err, backend.ErrTooLarge) {
		raw, err = l.cfg.Store.GetRange(ctx, l.key(seq), 0, MaxCommit+1)
	}
	if err != nil {
		return nil, fmt.Errorf("reading commit %d: %w", seq, err)
	}
	if raw == nil {
		raw = []byte{}
	}
	return raw, nil
}

// readMany reads slots side by side; nil stands for a missing one.
func (l *Log) readMany(ctx context.Context, seqs []uint64) ([][]byte, error) {
	out := make([][]byte, len(seqs))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for i, seq := range seqs {
		g.Go(func() error {
			raw, err := l.get(ctx, seq)
			if err != nil && !errors.Is(err, backend.ErrNotExist) {
				return err
			}
			out[i] = raw
			return nil
		})
	}
	return out, g.Wait()
}

// settle turns bytes of a slot into a verdict that may be acted on. Bytes that
// are void or newer are read twice more over fresh connections: one valid
// reading decides, and readings that differ are no verdict at all.
func (l *Log) settle(ctx context.Context, seq uint64, raw []byte, judge func([]byte) (*Commit, error)) (*read, error) {
	c, err := judge(raw)
	if err == nil {
		return &read{c, raw}, nil
	}
	if !doubtful(err) {
		return nil, err
	}
	differ := false
	for range 2 {
		again, gerr := l.get(backend.Fresh(ctx), seq)
		if errors.Is(gerr, backend.ErrNotExist) {
			return nil, fmt.Errorf("commit %d was there and is not any more: %w", seq, ErrWithheld)
		}
		if gerr != nil {
			return nil, gerr
		}
		if bytes.Equal(again, raw) {
			continue
		}
		differ = true
		c, err := judge(again)
		if err == nil {
			return &read{c, again}, nil
		}
		if !doubtful(err) {
			return nil, err
		}
	}
	if differ {
		return nil, fmt.Errorf("commit %d reads differently each time: %w", seq, ErrWithheld)
	}
	return nil, err
}

// pinned reads a commit whose hash is vouched for.
func (l *Log) pinned(ctx context.Context, h Head) ([]byte, error) {
	if raw := l.cfg.Cache.Get(l.key(h.Seq)); isAt(raw, h) {
		return raw, nil
	}
	raw, err := l.get(ctx, h.Seq)
	if err != nil && !errors.Is(err, backend.ErrNotExist) {
		return nil, err
	}
	return l.confirm(ctx, h, raw)
}

func isAt(raw []byte, h Head) bool { return len(raw) >= headerLen && hashObject(raw) == h.Hash }

// confirm compares what a slot shows (nil: nothing) with the commit that is
// remembered there, and tells a store that went back from one that forked.
func (l *Log) confirm(ctx context.Context, h Head, raw []byte) ([]byte, error) {
	for try := 0; ; try++ {
		if isAt(raw, h) {
			l.cfg.Cache.Put(l.key(h.Seq), raw)
			return raw, nil
		}
		if try == 2 {
			break
		}
		again, err := l.get(backend.Fresh(ctx), h.Seq)
		if err != nil && !errors.Is(err, backend.ErrNotExist) {
			return nil, err
		}
		raw = again
	}
	if raw != nil {
		return nil, fmt.Errorf("%w: this device saw commit %s, the store shows %s", ErrFork, h, shown(h.Seq, raw))
	}
	return nil, l.rollback(ctx, h)
}

// shown names bytes that stand in a slot, commit or not.
func shown(seq uint64, raw []byte) Head {
	if len(raw) < headerLen {
		return Head{seq, sha256.Sum256(raw)}
	}
	return Head{seq, hashObject(raw)}
}

// rollback says how far the store went back: down in growing steps to a slot
// that exists, then up by halves.
func (l *Log) rollback(ctx context.Context, h Head) error {
	missing, step := h.Seq, uint64(1)
	var low uint64
	var raw []byte
	for raw == nil {
		if missing == 0 {
			return fmt.Errorf("%w: this device saw commit %s, the store shows none", ErrRollback, h)
		}
		low = missing - min(step, missing)
		step *= 2
		got, err := l.readMany(ctx, []uint64{low})
		if err != nil {
			return err
		}
		if raw = got[0]; raw == nil {
			missing = low
		}
	}
	for missing-low > 1 {
		mid := low + (missing-low)/2
		got, err := l.readMany(ctx, []uint64{mid})
		if err != nil {
			return err
		}
		if got[0] == nil {
			missing = mid
		} else {
			low, raw = mid, got[0]
		}
	}
	return fmt.Errorf("%w: this device saw commit %s, the store's newest is %s", ErrRollback, h, shown(low, raw))
}

// gap: a slot is missing and there are objects above it. A valid commit among
// them means that the slot exists and is withheld. Returns the slot's bytes if
// they have come meanwhile.
func (l *Log) gap(ctx context.Context, seq uint64, above [][]byte) ([]byte, error) {
	raw, err := l.get(backend.Fresh(ctx), seq)
	if err == nil {
		return raw, nil
	}
	if !errors.Is(err, backend.ErrNotExist) {
		return nil, err
	}
	state := before{roster: l.state().roster}
	for i, raw := range above {
		if raw == nil {
			continue
		}
		at := seq + 1 + uint64(i)
		if c, err := l.judge(ctx, raw, at, state); err == nil {
			return nil, fmt.Errorf("commit %d is not shown, but commit %s above it is: %w", seq, c.Head, ErrWithheld)
		}
	}
	return nil, nil
}

// WriteHint tells other machines where the head is. Call it at unmount and
// after commits whose sequence is a multiple of 64.
func (l *Log) WriteHint(ctx context.Context) error {
	body := binary.BigEndian.AppendUint64(nil, l.Head().Seq)
	if err := l.cfg.Store.Put(ctx, l.hintKey(), body, sha256.Sum256(body)); err != nil {
		return fmt.Errorf("writing the hint: %w", err)
	}
	return nil
}

// hint is where to look first; anything may stand there.
func (l *Log) hint(ctx context.Context) (uint64, error) {
	raw, err := l.cfg.Store.Get(ctx, l.hintKey(), 8)
	switch {
	case errors.Is(err, backend.ErrNotExist), errors.Is(err, backend.ErrTooLarge):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("reading the hint: %w", err)
	case len(raw) != 8:
		return 0, nil
	}
	if seq := binary.BigEndian.Uint64(raw); seq < 1<<48 {
		return seq, nil
	}
	return 0, nil
}
