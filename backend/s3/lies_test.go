package s3

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"kist/backend"
	"kist/backend/backendtest"
	"kist/backend/liar"
)

// Each lie about a range must be an error of the right kind, never bytes.
func TestLyingRanges(t *testing.T) {
	body := backendtest.Bytes("object", 1000)
	header := func(name, value string) liar.Lie {
		return bend(func(a *liar.Answer) { a.Header.Set(name, value) })
	}
	for name, c := range map[string]struct {
		lie  liar.Lie
		kind error
	}{
		"shorter":               {bend(func(a *liar.Answer) { a.Body = a.Body[:99] }), backend.ErrShort},
		"empty":                 {bend(func(a *liar.Answer) { a.Body = nil }), backend.ErrShort},
		"longer":                {bend(func(a *liar.Answer) { a.Body = append(a.Body, 0) }), backend.ErrShort},
		"shorter, no length":    {bend(func(a *liar.Answer) { a.Body, a.Chunked = a.Body[:99], true }), backend.ErrShort},
		"longer, no length":     {bend(func(a *liar.Answer) { a.Body, a.Chunked = append(a.Body, 0), true }), backend.ErrShort},
		"shorter than it says":  {bend(func(a *liar.Answer) { a.Body = a.Body[:99]; a.Header.Set("Content-Length", "100") }), backend.ErrAway},
		"whole object":          {bend(func(a *liar.Answer) { a.Status, a.Body = 200, body; a.Header.Del("Content-Range") }), backend.ErrShort},
		"no range header":       {bend(func(a *liar.Answer) { a.Header.Del("Content-Range") }), backend.ErrShort},
		"error page":            {bend(errorPage), backend.ErrShort},
		"error page as long":    {bend(func(a *liar.Answer) { errorPage(a); a.Body = append(a.Body, body...)[:100] }), backend.ErrShort},
		"another offset":        {header("Content-Range", "bytes 51-150/1000"), backend.ErrShort},
		"another end":           {header("Content-Range", "bytes 50-1490/1000"), backend.ErrShort},
		"another unit":          {header("Content-Range", "items 50-149/1000"), backend.ErrShort},
		"garbage range":         {header("Content-Range", "50-149"), backend.ErrShort},
		"cut short, its header": {bend(func(a *liar.Answer) { a.Body = a.Body[:9]; a.Header.Set("Content-Range", "bytes 50-58/1000") }), backend.ErrShort},
		"unsatisfiable":         {instead(416, "InvalidRange"), backend.ErrShort},
		"unsatisfiable, bare":   {liar.Lie{Instead: &liar.Answer{Status: 416}}, backend.ErrShort},
		"reset":                 {bend(func(a *liar.Answer) { a.Cut = true }), backend.ErrAway},
		"missing key":           {instead(404, "NoSuchKey"), backend.ErrNotExist},
		"missing bucket":        {instead(404, "NoSuchBucket"), backend.ErrAway},
		"some proxy's 404":      {liar.Lie{Instead: &liar.Answer{Status: 404, Body: []byte("<html>")}}, backend.ErrAway},
		"403":                   {instead(403, "AccessDenied"), backend.ErrDenied},
		"403, bare":             {liar.Lie{Instead: &liar.Answer{Status: 403}}, backend.ErrDenied},
		"500":                   {instead(500, "InternalError"), backend.ErrAway},
		"503":                   {instead(503, "SlowDown"), backend.ErrAway},
		"expired":               {instead(400, "ExpiredToken"), backend.ErrDenied},
		"not modified":          {liar.Lie{Instead: &liar.Answer{Status: 304}}, backend.ErrAway},
		"endless error":         {liar.Lie{Instead: &liar.Answer{Status: 400, Body: make([]byte, maxText+1)}}, backend.ErrAway},
		"redirect": {liar.Lie{Instead: &liar.Answer{Status: 307, Header: http.Header{"Location": {"http://127.0.0.1:1/"}}}},
			backend.ErrAway},
	} {
		t.Run(name, func(t *testing.T) {
			b := serve(t)
			st := b.store(t, "", quick)
			b.objects.Plant("k", body)
			b.SetHook(always(liar.Get, c.lie))
			got, err := st.GetRange(t.Context(), "k", 50, 100)
			mustBe(t, err, c.kind)
			if got != nil {
				t.Fatalf("%d bytes of a lie", len(got))
			}
			b.SetHook(times(1, liar.Get, c.lie))
			got, err = st.GetRange(t.Context(), "k", 50, 100)
			if err == nil && !bytes.Equal(got, body[50:150]) {
				t.Fatal("wrong bytes after a lie")
			}
		})
	}
}

func mustBe(t *testing.T, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("got %v, want %v", err, kind)
	}
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		t.Fatalf("%v has an errno in its chain", err)
	}
	if err != nil && strings.Contains(err.Error(), "secret-name") {
		t.Fatalf("%v contains the key", err)
	}
}

func TestLyingGets(t *testing.T) {
	body := backendtest.Bytes("object", 1000)
	for name, c := range map[string]struct {
		lie  liar.Lie
		kind error
	}{
		"shorter than it says": {bend(func(a *liar.Answer) { a.Body = a.Body[:9]; a.Header.Set("Content-Length", "1000") }), backend.ErrAway},
		"too large":            {bend(func(a *liar.Answer) { a.Body = append(a.Body, 0) }), backend.ErrTooLarge},
		"too large, no length": {bend(func(a *liar.Answer) { a.Body, a.Chunked = append(a.Body, 0), true }), backend.ErrTooLarge},
		"huge length":          {bend(func(a *liar.Answer) { a.Header.Set("Content-Length", "9000000000000000000") }), backend.ErrTooLarge},
		"reset":                {bend(func(a *liar.Answer) { a.Cut = true }), backend.ErrAway},
		"not S3":               {liar.Lie{Instead: &liar.Answer{Status: 404}}, backend.ErrAway},
		"header garbage":       {bend(func(a *liar.Answer) { a.Header.Set("Last-Modified", "long ago") }), backend.ErrAway},
		"501":                  {instead(501, "NotImplemented"), backend.ErrAway},
		"412":                  {instead(412, "PreconditionFailed"), backend.ErrAway},
	} {
		t.Run(name, func(t *testing.T) {
			b := serve(t)
			b.objects.Plant("k", body)
			b.SetHook(always(liar.Get, c.lie))
			got, err := b.store(t, "", quick).Get(t.Context(), "k", 1000)
			mustBe(t, err, c.kind)
			if got != nil {
				t.Fatalf("%d bytes of a lie", len(got))
			}
		})
	}
}

// ETags and other headers of answers carry no weight.
func TestRandomHeaders(t *testing.T) {
	b := serve(t)
	b.objects.Plant("k", []byte("body"))
	b.SetHook(always(liar.Get, bend(func(a *liar.Answer) {
		a.Header.Set("Etag", `"00"`)
		a.Header.Set("Content-Encoding", "gzip")
		a.Header.Set("Content-Type", "application/xml")
		a.Header.Set("X-Amz-Checksum-Sha256", "AAAA")
		a.Header.Set("X-Amz-Checksum-Crc32", "AAAAAA==")
		a.Header.Set("Last-Modified", "Thu, 01 Jan 1970 00:00:00 GMT")
		a.Header.Set("X-Amz-Meta-"+strings.Repeat("x", 500), strings.Repeat("y", 5000))
	})))
	got, err := b.store(t, "", quick).Get(t.Context(), "k", 10)
	mustBe(t, err, nil)
	if string(got) != "body" {
		t.Fatalf("got %q", got)
	}
}

func TestLyingListings(t *testing.T) {
	xml := func(body string) liar.Lie {
		return liar.Lie{Instead: &liar.Answer{Status: 200, Body: []byte("<ListBucketResult>" + body + "</ListBucketResult>")}}
	}
	for name, c := range map[string]struct {
		lie  liar.Lie
		kind error
	}{
		"outside":  {xml("<Contents><Key>elsewhere/k</Key><Size>1</Size></Contents>"), backend.ErrShort},
		"no token": {xml("<IsTruncated>true</IsTruncated>"), backend.ErrShort},
		"loop":     {xml("<IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken>"), backend.ErrShort},
		"half":     {liar.Lie{Instead: &liar.Answer{Status: 200, Body: []byte("<ListBucketResult><Contents>")}}, backend.ErrAway},
		"endless":  {liar.Lie{Instead: &liar.Answer{Status: 200, Body: append([]byte("<ListBucketResult>"), bytes.Repeat([]byte(" "), maxText)...)}}, backend.ErrAway},
		"empty":    {xml(""), nil},
	} {
		t.Run(name, func(t *testing.T) {
			b := serve(t)
			b.SetHook(always(liar.List, c.lie))
			mustBe(t, b.store(t, "p", quick).List(t.Context(), "", func(string, int64) error { return nil }), c.kind)
		})
	}
}
