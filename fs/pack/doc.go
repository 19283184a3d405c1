// Package pack puts sealed blobs into packs and reads them back by range.
//
// # What it promises
//
//   - Writer fills packs of at most MaxSize bytes and hands each over, whole and
//     named, before anything learns its name. It is for one goroutine.
//   - Parse accepts a pack only if every byte of it is covered: blobs by their
//     fingerprints, the rest by the footer's seal. It is for checks and for
//     rebuilding an index, not for reading files.
//   - Reader returns plaintext only after seal.OpenBlob has checked it against
//     the pointer. It reads more than it was asked for, because neighbours are
//     wanted next, keeps that sealed and within a byte budget, and asks for a
//     range once however many want it. It never reads behind what it has been told
//     is there, so that no request fails for being curious. Safe for concurrent
//     use.
//
// The store is not trusted: what does not verify is asked for once more, alone and
// over a fresh connection, and is seal.ErrUnseal if that is no better.
package pack

import (
	"encoding/hex"
	"errors"

	"kist/crypto/seal"
)

const (
	// MaxSize is what a Writer lets a pack grow to, footer and padding included.
	MaxSize = 16 << 20

	magic       = "kistpck1"
	trailerSize = 4 + 4 + len(magic)
	rowSize     = 32 + 1 + 4 + 32
	// fixedSize is what a pack has besides blobs, rows and padding.
	fixedSize = seal.OverheadK + 4 + trailerSize
)

// ErrMalformed says that an object is not a pack of this vault, or damaged.
var ErrMalformed = errors.New("pack: the object is damaged or not a pack of this vault; nothing was read from it")

// Footer is what seals and opens footers: the vault, an epoch, and the key
// derived for that epoch.
type Footer struct {
	Vault seal.VaultID
	Epoch uint32
	Key   seal.Key
}

// ObjectKey is the key of a pack in the store.
func ObjectKey(vault seal.VaultID, name [32]byte) string {
	return "vaults/" + hex.EncodeToString(vault[:]) + "/packs/" + hex.EncodeToString(name[:])
}
