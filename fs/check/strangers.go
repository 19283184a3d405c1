package check

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"kist/backend"
	"kist/crypto/keys"
)

// listing is what the store says that it has, packs aside. It is believed in
// nothing.
type listing struct {
	slots []uint64
	ids   map[keys.IdentityID][]uint64
	odd   []odd // the first of those that have no place in the layout
}

type odd struct {
	key  string
	size int64
}

// maxOdd bounds how many strangers are named.
const maxOdd = 100

// list asks what there is below the vault's prefix and, to read it all, among
// the identities. It comes before the log is opened, so that what is made
// meanwhile is not taken for a stranger.
func (c *checker) list(ctx context.Context) error {
	c.listing.ids = map[keys.IdentityID][]uint64{}
	vault := strings.TrimSuffix(c.folder("log"), "log/")
	err := c.store.List(ctx, vault, func(key string, size int64) error {
		c.inVault(key, strings.TrimPrefix(key, vault), size)
		return ctx.Err()
	})
	if err != nil {
		return fmt.Errorf("listing the vault: %w", err)
	}
	if !c.cfg.ReadData {
		return nil
	}
	err = c.store.List(ctx, "ids/", func(key string, size int64) error {
		c.inIDs(key, size)
		return ctx.Err()
	})
	if err != nil {
		return fmt.Errorf("listing the identities: %w", err)
	}
	return nil
}

func (c *checker) inVault(key, rest string, size int64) {
	folder, name, _ := strings.Cut(rest, "/")
	if pack, ok := packName(name); ok && folder == "packs" {
		c.packs.list(pack, size)
		return
	}
	if seq, ok := sequence(name); ok && folder == "log" {
		c.listing.slots = append(c.listing.slots, seq)
		return
	}
	if rest != "hint" {
		c.odd(key, size)
	}
}

func (c *checker) inIDs(key string, size int64) {
	who, name, _ := strings.Cut(strings.TrimPrefix(key, "ids/"), "/")
	id, ok := packName(who)
	seq, fits := sequence(name)
	if !ok || !fits {
		c.odd(key, size)
		return
	}
	c.listing.ids[id] = append(c.listing.ids[id], seq)
}

func (c *checker) odd(key string, size int64) {
	c.report.Strangers++
	c.report.StrangerBytes += uint64(max(size, 0))
	if len(c.listing.odd) < maxOdd {
		c.listing.odd = append(c.listing.odd, odd{key, size})
	}
}

// sequence reads the last part of the key of a slot or an identity object.
func sequence(s string) (uint64, bool) {
	if len(s) != 16 || strings.ToLower(s) != s {
		return 0, false
	}
	if _, err := hex.DecodeString(s); err != nil {
		return 0, false
	}
	seq, err := strconv.ParseUint(s, 16, 64)
	return seq, err == nil
}

// strangers tells of what has no place, and reads what is left to read.
func (c *checker) strangers(ctx context.Context) error {
	for _, o := range c.listing.odd {
		c.note(KindStranger, atKey(o.key), fmt.Sprintf("%d bytes that have no place here; left alone", o.size))
	}
	top := c.log.Head().Seq + uint64(len(c.log.Voids()))
	for _, seq := range c.listing.slots {
		if seq > top {
			c.report.Strangers++
			c.note(KindStranger, atSlot(seq), "lies above the newest commit: made meanwhile, or junk")
		}
	}
	if !c.cfg.ReadData {
		return nil
	}
	if err := c.hint(ctx); err != nil {
		return err
	}
	return c.loneIdentities(ctx)
}

// hint reads what nothing vouches for: it can be wrong, but never damage.
func (c *checker) hint(ctx context.Context) error {
	raw, err := c.store.Get(ctx, strings.TrimSuffix(c.folder("hint"), "/"), 8)
	switch {
	case away(err):
		return err
	case errors.Is(err, backend.ErrNotExist):
	case err != nil || len(raw) != 8 || binary.BigEndian.Uint64(raw) > c.log.Head().Seq:
		c.note(KindStranger, "hint", "points nowhere; it costs a request and no more")
	}
	return nil
}
