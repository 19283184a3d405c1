package pack

import (
	"bytes"
	"cmp"
	"container/list"
	"context"
	"errors"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"kist/backend"
	"kist/crypto/seal"
	"kist/fs/tree"
)

const (
	mergeGap   = 64 << 10 // read through a gap rather than ask twice
	maxRequest = 4 << 20
	parallel   = 4
)

// Source is the part of a backend.Store that a Reader needs.
type Source interface {
	GetRange(ctx context.Context, key string, off, n int64) ([]byte, error)
}

// Reader fetches blobs of one vault.
type Reader struct {
	source Source
	vault  seal.VaultID
	cache  windows

	flight  *semaphore.Weighted
	most    int64
	reading atomic.Int64
}

// NewReader makes a Reader that keeps at most budget sealed bytes in memory, and reads
// at most flight at a time; a single blob is read in any case.
func NewReader(source Source, vault seal.VaultID, budget, flight int64) *Reader {
	r := &Reader{source: source, vault: vault, flight: semaphore.NewWeighted(flight), most: flight}
	r.cache = windows{
		packs: map[[32]byte][]*window{}, known: map[[32]byte]uint32{},
		used: list.New(), budget: budget,
		get: r.getRange,
	}
	return r
}

func (r *Reader) getRange(ctx context.Context, pack [32]byte, off, n uint32) ([]byte, error) {
	size := min(int64(n), r.most)
	if err := r.flight.Acquire(ctx, size); err != nil {
		return nil, err
	}
	defer r.flight.Release(size)
	r.reading.Add(int64(n))
	defer r.reading.Add(-int64(n))
	return r.source.GetRange(ctx, ObjectKey(r.vault, pack), int64(off), int64(n))
}

// Memory is how many bytes are kept and being read.
func (r *Reader) Memory() int64 {
	r.cache.mu.Lock()
	defer r.cache.mu.Unlock()
	return r.cache.bytes + r.reading.Load()
}

// Fetch returns the plaintext of the blob that p points to. What does not verify
// is seal.ErrUnseal; other errors are those of the store and of ctx.
func (r *Reader) Fetch(ctx context.Context, p tree.Pointer) ([]byte, error) {
	off, end := p.Offset, p.Offset+p.SealedLen
	w, err := r.cache.load(ctx, p.Pack, off, end, withNeighbours)
	if err == nil {
		plain, err := r.open(p, w.slice(off, end))
		if err == nil {
			return plain, nil
		}
		return r.again(ctx, p, w)
	}
	if errors.Is(err, backend.ErrShort) {
		return r.again(ctx, p, nil)
	}
	return nil, err
}

// again reads what did not verify, or a window that was not there, once more:
// this blob alone, over a fresh connection. Nothing is kept of it.
func (r *Reader) again(ctx context.Context, p tree.Pointer, bad *window) ([]byte, error) {
	if bad != nil {
		r.cache.mu.Lock()
		r.cache.drop(bad)
		r.cache.mu.Unlock()
	}
	sealed, err := r.getRange(backend.Fresh(ctx), p.Pack, p.Offset, p.SealedLen)
	if err != nil {
		return nil, err
	}
	return r.open(p, sealed)
}

func (r *Reader) open(p tree.Pointer, sealed []byte) ([]byte, error) {
	if uint32(len(sealed)) != p.SealedLen {
		return nil, seal.ErrUnseal
	}
	return seal.OpenBlob(r.vault, p.Kind, p.Codec, p.PlainLen, p.Fingerprint, &p.Key, sealed)
}

// FetchMany returns the plaintexts of all ps, in their order. Blobs that stand
// near each other come in one request.
func (r *Reader) FetchMany(ctx context.Context, ps []tree.Pointer) ([][]byte, error) {
	plains := make([][]byte, len(ps))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, run := range runs(ps) {
		g.Go(func() error { return r.fetchRun(ctx, ps, run, plains) })
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return plains, nil
}

// runs sorts the indices of ps by place and cuts them into what one request
// should bring.
func runs(ps []tree.Pointer) (rs [][]int) {
	order := make([]int, len(ps))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(bytes.Compare(ps[a].Pack[:], ps[b].Pack[:]), cmp.Compare(ps[a].Offset, ps[b].Offset))
	})
	from := 0
	for i := 1; i <= len(order); i++ {
		if i < len(order) {
			first, last, next := &ps[order[from]], &ps[order[i-1]], &ps[order[i]]
			if first.Pack == next.Pack && next.Offset <= last.Offset+last.SealedLen+mergeGap &&
				next.Offset+next.SealedLen <= first.Offset+maxRequest {
				continue
			}
		}
		rs = append(rs, order[from:i])
		from = i
	}
	return rs
}

func (r *Reader) fetchRun(ctx context.Context, ps []tree.Pointer, run []int, plains [][]byte) error {
	first := ps[run[0]]
	off, end := first.Offset, uint32(0)
	for _, i := range run {
		end = max(end, ps[i].Offset+ps[i].SealedLen)
	}
	as := once
	if len(run) == 1 {
		as = withNeighbours
	}
	w, err := r.cache.load(ctx, first.Pack, off, end, as)
	if err != nil && !errors.Is(err, backend.ErrShort) {
		return err
	}
	for _, i := range run {
		if err == nil {
			p := ps[i]
			if plain, err := r.open(p, w.slice(p.Offset, p.Offset+p.SealedLen)); err == nil {
				plains[i] = plain
				continue
			}
		}
		plain, err := r.again(ctx, ps[i], w)
		if err != nil {
			return err
		}
		plains[i] = plain
	}
	return nil
}

// Prefetch brings a range of a pack into memory, such as that of a commit's nodes,
// which the commit says is there. Of a range that is larger than half the budget,
// it brings the end.
func (r *Reader) Prefetch(ctx context.Context, rg tree.Range) error {
	end := rg.Off + rg.Len
	if end < rg.Off || end > tree.MaxPack {
		return tree.ErrMalformed
	}
	off := rg.Off
	if most := uint32(min(r.cache.budget/2, tree.MaxPack)); end-off > most {
		off = end - most
	}
	r.cache.note(rg.Pack, end)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	// Pieces overlap by a page, so that no page is cut in two.
	const overlap = tree.MaxPage + seal.OverheadBlob
	piece := uint32(min(max(r.cache.budget/8, 2*overlap), maxRequest))
	for ; off < end; off += min(piece, end-off) {
		from, to := off, min(end, off+piece+overlap)
		g.Go(func() error {
			_, err := r.cache.load(ctx, rg.Pack, from, to, kept)
			return err
		})
	}
	return g.Wait()
}

// Note tells where blobs are that may be wanted soon. It asks for nothing, but
// lets a Fetch nearby bring them along.
func (r *Reader) Note(ps ...tree.Pointer) {
	for i := range ps {
		r.cache.note(ps[i].Pack, ps[i].Offset+ps[i].SealedLen)
	}
}
