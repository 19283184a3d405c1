package s3meter

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const (
	vault = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	slot  = "/bucket/p/vaults/" + vault + "/log/0000000000000001"
	pack  = "/bucket/p/vaults/" + vault + "/packs/" + vault
)

// behind is a server that answers every request with the same body.
func behind(t *testing.T) (*Meter, *atomic.Int64) {
	var reached atomic.Int64
	content := bytes.Repeat([]byte("0123456789"), 100)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reached.Add(1)
		io.Copy(io.Discard, r.Body)
		w.Write(content)
	}))
	t.Cleanup(s.Close)
	m, err := Start(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m, &reached
}

func send(t *testing.T, m *Meter, verb, path, content string) (int, []byte, error) {
	t.Helper()
	r, err := http.NewRequest(verb, m.Endpoint()+path, strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	res, err := transport.RoundTrip(r)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	return res.StatusCode, got, err
}

func TestCounts(t *testing.T) {
	m, _ := behind(t)
	for _, c := range []struct {
		verb, path, wantVerb string
		class                Class
	}{
		{"GET", "/bucket/p/kist.json", "GET", Header},
		{"PUT", slot, "PUT", Log},
		{"GET", "/bucket/p/vaults/" + vault + "/hint", "GET", Hint},
		{"HEAD", pack, "HEAD", Pack},
		{"GET", "/bucket/ids/" + vault + "/0000000000000000", "GET", Identity},
		{"GET", "/bucket?list-type=2&prefix=x", "LIST", Listing},
		{"GET", "/bucket/p/vaults/short/log/1", "GET", Other},
	} {
		m.Reset()
		if _, _, err := send(t, m, c.verb, c.path, "five!"); err != nil {
			t.Fatal(err)
		}
		got := m.Requests()
		if len(got) != 1 || got[0].Verb != c.wantVerb || got[0].Class != c.class || got[0].Status != 200 {
			t.Errorf("%s %s: counted as %+v", c.verb, c.path, got)
		}
		if m.Count(c.wantVerb, c.class) != 1 || m.Count("", "") != 1 || m.Count("DELETE", "") != 0 {
			t.Errorf("%s %s: Count is wrong", c.verb, c.path)
		}
		if c.verb == "PUT" && (got[0].Up != 5 || got[0].Down != 1000) {
			t.Errorf("octets: %d up, %d down, want 5 and 1000", got[0].Up, got[0].Down)
		}
	}
}

func TestRules(t *testing.T) {
	for _, c := range []struct {
		act     Act
		reached int64
		status  int
		failed  bool
		altered bool
	}{
		{Pass, 1, 200, false, false},
		{Refuse, 0, 503, false, true},
		{Fail, 0, 500, false, true},
		{Deny, 0, 403, false, true},
		{Expire, 0, 403, false, true},
		{Drop, 0, 0, true, true},
		{Lose, 1, 0, true, true},
		{Flip, 1, 200, false, true},
		{Shorten, 1, 200, true, true},
		{Drip, 1, 200, false, false},
	} {
		m, reached := behind(t)
		rule := m.Add(Rule{Verb: "GET", Class: Log, After: 1, Times: 1, Act: c.act})
		send(t, m, "GET", pack, "")
		_, first, err := send(t, m, "GET", slot, "")
		if err != nil {
			t.Fatal(err)
		}
		before := reached.Load()
		status, got, err := send(t, m, "GET", slot, "")
		if failed := err != nil; failed != c.failed || status != c.status || reached.Load()-before != c.reached {
			t.Errorf("act %d: status %d, error %v, %d reached the server", c.act, status, err, reached.Load()-before)
		}
		if !bytes.Equal(got, first) != c.altered {
			t.Errorf("act %d: answer altered: %v", c.act, !c.altered)
		}
		if _, again, err := send(t, m, "GET", slot, ""); err != nil || !bytes.Equal(again, first) {
			t.Errorf("act %d: the rule acted more often than told", c.act)
		}
		if n := m.Remove(rule); n != 1 {
			t.Errorf("act %d: %d hits, want 1", c.act, n)
		}
		if n := m.Count("", ""); n != 4 {
			t.Errorf("act %d: %d requests counted, want 4", c.act, n)
		}
	}
}

func TestDelay(t *testing.T) {
	m, _ := behind(t)
	rule := m.Add(Rule{Class: Log, Delay: 80 * time.Millisecond})
	start := time.Now()
	send(t, m, "GET", slot, "")
	if took := time.Since(start); took < 80*time.Millisecond {
		t.Errorf("answered after %v", took)
	}
	if m.Remove(rule) != 1 {
		t.Error("the rule did not act")
	}
}

// The head of an answer that drips comes at once, its end does not.
func TestDrip(t *testing.T) {
	m, _ := behind(t)
	m.Add(Rule{Class: Log, Delay: 80 * time.Millisecond, Act: Drip})
	start := time.Now()
	res, err := http.Get(m.Endpoint() + slot)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	half := make([]byte, 500)
	if _, err := io.ReadFull(res.Body, half); err != nil {
		t.Fatal(err)
	}
	head := time.Since(start)
	rest, err := io.ReadAll(res.Body)
	if took := time.Since(start); err != nil || len(rest) != 500 || took < 80*time.Millisecond || head >= took {
		t.Errorf("%d octets, %v; the first half after %v, the last after %v", len(rest), err, head, took)
	}
}

// A hanging request ends when its client gives up, and reaches nobody.
func TestHang(t *testing.T) {
	m, reached := behind(t)
	rule := m.Add(Rule{Verb: "PUT", Act: Hang})
	for _, content := range []string{"", "body"} {
		ctx, cancel := context.WithTimeout(t.Context(), 80*time.Millisecond)
		r, err := http.NewRequestWithContext(ctx, "PUT", m.Endpoint()+slot, strings.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		if res, err := http.DefaultClient.Do(r); err == nil {
			t.Errorf("answered %d", res.StatusCode)
		} else if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		cancel()
	}
	ended := make(chan error, 1)
	go func() {
		_, _, err := send(t, m, "PUT", slot, "x")
		ended <- err
	}()
	for m.Hits(rule) < 3 {
		time.Sleep(time.Millisecond)
	}
	if m.Remove(rule); <-ended == nil {
		t.Error("what hung was answered")
	}
	if _, _, err := send(t, m, "PUT", slot, "x"); err != nil || reached.Load() != 1 {
		t.Errorf("%v; %d requests reached the server, want the last one", err, reached.Load())
	}
}

func TestCodes(t *testing.T) {
	for act, want := range refusals {
		m, _ := behind(t)
		m.Add(Rule{Act: act})
		status, got, err := send(t, m, "PUT", slot, "x")
		if err != nil || status != want.status || !strings.Contains(string(got), "<Code>"+want.code+"</Code>") {
			t.Errorf("act %d: %d %s, %v", act, status, got, err)
		}
	}
}

func TestPaths(t *testing.T) {
	m, _ := behind(t)
	first := m.Add(Rule{Prefix: "/bucket/p/vaults/" + vault + "/log/", Suffix: "1", Act: Fail})
	for path, want := range map[string]int{slot: 500, slot[:len(slot)-1] + "2": 200, pack: 200, "/other" + slot: 200} {
		if status, _, err := send(t, m, "GET", path, ""); err != nil || status != want {
			t.Errorf("%s: %d, %v, want %d", path, status, err, want)
		}
	}
	if n := m.Remove(first); n != 1 {
		t.Errorf("%d hits, want 1", n)
	}
}

func TestFrom(t *testing.T) {
	m, reached := behind(t)
	first := m.Add(Rule{Verb: "PUT", Times: 1, Act: Lose})
	m.Add(Rule{From: first, Act: Drop})
	for i, want := range []int64{1, 2, 2} {
		send(t, m, []string{"GET", "PUT", "GET"}[i], slot, "")
		if reached.Load() != want {
			t.Errorf("after request %d: %d reached the server, want %d", i, reached.Load(), want)
		}
	}
}

func TestServerGone(t *testing.T) {
	m, err := Start("http://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if status, _, err := send(t, m, "GET", slot, ""); err == nil {
		t.Errorf("status %d, want a broken connection", status)
	}
}
