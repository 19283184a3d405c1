package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
)

const (
	maxConns   = 256
	bufferSize = 256 << 10
	maxText    = 8 << 20 // of an error or a page of a listing: the SDK reads them whole
)

// rootCAs are those of the user's AWS settings (AWS_CA_BUNDLE, ca_bundle), which
// the SDK has put into a client that is not used; nil means the system's.
func rootCAs(cfg aws.Config) *x509.CertPool {
	c, ok := cfg.HTTPClient.(*awshttp.BuildableClient)
	if !ok || c.GetTransport().TLSClientConfig == nil {
		return nil
	}
	return c.GetTransport().TLSClientConfig.RootCAs
}

// newHTTPClient speaks HTTP/1.1 only: over HTTP/2 all transfers would share one
// TCP connection. It follows no redirect: a signed request goes nowhere else.
func newHTTPClient(tune tuning, roots *x509.CertPool, fresh bool) *http.Client {
	dialer := &net.Dialer{Timeout: tune.dial, KeepAlive: 30 * time.Second}
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: bounded{&http.Transport{
			Proxy: http.ProxyFromEnvironment,
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := dialer.DialContext(ctx, network, addr)
				if err != nil {
					return nil, err
				}
				return &stallConn{Conn: conn, limit: tune.stall}, nil
			},
			TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
			TLSNextProto:          map[string]func(string, *tls.Conn) http.RoundTripper{},
			TLSHandshakeTimeout:   tune.dial,
			ResponseHeaderTimeout: tune.header,
			IdleConnTimeout:       60 * time.Second,
			MaxIdleConns:          maxConns,
			MaxIdleConnsPerHost:   maxConns,
			MaxConnsPerHost:       maxConns,
			WriteBufferSize:       bufferSize,
			ReadBufferSize:        bufferSize,
			DisableCompression:    true,
			DisableKeepAlives:     fresh,
		}},
	}
}

// bounded keeps a store from filling the memory with an answer that is not an
// object.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := b.RoundTripper.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	object := req.Method == http.MethodGet && resp.StatusCode < 300 && !req.URL.Query().Has("list-type")
	if !object {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxText), resp.Body}
	}
	return resp, nil
}

// A stallConn fails when nothing moves in either direction for limit. Writing
// counts for the reader, too: during a long upload the other side is silent.
type stallConn struct {
	net.Conn
	limit time.Duration
}

func (c *stallConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.limit)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *stallConn) Write(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.limit)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

var errRetired = errors.New("the call has ended")

// A body is what a request sends. The transport may read on after a call has
// been given up; once retired it gets an error instead of the caller's memory.
type body struct {
	mu   sync.Mutex // guards all
	data []byte     // nil once retired
	off  int
	done bool
}

func newBody(data []byte) *body { return &body{data: data} }

func (b *body) retire() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.data, b.done = nil, true
}

func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.done {
		return 0, errRetired
	}
	if b.off == len(b.data) {
		return 0, io.EOF
	}
	n := copy(p, b.data[b.off:])
	b.off += n
	return n, nil
}

// Seek lets the SDK find the length and rewind.
func (b *body) Seek(offset int64, whence int) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch whence {
	case io.SeekCurrent:
		offset += int64(b.off)
	case io.SeekEnd:
		offset += int64(len(b.data))
	}
	if b.done || offset < 0 || offset > int64(len(b.data)) {
		return 0, errRetired
	}
	b.off = int(offset)
	return offset, nil
}
