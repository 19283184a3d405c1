package log

import (
	"bytes"
	"time"

	"kist/crypto/keys"
	"kist/crypto/seal"
)

// body is what a commit says, as it is encoded.
type body struct {
	kind     Kind
	author   keys.IdentityID
	device   keys.DeviceID
	point    Head   // of the author's identity chain
	identity []byte // the object at point, if the state before has another point
	time     int64
	rosterAt Head
	root     []byte
	nodes    []Range
	devices  []DeviceRow
	points   []IdentityHead
	voids    []Void
	heads    []VaultHead
	summary  Summary
	override *Override
	roster   *Roster
	genesis  *genesis
}

// genesis is what makes the vault's id this founder's.
type genesis struct {
	store  keys.StoreID
	master [32]byte
}

const (
	rangeLen    = 32 + 4 + 4
	rowLen      = 32 + 2 + 4 + 16 + 8 + 32
	headLen     = 8 + 32
	namedLen    = 32 + headLen
	overrideLen = 32 + 2*headLen
	memberLen   = 32 + 1 + headLen
	rosterLen   = 32 + 4 + 32 + 4 + 4
	genesisLen  = 32 + 32
)

func (b *body) encode() []byte {
	var w writer
	w.u8(uint8(b.kind))
	w.bytes(b.author[:])
	w.bytes(b.device[:])
	w.head(b.point)
	w.field(b.identity)
	w.u64(uint64(b.time))
	w.head(b.rosterAt)
	w.field(b.root)
	writeList(&w, b.nodes, w.rng)
	writeList(&w, b.devices, w.row)
	writeList(&w, b.points, func(p IdentityHead) { w.named(p.Identity, p.Head) })
	writeList(&w, b.voids, func(v Void) { w.head(Head(v)) })
	writeList(&w, b.heads, func(h VaultHead) { w.named(h.Vault, h.Head) })
	w.u32(b.summary.Created)
	w.u32(b.summary.Changed)
	w.u32(b.summary.Removed)
	w.u64(b.summary.Bytes)
	writeList(&w, opt(b.override), func(o Override) { w.named(o.Vault, o.Remembered); w.head(o.Accept) })
	writeList(&w, opt(b.roster), func(r Roster) { w.roster(&r) })
	writeList(&w, opt(b.genesis), func(g genesis) { w.bytes(g.store[:]); w.bytes(g.master[:]) })
	for range 3 { // retired packs, dedup, places
		w.u32(0)
	}
	return w
}

func (w *writer) rng(r Range) {
	w.bytes(r.Pack[:])
	w.u32(r.Off)
	w.u32(r.Len)
}

func (w *writer) row(d DeviceRow) {
	w.bytes(d.Device[:])
	w.u16(d.Number)
	w.u32(d.HighIno)
	w.bytes(d.Journal[:])
	w.u64(d.Op)
	w.bytes(d.Run[:])
}

func (w *writer) named(id [32]byte, h Head) {
	w.bytes(id[:])
	w.head(h)
}

// members writes the part of a roster that its hash covers.
func (w *writer) members(r *Roster) {
	w.bytes(r.Nonce[:])
	w.u32(r.Epoch)
	w.bytes(r.ESCommit[:])
	writeList(w, r.Members, func(m Member) {
		w.bytes(m.Identity[:])
		w.u8(uint8(m.Role))
		w.head(m.Pin)
	})
}

func (w *writer) roster(r *Roster) {
	w.members(r)
	writeList(w, r.Past, w.head)
}

func parseBody(raw []byte) (*body, error) {
	r := &reader{rest: raw}
	b := &body{
		kind: Kind(r.u8()), author: r.b32(), device: r.b32(), point: r.head(),
		identity: r.field(keys.MaxIdentity), time: int64(r.u64()), rosterAt: r.head(),
		root:    r.field(MaxState),
		nodes:   readList(r, MaxRanges, rangeLen, r.rng),
		devices: readList(r, MaxDevice, rowLen, r.row),
		points:  readList(r, MaxMembers, namedLen, func() IdentityHead { return IdentityHead{r.b32(), r.head()} }),
		voids:   readList(r, MaxVoids, headLen, func() Void { return Void(r.head()) }),
		heads:   readList(r, MaxHeads, namedLen, func() VaultHead { return VaultHead{r.b32(), r.head()} }),
		summary: Summary{r.u32(), r.u32(), r.u32(), r.u64()},
		override: one(readList(r, 1, overrideLen, func() Override {
			return Override{r.b32(), r.head(), r.head()}
		})),
		roster:  one(readList(r, 1, rosterLen, r.roster)),
		genesis: one(readList(r, 1, genesisLen, func() genesis { return genesis{r.b32(), r.b32()} })),
	}
	for range 3 {
		r.require(r.u32() == 0)
	}
	if !r.end() || !b.ordered() || !bytes.Equal(b.encode(), raw) {
		return nil, bad("malformed body")
	}
	return b, nil
}

func (r *reader) rng() Range {
	out := Range{Pack: r.b32(), Off: r.u32(), Len: r.u32()}
	r.require(out.Len > 0 && uint64(out.Off)+uint64(out.Len) <= maxRange)
	return out
}

func (r *reader) row() DeviceRow {
	d := DeviceRow{Device: r.b32(), Number: r.u16(), HighIno: r.u32(), Journal: [16]byte(r.take(16)), Op: r.u64(), Run: r.b32()}
	r.require(d.Number >= 1 && d.Number <= MaxDevice)
	return d
}

func (r *reader) member() Member {
	m := Member{Identity: r.b32(), Role: Role(r.u8()), Pin: r.head()}
	r.require(m.Role >= Reader && m.Role <= Owner)
	return m
}

func (r *reader) roster() Roster {
	return Roster{
		Nonce: r.b32(), Epoch: r.u32(), ESCommit: r.b32(),
		Members: readList(r, MaxMembers, memberLen, r.member),
		Past:    readList(r, maxPast, headLen, r.head),
	}
}

// ordered holds what the layout alone can't: order, and what needs no state.
func (b *body) ordered() bool {
	if b.kind < Ordinary || b.kind > Numbering || b.time < 0 || (b.roster != nil) != (b.kind == Membership) {
		return false
	}
	if b.genesis != nil && b.kind != Membership {
		return false
	}
	devices := map[keys.DeviceID]bool{}
	for _, d := range b.devices {
		devices[d.Device] = true
	}
	ok := len(devices) == len(b.devices) &&
		ascending(b.devices, func(a, z DeviceRow) bool { return a.Number < z.Number }) &&
		ascending(b.points, func(a, z IdentityHead) bool { return less(a.Identity, z.Identity) }) &&
		ascending(b.voids, func(a, z Void) bool { return a.Seq+1 == z.Seq }) &&
		ascending(b.heads, func(a, z VaultHead) bool { return less(a.Vault, z.Vault) })
	return ok && (b.roster == nil || b.roster.ordered())
}

func (r *Roster) ordered() bool {
	owners := 0
	for _, m := range r.Members {
		if m.Role == Owner {
			owners++
		}
	}
	return owners > 0 &&
		ascending(r.Members, func(a, z Member) bool { return less(a.Identity, z.Identity) }) &&
		ascending(r.Past, func(a, z Head) bool { return a.Seq < z.Seq })
}

func (r *Roster) role(id keys.IdentityID) Role {
	for _, m := range r.Members {
		if m.Identity == id {
			return m.Role
		}
	}
	return 0
}

// hash binds members, roles, epoch secret and the owner who says so.
func (r *Roster) hash(author keys.IdentityID) [32]byte {
	var w writer
	w.members(r)
	return seal.Hash(seal.LabelMembers, author[:], w)
}

// commit turns the body into what callers see.
func (b *body) commit(h Head, epoch uint32, prev Hash) *Commit {
	return &Commit{
		Head: h, Epoch: epoch, Prev: prev, Kind: b.kind,
		Author: b.author, Device: b.device, Identity: b.point, Time: time.Unix(0, b.time).UTC(),
		Root: b.root, Nodes: b.nodes, Devices: b.devices, Identities: b.points,
		Voids: b.voids, Heads: b.heads, RosterAt: b.rosterAt, Roster: b.roster,
		Summary: b.summary, Override: b.override,
	}
}

func less[T ~[32]byte](a, b T) bool {
	x, y := [32]byte(a), [32]byte(b)
	return bytes.Compare(x[:], y[:]) < 0
}

func ascending[T any](items []T, before func(a, z T) bool) bool {
	for i := 1; i < len(items); i++ {
		if !before(items[i-1], items[i]) {
			return false
		}
	}
	return true
}

func opt[T any](v *T) []T {
	if v == nil {
		return nil
	}
	return []T{*v}
}

func one[T any](v []T) *T {
	if len(v) == 0 {
		return nil
	}
	return &v[0]
}
