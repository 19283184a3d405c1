// Package backend is the contract of the store: the bucket or directory in
// which kist keeps its objects.
//
// # Who is trusted
//
// The store is not. It may lose, change, swap, replay or withhold what it was
// given, answer two clients differently and lie in every listing. A Store
// promises only that the answer is to the question that was asked (right key,
// right range, right length); whether the bytes are the right ones is judged
// above, by fingerprints and signatures. A Store knows no keys and sees only
// sealed bytes.
//
// # Objects
//
// Every object belongs to one of three kinds, and the kind says which call
// writes it:
//
//   - created once (log slots, identity chains, kist.json): Create. Never
//     overwritten, never deleted.
//   - named by content (packs): Put. Writing the same name again writes the
//     same bytes, so it is harmless, and so is any retry.
//   - hints (vault hints): Put. Unauthenticated, may be lost or stale.
//
// # Durability and order
//
// When Put or Create returns nil, the object is durable: it survives the crash
// of the client and, as far as the store's operator keeps their word, the crash
// of the store; and every Get that starts afterwards, from any machine, finds
// it. Calls that overlap have no order.
//
// # Ambiguity
//
// A write that returns an error may have happened, unless the error is
// ErrExist, ErrInvalid or ErrUnsupported, or the context was done when the call
// began. A request that was on its way when the call was given up may even
// arrive after the call has returned. Nothing above may conclude from an error
// that an object is absent, now or later.
//
// For Create this has a sharp edge: an earlier attempt whose answer was lost
// makes the next one answer ErrExist. Therefore ErrExist says "something is
// there", never "someone else's is there": whoever may have tried before reads
// the object back and compares. Within one call, Create is sent again only
// after an answer that says nothing was written (a conflict with a concurrent
// request), so a first call's ErrExist is about another's write or an older
// call of one's own.
//
// # Who retries
//
// A Store makes a few quick tries of Get, GetRange, List, Delete and Put. It
// never waits long: staying with a store that is away is the caller's decision,
// with the caller's context. After a call has returned because its context was
// done, it starts no further request.
//
// # Errors
//
// Every error is one of the kinds below (errors.Is), or the context's own
// error. No error has a syscall.Errno or fs.ErrNotExist in its chain: above,
// those mean the outcome of a file operation, and a refused connection or a
// missing bucket must never be mistaken for a missing file. Messages contain no
// key and no credential.
//
// # Memory
//
// A body is read only while the call runs and is never kept or changed. A
// returned slice belongs to the caller. All methods may be called concurrently.
package backend

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Limits that hold for every store.
const (
	MaxObject  = 64 << 20 // bytes in one object
	MaxKey     = 512      // bytes in a key
	MaxSegment = 200      // bytes between two slashes
)

// The kinds of error. A caller acts on the kind; the message is for people.
var (
	// ErrNotExist: the store says that there is no such object. It may lie.
	ErrNotExist = errors.New("no such object in the store")
	// ErrExist: Create found an object in place. It may be the caller's own.
	ErrExist = errors.New("the object is already in the store")
	// ErrTooLarge: the object is larger than the caller's limit.
	ErrTooLarge = errors.New("the object is larger than it may be")
	// ErrShort: the answer is not the range or length that was asked for. The
	// object is truncated, or the store or something in front of it lies. No
	// byte of such an answer is ever returned.
	ErrShort = errors.New("the store did not return the bytes that were asked for")
	// ErrAway: the store can't be reached or can't serve now: refused, timed
	// out, broken off, overloaded, full, bucket or directory missing. Later may work.
	ErrAway = errors.New("the store is away")
	// ErrFull: an ErrAway whose cause is that the store has no room.
	ErrFull = fmt.Errorf("%w: it is full", ErrAway)
	// ErrDenied: no or wrong credentials, or rights that do not suffice. A
	// credential without list rights gets this for a missing object, too.
	ErrDenied = errors.New("the store refuses access")
	// ErrUnsupported: the store lacks something kist can't do without, above
	// all conditional writes.
	ErrUnsupported = errors.New("the store is not suitable")
	// ErrInvalid: the call can't ever succeed (illegal key, range or length,
	// empty body, sum that is not the body's). Nothing was written.
	ErrInvalid = errors.New("invalid call of the store")
)

// A Store keeps objects under keys. The package comment holds for all methods.
type Store interface {
	// Get returns the whole object. An object of more than limit bytes (0 to
	// MaxObject) is ErrTooLarge, and no more than that is ever held in memory.
	// Errors: ErrNotExist, ErrTooLarge, ErrShort, ErrAway, ErrDenied, ErrInvalid.
	Get(ctx context.Context, key string, limit int64) ([]byte, error)

	// GetRange returns exactly the n bytes that begin at off. If the object
	// ends before off+n, or the answer is any other range, it returns ErrShort
	// and no bytes. For n = 0 it returns an empty slice and asks nothing.
	// Errors: as Get, without ErrTooLarge.
	GetRange(ctx context.Context, key string, off, n int64) ([]byte, error)

	// Put writes the object, over whatever is there. sum is the SHA-256 of
	// body; the store checks it before the object becomes visible, so that
	// bytes damaged on the way are refused. A reader sees the old object, no
	// object or the whole new object, never a part.
	// Errors: ErrAway, ErrDenied, ErrInvalid.
	Put(ctx context.Context, key string, body []byte, sum [32]byte) error

	// Create writes the object if the key is free. Of any number of concurrent
	// Creates of one key, from any number of machines, at most one returns nil.
	// ErrExist: something is there; see Ambiguity.
	// Errors: ErrExist, ErrAway, ErrDenied, ErrUnsupported, ErrInvalid.
	Create(ctx context.Context, key string, body []byte) error

	// List calls fn for each object whose key begins with prefix, which is
	// empty or ends with a slash. In no order; what is written or deleted
	// meanwhile may appear or not. The names are whatever the store says:
	// strangers, even illegal as keys, are among them. For diagnosis and
	// collection of garbage only: no decision may rest on an absence here.
	// An error of fn ends the listing and is returned as it is.
	// Errors: ErrAway, ErrDenied, ErrShort, ErrInvalid, fn's.
	List(ctx context.Context, prefix string, fn func(key string, size int64) error) error

	// Delete removes the object; an absent one is no error.
	// Errors: ErrAway, ErrDenied, ErrInvalid.
	Delete(ctx context.Context, key string) error

	// String names the store for people; it contains no credentials.
	String() string
}

type freshKey struct{}

// Fresh returns a context under which reads go over connections of their own.
// Whoever is about to believe that an object is bad asks again like this, so
// that one broken proxy or connection is not taken for the store.
func Fresh(ctx context.Context) context.Context {
	return context.WithValue(ctx, freshKey{}, true)
}

// IsFresh reports whether ctx came from Fresh.
func IsFresh(ctx context.Context) bool {
	v, _ := ctx.Value(freshKey{}).(bool)
	return v
}

// CheckKey reports whether key is legal: 1 to MaxKey bytes of printable ASCII
// without backslash, in segments of 1 to MaxSegment bytes separated by single
// slashes, no segment beginning with a dot. That rules out "..", absolute
// paths and the names that stores keep for themselves. One key may not be
// another's folder ("a" and "a/b"): a directory can't hold both.
func CheckKey(key string) error {
	if len(key) == 0 || len(key) > MaxKey {
		return fmt.Errorf("%w: a key of %d bytes", ErrInvalid, len(key))
	}
	for seg := range strings.SplitSeq(key, "/") {
		if len(seg) == 0 || len(seg) > MaxSegment || seg[0] == '.' {
			return fmt.Errorf("%w: a key with an empty, too long or hidden segment", ErrInvalid)
		}
	}
	for i := range len(key) {
		if c := key[i]; c < 0x20 || c > 0x7e || c == '\\' {
			return fmt.Errorf("%w: a key with byte %#02x", ErrInvalid, c)
		}
	}
	return nil
}

// CheckPrefix reports whether prefix may be listed: empty, or a legal key and
// a slash.
func CheckPrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	folder, ok := strings.CutSuffix(prefix, "/")
	if !ok {
		return fmt.Errorf("%w: a prefix that does not end with a slash", ErrInvalid)
	}
	return CheckKey(folder)
}

// CheckWrite reports whether body may be written under key.
func CheckWrite(key string, body []byte) error {
	if len(body) == 0 || len(body) > MaxObject {
		return fmt.Errorf("%w: an object of %d bytes", ErrInvalid, len(body))
	}
	return CheckKey(key)
}

// CheckRange reports whether the range may be asked for.
func CheckRange(key string, off, n int64) error {
	if off < 0 || n < 0 || off > MaxObject || n > MaxObject-off {
		return fmt.Errorf("%w: a range of %d bytes at %d", ErrInvalid, n, off)
	}
	return CheckKey(key)
}
