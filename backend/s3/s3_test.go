package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kist/backend"
	"kist/backend/backendtest"
	"kist/backend/liar"
	"kist/backend/mem"
)

var quick = tuning{
	dial:   5 * time.Second,
	stall:  5 * time.Second,
	header: 5 * time.Second,
	tries:  3,
	pause:  time.Millisecond,
}

type bench struct {
	*liar.Server
	objects *mem.Store
	url     string
}

func serve(t *testing.T) *bench { return serveBelow(t, "") }

func serveBelow(t *testing.T, prefix string) *bench {
	t.Helper()
	b := &bench{objects: mem.New(nil)}
	b.Server = liar.New("bucket", prefix, b.objects, 7)
	srv := httptest.NewServer(b.Server)
	t.Cleanup(srv.Close)
	t.Cleanup(b.Server.Close)
	b.url = srv.URL
	return b
}

func (b *bench) store(t *testing.T, prefix string, tune tuning) *Store {
	t.Helper()
	spec, err := backend.Parse("s3://bucket/" + prefix + "?endpoint=" + b.url)
	if err != nil {
		t.Fatal(err)
	}
	st, err := open(spec, staticConfig("access", "secret"), tune)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, c := range []*http.Client{st.fresh, st.client.Options().HTTPClient.(*http.Client)} {
			c.CloseIdleConnections()
		}
	})
	return st
}

func TestConformance(t *testing.T) {
	for _, prefix := range []string{"", "pre/", "pre/fix+with a%20b/"} {
		t.Run("prefix "+prefix, func(t *testing.T) {
			backendtest.Run(t, func(t *testing.T) backend.Store {
				return serveBelow(t, prefix).store(t, strings.ReplaceAll(prefix, "%", "%25"), quick)
			})
		})
	}
}

func TestIsolation(t *testing.T) {
	b := serve(t)
	backendtest.Isolation(t, b.store(t, "vault", quick), b.store(t, "vault2", quick))
	backendtest.Isolation(t, b.store(t, "x", quick), b.store(t, "x-", quick))
}

func TestRaceOfMachines(t *testing.T) {
	b := serve(t)
	backendtest.Race(t, []backend.Store{b.store(t, "p", quick), b.store(t, "p", quick), b.store(t, "p", quick)}, 16)
}

// always tells the same lie about one operation.
func always(op string, lie liar.Lie) liar.Hook { return times(1<<30, op, lie) }

// times tells it for the first n requests only.
func times(n int64, op string, lie liar.Lie) liar.Hook {
	var told atomic.Int64
	return func(r liar.Request) liar.Lie {
		if r.Op != op || told.Add(1) > n {
			return liar.Lie{}
		}
		return lie
	}
}

func bend(f func(*liar.Answer)) liar.Lie { return liar.Lie{Bend: f} }

func instead(status int, code string) liar.Lie { return liar.Lie{Instead: liar.Error(status, code)} }

func errorPage(a *liar.Answer) {
	a.Status, a.Body = 200, liar.Error(0, "InternalError").Body
	a.Header = http.Header{"Content-Type": {"application/xml"}}
}

// Create must be sent exactly as often as is safe.
func TestCreateTries(t *testing.T) {
	lost := bend(func(a *liar.Answer) { *a = *liar.Error(500, "InternalError") })
	for name, c := range map[string]struct {
		hook  liar.Hook
		kind  error
		sent  int
		there bool
	}{
		"truth":               {nil, nil, 1, true},
		"conflict once":       {times(1, liar.Create, instead(409, "ConditionalRequestConflict")), nil, 2, true},
		"conflict, bare":      {times(2, liar.Create, liar.Lie{Instead: &liar.Answer{Status: 409}}), nil, 3, true},
		"conflict for ever":   {always(liar.Create, instead(409, "ConditionalRequestConflict")), backend.ErrAway, 3, false},
		"damaged on its way":  {times(1, liar.Create, instead(400, "BadDigest")), nil, 2, true},
		"500, not done":       {always(liar.Create, instead(500, "InternalError")), backend.ErrAway, 1, false},
		"500, done":           {always(liar.Create, lost), backend.ErrAway, 1, true},
		"503":                 {always(liar.Create, instead(503, "SlowDown")), backend.ErrAway, 1, false},
		"no answer, done":     {always(liar.Create, bend(func(a *liar.Answer) { a.Cut = true })), backend.ErrAway, 1, true},
		"not implemented":     {always(liar.Create, instead(501, "NotImplemented")), backend.ErrUnsupported, 1, false},
		"exists":              {always(liar.Create, instead(412, "PreconditionFailed")), backend.ErrExist, 1, false},
		"exists, bare":        {always(liar.Create, liar.Lie{Instead: &liar.Answer{Status: 412}}), backend.ErrExist, 1, false},
		"denied":              {always(liar.Create, instead(403, "AccessDenied")), backend.ErrDenied, 1, false},
		"200 with error page": {always(liar.Create, liar.Lie{Instead: &liar.Answer{Status: 200, Body: liar.Error(0, "InternalError").Body}}), backend.ErrAway, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := serve(t)
			b.SetHook(c.hook)
			mustBe(t, b.store(t, "", quick).Create(t.Context(), "secret-name", []byte("body")), c.kind)
			if n := len(b.Log()); n != c.sent {
				t.Errorf("sent %d times, want %d", n, c.sent)
			}
			if there := b.objects.Peek("secret-name") != nil; there != c.there {
				t.Errorf("object is there: %v", there)
			}
		})
	}
}

func TestPutTries(t *testing.T) {
	body := backendtest.Bytes("pack", 3<<20)
	sum := sha256.Sum256(body)
	for name, lie := range map[string]liar.Lie{
		"500":         instead(500, "InternalError"),
		"503":         instead(503, "SlowDown"),
		"conflict":    instead(409, "OperationAborted"),
		"damaged":     instead(400, "XAmzContentSHA256Mismatch"),
		"answer lost": bend(func(a *liar.Answer) { *a = *liar.Error(500, "InternalError") }),
		"no answer":   bend(func(a *liar.Answer) { a.Cut = true }),
	} {
		t.Run(name, func(t *testing.T) {
			b := serve(t)
			b.SetHook(times(2, liar.Put, lie))
			mustBe(t, b.store(t, "", quick).Put(t.Context(), "secret-name", body, sum), nil)
			if got := b.objects.Peek("secret-name"); !bytes.Equal(got, body) {
				t.Fatal("other bytes arrived")
			}
			b.SetHook(always(liar.Put, lie))
			if err := b.store(t, "", quick).Put(t.Context(), "secret-name", body, sum); err == nil {
				t.Fatal("no error")
			}
			if n := len(b.Log()); n != 6 {
				t.Fatalf("sent %d times, want 3 + 3", n)
			}
		})
	}
}

// What is sent is fixed: signed payload hash and checksum, no chunked trailer,
// no Expect.
func TestPutHeaders(t *testing.T) {
	b := serve(t)
	body := backendtest.Bytes("pack", 5<<20)
	mustBe(t, b.store(t, "", quick).Put(t.Context(), "k", body, sha256.Sum256(body)), nil)
	h := b.Log()[0].Header
	for _, name := range []string{"Expect", "X-Amz-Trailer", "Content-Encoding", "X-Amz-Checksum-Crc32", "X-Amz-Sdk-Checksum-Algorithm"} {
		if h.Get(name) != "" {
			t.Errorf("%s: %s", name, h.Get(name))
		}
	}
	if !strings.Contains(h.Get("Authorization"), "x-amz-checksum-sha256") ||
		!strings.Contains(h.Get("Authorization"), "x-amz-content-sha256") {
		t.Errorf("not signed: %s", h.Get("Authorization"))
	}
}

// Over TLS the SDK would sign no payload hash; the liar insists on one. The
// authority comes from the user's AWS settings.
func TestTLS(t *testing.T) {
	l := liar.New("bucket", "", mem.New(nil), 7)
	srv := httptest.NewTLSServer(l)
	t.Cleanup(srv.Close)
	bundle := filepath.Join(t.TempDir(), "ca.pem")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(bundle, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "access")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	spec, err := backend.Parse("s3://bucket/?endpoint=" + srv.URL)
	mustBe(t, err, nil)
	st, err := Open(t.Context(), spec)
	mustBe(t, err, nil)
	st.tune = quick
	mustBe(t, st.Create(t.Context(), "secret-name", []byte("x")), backend.ErrAway) // an unknown authority
	t.Setenv("AWS_CA_BUNDLE", bundle)
	st, err = Open(t.Context(), spec)
	mustBe(t, err, nil)
	body := backendtest.Bytes("pack", 3<<20)
	mustBe(t, st.Put(t.Context(), "k", body, sha256.Sum256(body)), nil)
	mustBe(t, st.Create(t.Context(), "c", body), nil)
	for _, ctx := range []context.Context{t.Context(), backend.Fresh(t.Context())} {
		got, err := st.Get(ctx, "k", 3<<20)
		mustBe(t, err, nil)
		if !bytes.Equal(got, body) {
			t.Fatal("other bytes")
		}
	}
}

func TestSilence(t *testing.T) {
	tune := quick
	tune.tries = 1
	for name, c := range map[string]struct {
		header, stall time.Duration
		lie           liar.Lie
	}{
		"no answer":       {50 * time.Millisecond, time.Minute, liar.Lie{Hang: true}},
		"dead connection": {time.Minute, 50 * time.Millisecond, liar.Lie{Hang: true}},
	} {
		t.Run(name, func(t *testing.T) {
			b := serve(t)
			b.objects.Plant("k", []byte("body"))
			b.SetHook(func(liar.Request) liar.Lie { return c.lie })
			tune.header, tune.stall = c.header, c.stall
			st := b.store(t, "", tune)
			_, err := st.Get(t.Context(), "k", 10)
			mustBe(t, err, backend.ErrAway)
			mustBe(t, st.Create(t.Context(), "secret-name", []byte("x")), backend.ErrAway)
			if errors.Is(err, context.DeadlineExceeded) {
				t.Fatal("our own deadline looks like the caller's")
			}
		})
	}
}

func TestCancelWhileWaiting(t *testing.T) {
	b := serve(t)
	st := b.store(t, "", quick)
	for name, call := range map[string]func(context.Context) error{
		"get":    func(ctx context.Context) error { _, err := st.Get(ctx, "k", 10); return err },
		"create": func(ctx context.Context) error { return st.Create(ctx, "k", []byte("x")) },
		"put":    func(ctx context.Context) error { return st.Put(ctx, "k", []byte("x"), sha256.Sum256([]byte("x"))) },
		"list":   func(ctx context.Context) error { return st.List(ctx, "", nil) },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			before := len(b.Log())
			b.SetHook(func(liar.Request) liar.Lie { cancel(); return liar.Lie{Hang: true} })
			mustBe(t, call(ctx), context.Canceled)
			if n := len(b.Log()); n != before+1 {
				t.Fatalf("%d requests after the cancel", n-before-1)
			}
		})
	}
}

func TestCancelBetweenTries(t *testing.T) {
	b := serve(t)
	tune := quick
	tune.pause = time.Hour
	st := b.store(t, "", tune)
	ctx, cancel := context.WithCancel(t.Context())
	b.SetHook(func(liar.Request) liar.Lie {
		return bend(func(a *liar.Answer) {
			*a = *liar.Error(409, "ConditionalRequestConflict")
			time.AfterFunc(20*time.Millisecond, cancel)
		})
	})
	mustBe(t, st.Create(ctx, "secret-name", []byte("x")), context.Canceled)
	if n := len(b.Log()); n != 1 {
		t.Fatalf("%d requests", n)
	}
}

// The store's own retries must not outlive a call and then send other bytes.
func TestBodyAfterTheCall(t *testing.T) {
	b := newBody([]byte("mine"))
	p := make([]byte, 2)
	if n, err := b.Read(p); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	b.retire()
	if n, err := b.Read(p); n != 0 || err != errRetired {
		t.Fatal(n, err)
	}
	if _, err := b.Seek(0, 0); err != errRetired {
		t.Fatal(err)
	}
}

func TestNobodyThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + l.Addr().String()
	l.Close()
	st := (&bench{url: url}).store(t, "", quick)
	_, err = st.Get(t.Context(), "secret-name", 10)
	mustBe(t, err, backend.ErrAway)
	mustBe(t, st.Create(t.Context(), "secret-name", []byte("x")), backend.ErrAway)
	mustBe(t, st.List(t.Context(), "", nil), backend.ErrAway)
	mustBe(t, backend.Probe(t.Context(), st), backend.ErrAway)
}

func TestFreshConnections(t *testing.T) {
	b := serve(t)
	b.objects.Plant("k", []byte("body"))
	st := b.store(t, "", quick)
	remotes := func(ctx context.Context) int {
		seen := map[string]bool{}
		for range 4 {
			before := len(b.Log())
			if _, err := st.Get(ctx, "k", 10); err != nil {
				t.Fatal(err)
			}
			seen[b.Log()[before].Remote] = true
		}
		return len(seen)
	}
	if n := remotes(t.Context()); n != 1 {
		t.Errorf("ordinary reads used %d connections", n)
	}
	if n := remotes(backend.Fresh(t.Context())); n != 4 {
		t.Errorf("fresh reads used %d connections", n)
	}
}

// A store that ignores conditions, or whose races have two winners, is found.
func TestProbeRefuses(t *testing.T) {
	for name, hook := range map[string]mem.Hook{
		"ignores conditions": func(mem.Request) mem.Answer { return mem.Answer{Accept: true} },
		"two winners": func(r mem.Request) mem.Answer {
			return mem.Answer{Accept: r.Verb == mem.Create && r.N > 4}
		},
		"forgets": func(r mem.Request) mem.Answer { return mem.Answer{Drop: r.Verb == mem.Create} },
		"says all exists": func(r mem.Request) mem.Answer {
			return mem.Answer{Before: map[bool]error{true: backend.ErrExist}[r.Verb == mem.Create]}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := serve(t)
			b.objects.SetHook(hook)
			mustBe(t, backend.Probe(t.Context(), b.store(t, "", quick)), backend.ErrUnsupported)
			if keys := b.objects.Keys(); len(keys) != 0 {
				t.Fatalf("the probe left %v", keys)
			}
		})
	}
}

func TestCredentials(t *testing.T) {
	b := serve(t)
	spec, _ := backend.Parse("s3://bucket?endpoint=" + b.url)
	cfg := staticConfig("", "")
	st, err := open(spec, cfg, quick)
	mustBe(t, err, nil)
	_, err = st.Get(t.Context(), "secret-name", 10)
	mustBe(t, err, backend.ErrDenied)
	cfg.Credentials = nil
	st, err = open(spec, cfg, quick)
	mustBe(t, err, nil)
	mustBe(t, st.Create(t.Context(), "secret-name", []byte("x")), backend.ErrDenied)
	if n := len(b.Log()); n != 0 {
		t.Fatalf("%d requests without credentials", n)
	}
}

func TestManyConnections(t *testing.T) {
	b := serve(t)
	st := b.store(t, "", quick)
	var wg sync.WaitGroup
	errs := make([]error, 64)
	for i := range errs {
		wg.Go(func() { errs[i] = st.Create(t.Context(), fmt.Sprintf("k/%d", i), []byte("x")) })
	}
	wg.Wait()
	mustBe(t, errors.Join(errs...), nil)
}
