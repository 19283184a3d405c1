// Package backendtest is the conformance suite of backend.Store. Every
// implementation runs it, fakes and real servers alike, so that a test against
// a fake says something about the world. Errors are part of the contract, so
// they are part of the suite.
package backendtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"kist/backend"
)

// Run checks the contract. open returns a new, empty store for each call; what
// it made it takes away by t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) backend.Store) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, s backend.Store)
	}{
		{"absent", absent},
		{"get", get},
		{"limits", limits},
		{"ranges", ranges},
		{"put", put},
		{"put with a wrong sum", putWrongSum},
		{"create once", createOnce},
		{"create race", func(t *testing.T, s backend.Store) { Race(t, []backend.Store{s}, 16) }},
		{"create keeps the caller's bytes", ownership},
		{"delete", deletes},
		{"list", list},
		{"list stops", listStops},
		{"weird keys", weirdKeys},
		{"illegal keys", illegalKeys},
		{"illegal calls", illegalCalls},
		{"cancelled", cancelled},
		{"fresh", fresh},
		{"concurrent use", concurrent},
		{"probe", probe},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

// want fails unless err is of the kind (nil: no error) and of no other, with
// nothing in its chain that means something else above.
func want(t *testing.T, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("got error %v, want %v", err, kind)
	}
	if err == nil {
		return
	}
	for _, other := range []error{
		backend.ErrNotExist, backend.ErrExist, backend.ErrTooLarge, backend.ErrShort, backend.ErrAway,
		backend.ErrDenied, backend.ErrUnsupported, backend.ErrInvalid, context.Canceled, fs.ErrNotExist,
	} {
		if !errors.Is(kind, other) && errors.Is(err, other) {
			t.Fatalf("error %v is also %v", err, other)
		}
	}
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		t.Fatalf("error %v has an errno in its chain", err)
	}
}

// Bytes returns n bytes that depend on the seed.
func Bytes(seed string, n int) []byte {
	var b []byte
	for i := 0; len(b) < n; i++ {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s/%d", seed, i))
		b = append(b, sum[:]...)
	}
	return b[:n]
}

func mustPut(t *testing.T, s backend.Store, key string, body []byte) {
	t.Helper()
	want(t, s.Put(t.Context(), key, body, sha256.Sum256(body)), nil)
}

func mustHold(t *testing.T, s backend.Store, key string, body []byte) {
	t.Helper()
	got, err := s.Get(t.Context(), key, int64(len(body)))
	want(t, err, nil)
	if !bytes.Equal(got, body) {
		t.Fatalf("read back %d bytes that are not the %d written", len(got), len(body))
	}
}

func mustLack(t *testing.T, s backend.Store, key string) {
	t.Helper()
	got, err := s.Get(t.Context(), key, backend.MaxObject)
	want(t, err, backend.ErrNotExist)
	if got != nil {
		t.Fatal("bytes beside an error")
	}
}

func absent(t *testing.T, s backend.Store) {
	mustLack(t, s, "nothing")
	mustLack(t, s, "no/such/folder")
	mustPut(t, s, "a/b/c", []byte("x"))
	mustLack(t, s, "a/b")
	mustLack(t, s, "a/b/d")
	got, err := s.GetRange(t.Context(), "nothing", 0, 1)
	want(t, err, backend.ErrNotExist)
	if got != nil {
		t.Fatal("bytes beside an error")
	}
}

func get(t *testing.T, s backend.Store) {
	for _, n := range []int{1, 2, 511, 4096, 4097, 1 << 20, 9<<20 + 1} {
		body := Bytes("get", n)
		mustPut(t, s, fmt.Sprintf("get/%d", n), body)
		mustHold(t, s, fmt.Sprintf("get/%d", n), body)
	}
}

func limits(t *testing.T, s backend.Store) {
	mustPut(t, s, "k", Bytes("k", 1000))
	for limit, kind := range map[int64]error{
		0: backend.ErrTooLarge, 1: backend.ErrTooLarge, 999: backend.ErrTooLarge,
		1000: nil, 1001: nil, backend.MaxObject: nil,
	} {
		got, err := s.Get(t.Context(), "k", limit)
		want(t, err, kind)
		if (err == nil) != (len(got) == 1000) {
			t.Fatalf("limit %d: %d bytes", limit, len(got))
		}
	}
}

func ranges(t *testing.T, s backend.Store) {
	body := Bytes("ranges", 10_000)
	mustPut(t, s, "k", body)
	for _, c := range []struct {
		off, n int64
		kind   error
	}{
		{0, 1, nil}, {0, 10_000, nil}, {9_999, 1, nil}, {17, 4096, nil}, {5_000, 5_000, nil},
		{0, 10_001, backend.ErrShort}, {9_999, 2, backend.ErrShort}, {10_000, 1, backend.ErrShort},
		{1 << 20, 1, backend.ErrShort}, {0, backend.MaxObject, backend.ErrShort},
		{0, 0, nil}, {10_000, 0, nil}, {20_000, 0, nil},
	} {
		got, err := s.GetRange(t.Context(), "k", c.off, c.n)
		want(t, err, c.kind)
		if err == nil && !bytes.Equal(got, body[min(c.off, 10_000):min(c.off+c.n, 10_000)]) {
			t.Fatalf("wrong bytes for %d+%d", c.off, c.n)
		}
		if err == nil && got == nil || err != nil && got != nil {
			t.Fatalf("%d+%d: a nil slice goes with an error, and only with one", c.off, c.n)
		}
	}
}

func put(t *testing.T, s backend.Store) {
	body := Bytes("put", 3000)
	mustPut(t, s, "p/q", body)
	mustPut(t, s, "p/q", body)
	mustHold(t, s, "p/q", body)
	mustPut(t, s, "p/q", []byte("a hint changes, and may shrink"))
	mustHold(t, s, "p/q", []byte("a hint changes, and may shrink"))
}

func putWrongSum(t *testing.T, s backend.Store) {
	want(t, s.Put(t.Context(), "k", []byte("one"), sha256.Sum256([]byte("two"))), backend.ErrInvalid)
	mustLack(t, s, "k")
	mustPut(t, s, "k", []byte("one"))
	want(t, s.Put(t.Context(), "k", []byte("two"), sha256.Sum256([]byte("three"))), backend.ErrInvalid)
	mustHold(t, s, "k", []byte("one"))
}

func createOnce(t *testing.T, s backend.Store) {
	want(t, s.Create(t.Context(), "log/0", []byte("first")), nil)
	want(t, s.Create(t.Context(), "log/0", []byte("second")), backend.ErrExist)
	want(t, s.Create(t.Context(), "log/0", []byte("first")), backend.ErrExist)
	mustHold(t, s, "log/0", []byte("first"))
	mustPut(t, s, "other", []byte("put"))
	want(t, s.Create(t.Context(), "other", []byte("created")), backend.ErrExist)
	mustHold(t, s, "other", []byte("put"))
	want(t, s.Delete(t.Context(), "log/free"), nil)
	want(t, s.Create(t.Context(), "log/free", Bytes("big", 1<<20)), nil)
	mustHold(t, s, "log/free", Bytes("big", 1<<20))
}

// Race lets n creators compete for each of some keys, spread over the stores,
// which must show the same objects. Each key must have one winner.
func Race(t *testing.T, stores []backend.Store, n int) {
	for round := range 8 {
		key := fmt.Sprintf("race/%d", round)
		outcomes := make([]error, n)
		body := func(i int) []byte { return Bytes(fmt.Sprintf("racer %d", i), 200+i) }
		start := make(chan struct{})
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				<-start
				outcomes[i] = stores[i%len(stores)].Create(t.Context(), key, body(i))
			})
		}
		close(start)
		wg.Wait()
		winner := -1
		for i, err := range outcomes {
			if err == nil && winner >= 0 {
				t.Fatalf("both %d and %d created %s", winner, i, key)
			} else if err == nil {
				winner = i
			} else {
				want(t, err, backend.ErrExist)
			}
		}
		if winner < 0 {
			t.Fatalf("nobody created %s", key)
		}
		for _, s := range stores {
			mustHold(t, s, key, body(winner))
		}
	}
}

func ownership(t *testing.T, s backend.Store) {
	body := []byte("mine")
	want(t, s.Create(t.Context(), "a", body), nil)
	mustPut(t, s, "b", body)
	if string(body) != "mine" {
		t.Fatal("the store changed the caller's bytes")
	}
	copy(body, "gone")
	for _, key := range []string{"a", "b"} {
		got, err := s.Get(t.Context(), key, 10)
		want(t, err, nil)
		copy(got, "ours")
		mustHold(t, s, key, []byte("mine"))
	}
}

func deletes(t *testing.T, s backend.Store) {
	want(t, s.Delete(t.Context(), "x/never"), nil)
	mustPut(t, s, "x/y", []byte("1"))
	mustPut(t, s, "x/yz", []byte("2"))
	want(t, s.Delete(t.Context(), "x"), nil)
	want(t, s.Delete(t.Context(), "x/y"), nil)
	mustLack(t, s, "x/y")
	mustHold(t, s, "x/yz", []byte("2"))
	want(t, s.Create(t.Context(), "x/y", []byte("3")), nil)
	mustHold(t, s, "x/y", []byte("3"))
}

func listing(t *testing.T, s backend.Store, prefix string) map[string]int64 {
	t.Helper()
	got := map[string]int64{}
	want(t, s.List(t.Context(), prefix, func(key string, size int64) error {
		if _, twice := got[key]; twice {
			t.Fatalf("%s is listed twice", key)
		}
		got[key] = size
		return nil
	}), nil)
	return got
}

func list(t *testing.T, s backend.Store) {
	if got := listing(t, s, ""); len(got) != 0 {
		t.Fatalf("an empty store lists %v", got)
	}
	if got := listing(t, s, "a/"); len(got) != 0 {
		t.Fatalf("an empty folder lists %v", got)
	}
	all := map[string]int64{}
	for i, key := range []string{"kist.json", "a/1", "a/b/2", "a/b-c/3", "ab/4", "a-b", "b/a/5"} {
		all[key] = int64(i + 1)
		mustPut(t, s, key, Bytes(key, i+1))
	}
	for _, prefix := range []string{"", "a/", "a/b/", "b/", "b/a/", "nothing/", "a/b-c/3/"} {
		sub := maps.Clone(all)
		maps.DeleteFunc(sub, func(key string, _ int64) bool { return !strings.HasPrefix(key, prefix) })
		if got := listing(t, s, prefix); !maps.Equal(got, sub) {
			t.Fatalf("prefix %q lists %v, want %v", prefix, got, sub)
		}
	}
}

func listStops(t *testing.T, s backend.Store) {
	for _, key := range []string{"a", "b", "c"} {
		mustPut(t, s, key, []byte("x"))
	}
	enough, calls := errors.New("enough"), 0
	err := s.List(t.Context(), "", func(string, int64) error { calls++; return enough })
	if err != enough || calls != 1 {
		t.Fatalf("listing went on %d times and returned %v", calls, err)
	}
}

// Legal keys that break careless escaping or file naming.
var weird = []string{
	"a..b", "x.", "-dash", "--", "with space", " lead", "trail ", "plus+plus", "per%20cent", "%", "q?a=b&c",
	"hash#frag", "semi;colon", "co:lon", "at@", "st*ar", "quote\"s'", "(br)[a]{c}", "<lt>", "pipe|", "tilde~",
	"~home", "dollar$", "back`tick", "ca^ret", "eq=", "comma,", "deep/er/than/usual/by/some/levels", "UPPER", "_",
	strings.Repeat("n", backend.MaxSegment), strings.Repeat("s/", backend.MaxKey/2-2) + "ss",
}

func weirdKeys(t *testing.T, s backend.Store) {
	for _, key := range weird {
		want(t, backend.CheckKey(key), nil)
		want(t, s.Create(t.Context(), "w/"+key, []byte(key)), nil)
	}
	for _, key := range weird {
		mustHold(t, s, "w/"+key, []byte(key))
	}
	keys := slices.Collect(maps.Keys(listing(t, s, "")))
	if len(keys) != len(weird) {
		t.Fatalf("%d of %d keys are listed", len(keys), len(weird))
	}
	for _, key := range keys {
		if !slices.ContainsFunc(weird, func(w string) bool { return "w/"+w == key }) {
			t.Fatalf("listed as %q", key)
		}
	}
}

var illegal = []string{
	"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/..", "a/./b", ".hidden", "a/.hidden",
	".kist-tmp/a", "nul\x00", "line\n", "back\\slash", "ümlaut", "\xff", "del\x7f",
	strings.Repeat("n", backend.MaxSegment+1), strings.Repeat("n/", backend.MaxKey/2) + "n",
}

func illegalKeys(t *testing.T, s backend.Store) {
	for _, key := range illegal {
		_, err := s.Get(t.Context(), key, 10)
		want(t, err, backend.ErrInvalid)
		_, err = s.GetRange(t.Context(), key, 0, 1)
		want(t, err, backend.ErrInvalid)
		want(t, s.Put(t.Context(), key, []byte("x"), sha256.Sum256([]byte("x"))), backend.ErrInvalid)
		want(t, s.Create(t.Context(), key, []byte("x")), backend.ErrInvalid)
		want(t, s.Delete(t.Context(), key), backend.ErrInvalid)
	}
	for _, prefix := range []string{"a", "/", "../", "a//", "a/../", ".kist-tmp/"} {
		want(t, s.List(t.Context(), prefix, func(string, int64) error { return nil }), backend.ErrInvalid)
	}
	if got := listing(t, s, ""); len(got) != 0 {
		t.Fatalf("illegal keys left %v", got)
	}
}

func illegalCalls(t *testing.T, s backend.Store) {
	want(t, s.Put(t.Context(), "k", nil, sha256.Sum256(nil)), backend.ErrInvalid)
	want(t, s.Create(t.Context(), "k", []byte{}), backend.ErrInvalid)
	want(t, s.Create(t.Context(), "k", make([]byte, backend.MaxObject+1)), backend.ErrInvalid)
	mustPut(t, s, "k", []byte("x"))
	for _, r := range [][2]int64{{-1, 1}, {0, -1}, {1, backend.MaxObject}, {1 << 62, 1 << 62}} {
		_, err := s.GetRange(t.Context(), "k", r[0], r[1])
		want(t, err, backend.ErrInvalid)
	}
	for _, limit := range []int64{-1, backend.MaxObject + 1} {
		_, err := s.Get(t.Context(), "k", limit)
		want(t, err, backend.ErrInvalid)
	}
}

func cancelled(t *testing.T, s backend.Store) {
	mustPut(t, s, "there", []byte("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Get(ctx, "there", 10)
	want(t, err, context.Canceled)
	_, err = s.GetRange(ctx, "there", 0, 1)
	want(t, err, context.Canceled)
	want(t, s.Put(ctx, "put", []byte("x"), sha256.Sum256([]byte("x"))), context.Canceled)
	want(t, s.Create(ctx, "created", []byte("x")), context.Canceled)
	want(t, s.Delete(ctx, "there"), context.Canceled)
	want(t, s.List(ctx, "", func(string, int64) error { return nil }), context.Canceled)
	if got := listing(t, s, ""); len(got) != 1 || got["there"] != 1 {
		t.Fatalf("cancelled calls left %v", got)
	}
}

func fresh(t *testing.T, s backend.Store) {
	mustPut(t, s, "k", []byte("body"))
	ctx := backend.Fresh(t.Context())
	for range 3 {
		got, err := s.Get(ctx, "k", 10)
		want(t, err, nil)
		part, err := s.GetRange(ctx, "k", 1, 2)
		want(t, err, nil)
		if string(got) != "body" || string(part) != "od" {
			t.Fatalf("read %q and %q", got, part)
		}
	}
}

func concurrent(t *testing.T, s backend.Store) {
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for w := range errs {
		wg.Go(func() {
			for i := range 8 {
				key, body := fmt.Sprintf("c/%d/%d", w, i), Bytes(fmt.Sprint(w, i), 5000)
				if errs[w] = s.Put(t.Context(), key, body, sha256.Sum256(body)); errs[w] != nil {
					return
				}
				got, err := s.GetRange(t.Context(), key, 100, 4000)
				if err == nil && !bytes.Equal(got, body[100:4100]) {
					err = errors.New("another's bytes")
				}
				if errs[w] = err; err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	want(t, errors.Join(errs...), nil)
	if got := listing(t, s, "c/"); len(got) != 64 {
		t.Fatalf("%d of 64 objects are listed", len(got))
	}
}

func probe(t *testing.T, s backend.Store) {
	want(t, backend.Probe(t.Context(), s), nil)
	want(t, backend.Probe(t.Context(), s), nil)
	if got := listing(t, s, ""); len(got) != 0 {
		t.Fatalf("the probe left %v", got)
	}
	if s.String() == "" {
		t.Fatal("a store without a name")
	}
}

// Isolation checks that two stores in one bucket, whose prefixes begin alike,
// do not see each other.
func Isolation(t *testing.T, a, b backend.Store) {
	mustPut(t, a, "same", []byte("a"))
	mustLack(t, b, "same")
	want(t, b.Create(t.Context(), "same", []byte("b")), nil)
	mustHold(t, a, "same", []byte("a"))
	for _, s := range []backend.Store{a, b} {
		if got := listing(t, s, ""); len(got) != 1 || got["same"] != 1 {
			t.Fatalf("%v lists %v", s, got)
		}
	}
	want(t, a.Delete(t.Context(), "same"), nil)
	mustHold(t, b, "same", []byte("b"))
}
