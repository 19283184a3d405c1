// Package keys makes, certifies, wraps and keeps the keys of people and their
// devices. It knows no store and no files: it returns bytes to be kept, and
// judges bytes that came back.
//
// An identity is a person. Its master signing key ([Master]) certifies user
// encryption keys and device keys in a chain of signed statements
// ([IdentityState]); its id is a hash of the master public key, so whoever has
// the id has the key. The master key is needed to change that chain and for
// nothing else; daily work needs a [Session].
//
// A [Keyfile] holds an identity's secrets, sealed under a stretched passphrase.
// The master key has a section of its own, which only [Keyfile.OpenMaster]
// opens. A device's part never leaves its machine: [Keyfile.Export] drops it and
// [Keyfile.WithDevice] makes another.
//
// What it promises:
//
//   - Parsers accept exactly what this package writes, cap all sizes first, and
//     verify before they return: an [IdentityState] that exists is genuine. It
//     may be old; callers remember the newest [Head] they saw, and
//     [IdentityState.Follows] tells a continuation from a rewriting.
//   - Public keys that would let anybody sign, or that have a second encoding,
//     are refused wherever a key comes in.
//   - A keyfile's cost parameters are bounded below and above before anything is
//     allocated.
//   - Failing to open a keyfile is [ErrPassphrase] whatever the reason; failing to
//     open a wrap is seal.ErrUnseal. After opening, each public key is computed
//     anew and compared.
//   - Secrets print as "[redacted]".
//
// Who is trusted: this machine while it is unlocked, and the operating system's
// random generator. Not the store, not the keyfile's bytes, not a teammate's
// identity object.
//
// Nothing here is locked: a Session may be used by many goroutines as long as
// none changes or wipes it.
package keys

import (
	"encoding/hex"
	"errors"
	"unicode"
	"unicode/utf8"

	"kist/crypto/seal"
)

var (
	// ErrKeyfile: the bytes are no keyfile, or none that can be used here. The text
	// says which; nothing in it is secret.
	ErrKeyfile = errors.New("this keyfile cannot be used")
	// ErrPassphrase stands for every failure to open a keyfile.
	ErrPassphrase = errors.New("wrong passphrase or damaged keyfile")
	// ErrIdentity: an identity object is not genuine, or does not continue what is
	// known. A changed key is a reason to stop, never one to ask the user.
	ErrIdentity = errors.New("the identity object is not genuine")
	// ErrSignature: a signature, or the key it should be checked with, is bad.
	ErrSignature = errors.New("the signature is not valid")
	// ErrHeader: kist.json is not one that this program can use.
	ErrHeader = errors.New("the store's header cannot be used")
)

// IdentityID names a person: a hash of the master public key.
type IdentityID [32]byte

// DeviceID names a device: a hash of its public key.
type DeviceID [32]byte

// StoreID names a store. It is public.
type StoreID [32]byte

func (id IdentityID) String() string { return hex.EncodeToString(id[:]) }
func (id DeviceID) String() string   { return hex.EncodeToString(id[:]) }
func (id StoreID) String() string    { return hex.EncodeToString(id[:]) }

// Head is a place in an identity chain: a sequence number and the SHA-256 of the
// object there.
type Head struct {
	Seq  uint64
	Hash [32]byte
}

// MaxName is the longest user or device name in bytes.
const MaxName = 64

// ValidName reports whether a user or device name is allowed: 1 to MaxName bytes
// of printable UTF-8.
func ValidName(name string) bool {
	if len(name) == 0 || len(name) > MaxName || !utf8.ValidString(name) {
		return false
	}
	for _, r := range name {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

func identityOf(master []byte) IdentityID { return seal.Hash(seal.LabelIdentity, master) }

func deviceOf(public []byte) DeviceID { return seal.Hash(seal.LabelDevice, public) }
