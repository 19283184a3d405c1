package s3meter

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"
)

type contextKey struct{}

// passage is what the answer's side of the proxy must know of a request.
type passage struct {
	m    *Meter
	q    *Request
	rule Rule
}

func forward(to *url.URL) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host = to.Scheme, to.Host
			p.Out.Host = p.In.Host
			// ReverseProxy would change this header; a signature may cover it.
			p.Out.Header["Accept-Encoding"] = p.In.Header["Accept-Encoding"]
		},
		Transport:      &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true},
		FlushInterval:  -1,
		ErrorLog:       log.New(io.Discard, "", 0), // answers that break off are what it is for
		ModifyResponse: answer,
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			hangUp(w)
		},
	}
}

// answer meters a response's body and damages it where the rule says so.
func answer(res *http.Response) error {
	p := res.Request.Context().Value(contextKey{}).(passage)
	p.m.mu.Lock()
	p.q.Status = res.StatusCode
	p.m.mu.Unlock()
	b := &body{ReadCloser: res.Body, count: func(n int) { p.m.count(&p.q.Down, n) }, flip: -1, cut: -1, drip: -1}
	switch middle := max(0, res.ContentLength/2); p.rule.Act {
	case Flip:
		b.flip = middle
	case Shorten:
		b.cut = middle
	case Drip:
		b.drip, b.wait = middle, func() bool { return pause(res.Request.Context(), p.rule.Delay) }
	}
	res.Body = b
	return nil
}

func (m *Meter) count(into *int64, n int) {
	m.mu.Lock()
	*into += int64(n)
	m.mu.Unlock()
}

// refusals are the answers that the proxy gives itself.
var refusals = map[Act]struct {
	status int
	code   string
}{
	Refuse: {http.StatusServiceUnavailable, "SlowDown"},
	Fail:   {http.StatusInternalServerError, "InternalError"},
	Deny:   {http.StatusForbidden, "AccessDenied"},
	Expire: {http.StatusForbidden, "ExpiredToken"},
}

// ServeHTTP is the client's side of the proxy.
func (m *Meter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q, rule := m.record(r)
	if rule.Act != Drip && !pause(r.Context(), rule.Delay) {
		return
	}
	if no, ok := refusals[rule.Act]; ok {
		m.refuse(w, r, q, no.status, no.code)
		return
	}
	switch rule.Act {
	case Drop:
		hangUp(w)
		return
	case Hang:
		io.Copy(io.Discard, r.Body) // else nobody notices that the client gives up
		select {
		case <-r.Context().Done():
		case <-rule.over:
		}
		hangUp(w)
		return
	}
	if r.Body != nil {
		r.Body = &body{ReadCloser: r.Body, count: func(n int) { m.count(&q.Up, n) }, flip: -1, cut: -1, drip: -1}
	}
	r = r.WithContext(context.WithValue(r.Context(), contextKey{}, passage{m, q, rule}))
	if rule.Act == Lose {
		m.proxy.ServeHTTP(&nowhere{header: http.Header{}}, r)
		hangUp(w)
		return
	}
	m.proxy.ServeHTTP(w, r)
}

// pause waits, and says whether the client is still there.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (m *Meter) refuse(w http.ResponseWriter, r *http.Request, q *Request, status int, code string) {
	io.Copy(io.Discard, r.Body)
	m.mu.Lock()
	q.Status = status
	m.mu.Unlock()
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>by rule</Message></Error>`, code)
}

// body counts what is read through it, and alters it at an offset.
type body struct {
	io.ReadCloser
	count           func(int)
	flip, cut, drip int64 // -1: nowhere
	at              int64
	wait            func() bool // at drip
}

func (b *body) Read(p []byte) (int, error) {
	if b.drip > b.at {
		p = p[:min(int64(len(p)), b.drip-b.at)]
	}
	if b.drip == b.at && !b.wait() {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := b.ReadCloser.Read(p)
	if b.cut >= 0 && b.at+int64(n) > b.cut {
		n, err = int(max(0, b.cut-b.at)), io.ErrUnexpectedEOF
	}
	if b.flip >= b.at && b.flip < b.at+int64(n) {
		p[b.flip-b.at] ^= 0x10
	}
	b.at += int64(n)
	b.count(n)
	return n, err
}

// nowhere takes an answer and forgets it.
type nowhere struct{ header http.Header }

func (n *nowhere) Header() http.Header         { return n.header }
func (n *nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (n *nowhere) WriteHeader(int)             {}

// hangUp closes the client's connection without an answer.
func hangUp(w http.ResponseWriter) {
	if h, ok := w.(http.Hijacker); ok {
		if c, _, err := h.Hijack(); err == nil {
			c.Close()
		}
	}
}
