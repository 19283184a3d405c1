package check

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"kist/backend"
	"kist/crypto/seal"
	"kist/fs/log"
	"kist/fs/pack"
)

const (
	// recentPacks is how many whole packs stay in memory: a tree's packs are
	// read in order, mostly.
	recentPacks = 4
	probes      = 16 // at once
	wholeReads  = 2  // at once
)

// packs is what is known of the vault's packs. It is the source from which blobs
// are read: with ReadData, each pack is read whole when it is first needed, and
// held against its name and footer then.
type packs struct {
	c      *checker
	prefix string

	mu     sync.Mutex // guards what follows, not the requests
	all    map[[32]byte]*packInfo
	recent []wholePack
	keys   map[uint32]seal.Key
}

type wholePack struct {
	name [32]byte
	raw  []byte
}

// packInfo is what is known of one pack.
type packInfo struct {
	listed int64  // size in the listing: a hint; -1: not listed
	end    uint32 // up to where it is referred to; 0: not at all
	okTo   uint32 // up to where it is known to reach
	failed uint32 // from where on it is known not to; 0: nothing known
	why    string // it was reported
	read   bool   // whole
	size   int64  // if read; 0: it is not there
}

func newPacks(c *checker) *packs {
	return &packs{c: c, prefix: c.folder("packs"), all: map[[32]byte]*packInfo{}, keys: map[uint32]seal.Key{}}
}

func (p *packs) info(name [32]byte) *packInfo {
	i, ok := p.all[name]
	if !ok {
		i = &packInfo{listed: -1}
		p.all[name] = i
	}
	return i
}

func (p *packs) list(name [32]byte, size int64) { p.info(name).listed = size }

func (p *packs) refer(name [32]byte, end uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := p.info(name)
	i.end = max(i.end, end)
}

// reach asks whether a pack reaches to end. What the listing confirms is asked
// only once, at the end of the run.
func (p *packs) reach(ctx context.Context, name [32]byte, end uint32) (why string, err error) {
	p.refer(name, end)
	i := p.info(name)
	switch {
	case i.failed > 0 && end >= i.failed:
		return i.why, nil
	case end <= i.okTo || i.listed >= int64(end):
		return "", nil
	}
	return p.probe(ctx, name, i, end)
}

// probe reads the last byte that is referred to.
func (p *packs) probe(ctx context.Context, name [32]byte, i *packInfo, end uint32) (why string, err error) {
	for _, ctx := range []context.Context{ctx, backend.Fresh(ctx)} {
		_, err = p.c.store.GetRange(ctx, pack.ObjectKey(p.c.cfg.Vault, name), int64(end)-1, 1)
		if err == nil || away(err) {
			break
		}
	}
	if away(err) {
		return "", err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		i.okTo = max(i.okTo, end)
		return "", nil
	}
	p.fail(name, i, end, reason(err))
	return i.why, nil
}

// fail reports a pack, once.
func (p *packs) fail(name [32]byte, i *packInfo, from uint32, what string) {
	if i.why == "" {
		p.c.problem(KindPack, atPack(name), what)
		i.why = "a piece " + which(what) + " (" + atPack(name) + ")"
	}
	if i.failed == 0 || from < i.failed {
		i.failed = from
	}
}

// GetRange implements pack.Source.
func (p *packs) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	name, ok := packName(strings.TrimPrefix(key, p.prefix))
	if !p.c.cfg.ReadData || backend.IsFresh(ctx) || !ok {
		return p.c.store.GetRange(ctx, key, off, n)
	}
	for _, w := range p.recent {
		if w.name == name {
			return cut(w.raw, off, n)
		}
	}
	i := p.info(name)
	if i.read && i.size == 0 {
		return nil, backend.ErrNotExist
	}
	if i.read {
		return p.c.store.GetRange(ctx, key, off, n)
	}
	raw, err := p.whole(ctx, name, i)
	if err != nil {
		return nil, err
	}
	p.recent = append(p.recent, wholePack{name, raw})
	if len(p.recent) > recentPacks {
		p.recent = p.recent[1:]
	}
	return cut(raw, off, n)
}

func cut(raw []byte, off, n int64) ([]byte, error) {
	if off+n > int64(len(raw)) {
		return nil, backend.ErrShort
	}
	return append([]byte(nil), raw[off:off+n]...), nil
}

// whole reads a pack and holds it against its name and footer. Its error is that
// of the reading only.
func (p *packs) whole(ctx context.Context, name [32]byte, i *packInfo) ([]byte, error) {
	key := pack.ObjectKey(p.c.cfg.Vault, name)
	var raw []byte
	var err error
	named := false
	for _, ctx := range []context.Context{ctx, backend.Fresh(ctx)} {
		raw, err = p.c.store.Get(ctx, key, backend.MaxObject)
		if away(err) {
			return nil, err
		}
		if named = err == nil && sha256.Sum256(raw) == name; named {
			break
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	i.read, i.size = true, int64(len(raw))
	switch {
	case err != nil && i.end == 0 && errors.Is(err, backend.ErrNotExist):
		// The listing was wrong, or it is gone. Nobody wants it.
	case err != nil:
		p.fail(name, i, 1, reason(err))
	case !named:
		p.fail(name, i, 1, "not what its name says")
	default:
		return raw, p.footer(ctx, name, i, raw)
	}
	return raw, err
}

// footer checks that a pack is one of this vault, byte for byte. One that nobody
// refers to may be anything: its name is right, and that is all that binds it.
func (p *packs) footer(ctx context.Context, name [32]byte, i *packInfo, raw []byte) error {
	epoch, err := pack.Epoch(raw)
	if err == nil {
		var key seal.Key
		if key, err = p.footerKey(ctx, epoch); err == nil {
			_, err = pack.Footer{Vault: p.c.cfg.Vault, Epoch: epoch, Key: key}.Parse(raw)
		}
	}
	switch {
	case err == nil:
	case away(err):
		return err
	case i.end > 0:
		p.fail(name, i, 1, "not a pack of this vault by its footer")
	default:
		p.c.note(KindStranger, atPack(name), "not a pack of this vault")
	}
	return nil
}

func (p *packs) footerKey(ctx context.Context, epoch uint32) (seal.Key, error) {
	if key, ok := p.keys[epoch]; ok {
		return key, nil
	}
	if epoch > p.c.log.Head().Roster.Epoch {
		return seal.Key{}, log.ErrNotMember
	}
	key, err := p.c.cfg.FooterKey(ctx, p.c.log, epoch)
	if err == nil {
		p.keys[epoch] = key
	}
	return key, err
}

// finish reads the packs that no walk came by (ReadData), or asks each that is
// referred to whether it reaches that far, and counts.
func (p *packs) finish(ctx context.Context) error {
	g, within := errgroup.WithContext(ctx)
	g.SetLimit(probes)
	if p.c.cfg.ReadData {
		g.SetLimit(wholeReads)
	}
	p.recent = nil
	for name, i := range p.all {
		switch {
		case p.c.cfg.ReadData && !i.read:
			g.Go(func() error { return p.rest(within, name, i) })
		case !p.c.cfg.ReadData && i.end > i.okTo && i.why == "":
			g.Go(func() error { _, err := p.probe(within, name, i, i.end); return err })
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	p.count()
	return nil
}

func (p *packs) rest(ctx context.Context, name [32]byte, i *packInfo) error {
	_, err := p.whole(ctx, name, i)
	if away(err) {
		return err
	}
	return nil
}

func (p *packs) count() {
	r := p.c.report
	for name, i := range p.all {
		size := i.size
		if !i.read {
			size = max(i.listed, int64(i.end))
		}
		switch {
		case i.end > 0:
			r.Packs++
			r.PackBytes += uint64(size)
			if i.read && int64(i.end) > size && i.why == "" {
				p.fail(name, i, i.end, reason(backend.ErrShort))
			}
		case i.read && size == 0:
		default:
			r.Unreferenced++
			r.UnreferencedBytes += uint64(size)
		}
	}
	if r.Unreferenced > 0 {
		p.c.note(KindStranger, "packs", fmt.Sprintf("%d packs that nothing refers to that was walked (of interrupted commits, or made meanwhile)", r.Unreferenced))
	}
}

// packName reads the last part of a pack's key.
func packName(s string) (name [32]byte, ok bool) {
	if len(s) != 64 || strings.ToLower(s) != s {
		return name, false
	}
	n, err := hex.Decode(name[:], []byte(s))
	return name, err == nil && n == 32
}
