// Package s3meter is a proxy in front of an S3 server that counts what passes
// through it, by verb and by kind of object, and that is told rule by rule
// which requests to delay, refuse, cut short, alter or leave unanswered.
//
// It promises: every request that reaches it is counted, whatever becomes of
// it; a rule acts on exactly the requests it names, in the order they arrive,
// and says afterwards how often it did; what no rule names passes unchanged,
// Host header included, so that signatures stay valid. Nothing is random.
//
// A Meter may be used from many goroutines; its one lock is held for
// bookkeeping only, never while a request is under way.
package s3meter

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"sort"
	"strings"
	"sync"
	"time"
)

// Class says what an object is for, judged by its name alone.
type Class string

const (
	Header   Class = "header"   // kist.json
	Log      Class = "log"      // one slot of a vault's log
	Hint     Class = "hint"     // a vault's hint
	Pack     Class = "pack"     // a pack
	Identity Class = "identity" // a link of an identity's chain
	Listing  Class = "listing"  // a LIST, whatever its prefix
	Other    Class = "other"    // anything else, probes included
)

var shapes = []struct {
	class Class
	name  *regexp.Regexp
}{
	{Header, regexp.MustCompile(`/kist\.json$`)},
	{Log, regexp.MustCompile(`/vaults/[0-9a-f]{64}/log/[0-9a-f]{16}$`)},
	{Hint, regexp.MustCompile(`/vaults/[0-9a-f]{64}/hint$`)},
	{Pack, regexp.MustCompile(`/vaults/[0-9a-f]{64}/packs/[0-9a-f]{64}$`)},
	{Identity, regexp.MustCompile(`/ids/[0-9a-f]{64}/[0-9a-f]{16}$`)},
}

// Request is one request as the meter saw it.
type Request struct {
	Verb   string // the HTTP method, LIST for a listing
	Class  Class
	Path   string
	Range  string
	Header http.Header
	Status int   // 0 where no answer was given
	Up     int64 // octets of the body sent to the server
	Down   int64 // octets of the body sent to the client
}

// Act is what a rule does to the requests it names.
type Act int

const (
	Pass    Act = iota // only Delay is applied
	Refuse             // answered 503 SlowDown, never reaches the server
	Fail               // answered 500 InternalError, never reaches the server
	Deny               // answered 403 AccessDenied, never reaches the server
	Expire             // answered 403 ExpiredToken, never reaches the server
	Drop               // connection closed, never reaches the server
	Hang               // never answered, never reaches the server, until the client gives up or the rule ends
	Lose               // reaches the server, its answer is dropped
	Flip               // one bit in the middle of the answer's body is turned
	Shorten            // the answer's body ends in its middle, its length says otherwise
	Drip               // the second half of the answer's body comes after Delay, not before its head
)

// Rule names requests and what to do with them. An empty Verb, Class, Prefix or
// Suffix of the path, bucket included, means any; Times 0 means always; After lets that many pass first. A rule with From
// holds only once that rule has acted.
type Rule struct {
	From  *Rule
	Verb  string
	Class Class

	Prefix, Suffix string

	After int
	Times int
	Delay time.Duration
	Act   Act

	seen, hits int
	over       chan struct{} // closed when the rule ends
}

// Meter is a running proxy.
type Meter struct {
	addr   string
	server *http.Server
	proxy  *httputil.ReverseProxy

	mu    sync.Mutex // guards what follows
	log   []*Request
	rules []*Rule
}

// Start runs a meter on a free port of the loopback interface in front of the
// server at target, an address like http://127.0.0.1:9000.
func Start(target string) (*Meter, error) {
	to, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	m := &Meter{addr: "http://" + listener.Addr().String(), proxy: forward(to)}
	m.server = &http.Server{Handler: m}
	go m.server.Serve(listener)
	return m, nil
}

// Endpoint is the address to give to clients.
func (m *Meter) Endpoint() string { return m.addr }

// Close ends the proxy and every connection through it.
func (m *Meter) Close() error {
	err := m.server.Close()
	m.proxy.Transport.(*http.Transport).CloseIdleConnections()
	return err
}

// Add makes a rule hold from now on. The first rule that names a request and
// is not used up decides.
func (m *Meter) Add(r Rule) *Rule {
	m.mu.Lock()
	defer m.mu.Unlock()
	r.over = make(chan struct{})
	m.rules = append(m.rules, &r)
	return &r
}

// Remove ends a rule and says how often it acted. What hangs by it is hung up.
func (m *Meter) Remove(r *Rule) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.rules {
		if m.rules[i] == r {
			m.rules = append(m.rules[:i:i], m.rules[i+1:]...)
			close(r.over)
			break
		}
	}
	return r.hits
}

// Hits says how often a rule has acted so far.
func (m *Meter) Hits(r *Rule) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return r.hits
}

// Reset forgets all requests counted so far.
func (m *Meter) Reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.log = nil
}

// Requests are those counted since the last Reset, in the order they arrived.
func (m *Meter) Requests() []Request {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]Request, len(m.log))
	for i, r := range m.log {
		list[i] = *r
	}
	return list
}

// Count says how many requests of this verb and class were counted since the
// last Reset; an empty verb or class means any.
func (m *Meter) Count(verb string, class Class) int {
	n := 0
	for _, r := range m.Requests() {
		if named(verb, class, r) {
			n++
		}
	}
	return n
}

// Summary is a line like "GET log 2, PUT pack 1: 3 in all".
func (m *Meter) Summary() string {
	requests := m.Requests()
	counts := map[string]int{}
	for _, r := range requests {
		counts[r.Verb+" "+string(r.Class)]++
	}
	var parts []string
	for what, n := range counts {
		parts = append(parts, fmt.Sprintf("%s %d", what, n))
	}
	sort.Strings(parts)
	return fmt.Sprintf("%s: %d in all", strings.Join(parts, ", "), len(requests))
}

func (r *Rule) names(q Request) bool {
	return named(r.Verb, r.Class, q) && strings.HasPrefix(q.Path, r.Prefix) && strings.HasSuffix(q.Path, r.Suffix)
}

func named(verb string, class Class, r Request) bool {
	return (verb == "" || verb == r.Verb) && (class == "" || class == r.Class)
}

// classify reads a request's verb and class from its line.
func classify(r *http.Request) Request {
	q := Request{Verb: r.Method, Class: Other, Path: r.URL.Path, Range: r.Header.Get("Range"), Header: r.Header.Clone()}
	if r.Method == http.MethodGet {
		for _, key := range []string{"list-type", "prefix", "location", "versions", "uploads"} {
			if r.URL.Query().Has(key) {
				q.Verb, q.Class = "LIST", Listing
				return q
			}
		}
	}
	for _, s := range shapes {
		if s.name.MatchString(r.URL.Path) {
			q.Class = s.class
		}
	}
	return q
}

// record counts a request and finds the rule for it.
func (m *Meter) record(r *http.Request) (*Request, Rule) {
	q := classify(r)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.log = append(m.log, &q)
	for _, rule := range m.rules {
		if !rule.names(q) || rule.Times > 0 && rule.hits >= rule.Times || rule.From != nil && rule.From.hits == 0 {
			continue
		}
		if rule.seen++; rule.seen <= rule.After {
			continue
		}
		rule.hits++
		return &q, *rule
	}
	return &q, Rule{}
}
