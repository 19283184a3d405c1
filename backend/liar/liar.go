// Package liar is a small S3 server for tests, over a store in memory. It
// speaks what backend/s3 needs (path style: GET with Range, PUT with
// If-None-Match, DELETE, ListObjectsV2), keeps the rules that a good server
// keeps, and lies in its headers and bodies on demand.
//
// Lies about the objects themselves (rollback, forks, races) belong in the
// hooks of the mem.Store behind it; here are those that only HTTP can tell.
package liar

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"kist/backend"
	"kist/backend/mem"
)

// Operations, as a Request names them.
const (
	Get    = "GET"
	Put    = "PUT"
	Create = "CREATE" // a PUT with If-None-Match: *
	Delete = "DELETE"
	List   = "LIST"
)

// A Request is one HTTP request.
type Request struct {
	N      int    // from 1
	Op     string // one of the operations above
	Key    string // below the server's prefix; of List: the prefix asked for, in full
	Range  string // the header as it came
	Remote string // the client's address: the same for requests over one connection
	Header http.Header
}

// An Answer is what goes back.
type Answer struct {
	Status  int
	Header  http.Header // Content-Length comes from Body unless it is set here
	Body    []byte
	Chunked bool // no Content-Length
	Cut     bool // the connection is reset after half of Body; if it is empty, of the header
}

// A Lie says what goes wrong with a request. The zero Lie is the truth.
type Lie struct {
	Hang    bool          // no answer until the client goes away or the server ends
	Instead *Answer       // this is the answer; nothing is carried out
	Bend    func(*Answer) // carried out; changes the answer
}

// A Hook sees each request before it is carried out. It can run many times at
// once.
type Hook func(Request) Lie

// Server is the http.Handler.
type Server struct {
	bucket string
	prefix string
	store  *mem.Store
	page   int
	closed chan struct{}

	mu   sync.Mutex // guards what follows
	hook Hook
	log  []Request
}

// New returns a server with one bucket. Below prefix (empty or ending with a
// slash) it holds the objects of store, so that the store sees kist's own keys;
// elsewhere it holds nothing. Listings come in pages of the given size.
func New(bucket, prefix string, store *mem.Store, page int) *Server {
	return &Server{bucket: bucket, prefix: prefix, store: store, page: page, closed: make(chan struct{})}
}

// SetHook replaces the hook; nil means the truth.
func (s *Server) SetHook(h Hook) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = h
}

// Log returns the requests so far.
func (s *Server) Log() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log)
}

// Close lets hanging requests go, so that the HTTP server can end.
func (s *Server) Close() { close(s.closed) }

// Error returns an answer as S3 writes its errors.
func Error(status int, code string) *Answer {
	return &Answer{Status: status, Header: http.Header{"Content-Type": {"application/xml"}},
		Body: []byte(xml.Header + "<Error><Code>" + code + "</Code><Message>" + code + "</Message></Error>")}
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	key, inside := strings.CutPrefix(key, s.prefix)
	req, hook := s.record(r, key)
	var lie Lie
	if hook != nil {
		lie = hook(req)
	}
	var a *Answer
	switch {
	case lie.Hang:
		select {
		case <-r.Context().Done():
		case <-s.closed:
		}
		panic(http.ErrAbortHandler)
	case lie.Instead != nil:
		_, _ = io.Copy(io.Discard, r.Body)
		a = lie.Instead
	case bucket != s.bucket:
		a = Error(http.StatusNotFound, "NoSuchBucket")
	case r.Header.Get("Authorization") == "":
		a = Error(http.StatusForbidden, "AccessDenied")
	case !inside && req.Op != List:
		a = Error(http.StatusForbidden, "AccessDenied")
	default:
		a = s.carryOut(r, req)
	}
	if lie.Bend != nil {
		lie.Bend(a)
	}
	send(w, a)
}

func (s *Server) record(r *http.Request, key string) (Request, Hook) {
	req := Request{Op: r.Method, Key: key, Range: r.Header.Get("Range"), Remote: r.RemoteAddr, Header: r.Header}
	if r.Method == http.MethodPut && r.Header.Get("If-None-Match") != "" {
		req.Op = Create
	}
	if r.Method == http.MethodGet && r.URL.Query().Get("list-type") == "2" {
		req.Op, req.Key = List, r.URL.Query().Get("prefix")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	req.N = len(s.log) + 1
	s.log = append(s.log, req)
	return req, s.hook
}

func (s *Server) carryOut(r *http.Request, req Request) *Answer {
	switch req.Op {
	case Get:
		return s.get(r.Context(), req)
	case Put, Create:
		return s.put(r, req)
	case Delete:
		if err := s.store.Delete(r.Context(), req.Key); err != nil {
			return failed(err)
		}
		return &Answer{Status: http.StatusNoContent}
	case List:
		return s.list(r)
	}
	return Error(http.StatusNotImplemented, "NotImplemented")
}

func failed(err error) *Answer {
	switch {
	case errors.Is(err, backend.ErrNotExist):
		return Error(http.StatusNotFound, "NoSuchKey")
	case errors.Is(err, backend.ErrExist):
		return Error(http.StatusPreconditionFailed, "PreconditionFailed")
	case errors.Is(err, backend.ErrDenied):
		return Error(http.StatusForbidden, "AccessDenied")
	case errors.Is(err, backend.ErrInvalid):
		return Error(http.StatusBadRequest, "InvalidArgument")
	}
	return Error(http.StatusInternalServerError, "InternalError")
}

func (s *Server) get(ctx context.Context, req Request) *Answer {
	body, err := s.store.Get(ctx, req.Key, backend.MaxObject)
	if err != nil {
		return failed(err)
	}
	a := &Answer{Status: http.StatusOK, Header: http.Header{}, Body: body}
	if req.Range == "" {
		return a
	}
	var from, to int
	if n, err := fmt.Sscanf(req.Range, "bytes=%d-%d", &from, &to); n != 2 || err != nil || to < from {
		return Error(http.StatusBadRequest, "InvalidArgument")
	}
	if from >= len(body) {
		return Error(http.StatusRequestedRangeNotSatisfiable, "InvalidRange")
	}
	to = min(to, len(body)-1) // as S3 does: what is there of the range
	a.Status, a.Body = http.StatusPartialContent, body[from:to+1]
	a.Header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, len(body)))
	return a
}

func (s *Server) put(r *http.Request, req Request) *Answer {
	body, err := io.ReadAll(io.LimitReader(r.Body, backend.MaxObject+1))
	if err != nil || int64(len(body)) != r.ContentLength {
		return Error(http.StatusBadRequest, "IncompleteBody")
	}
	sum := sha256.Sum256(body)
	if r.Header.Get("X-Amz-Content-Sha256") != hex.EncodeToString(sum[:]) {
		return Error(http.StatusBadRequest, "XAmzContentSHA256Mismatch")
	}
	if r.Header.Get("X-Amz-Checksum-Sha256") != base64.StdEncoding.EncodeToString(sum[:]) {
		return Error(http.StatusBadRequest, "BadDigest")
	}
	if req.Op == Create {
		err = s.store.Create(r.Context(), req.Key, body)
	} else {
		err = s.store.Put(r.Context(), req.Key, body, sum)
	}
	if err != nil {
		return failed(err)
	}
	return &Answer{Status: http.StatusOK, Header: http.Header{"Etag": {`"not-for-use"`}}}
}

type listResult struct {
	XMLName               xml.Name `xml:"ListBucketResult"`
	Contents              []listed
	IsTruncated           bool
	NextContinuationToken string `xml:",omitempty"`
}

type listed struct {
	Key  string
	Size int64
}

func (s *Server) list(r *http.Request) *Answer {
	q := r.URL.Query()
	var res listResult
	err := s.store.List(r.Context(), "", func(key string, size int64) error {
		if key = s.prefix + key; strings.HasPrefix(key, q.Get("prefix")) && key > q.Get("continuation-token") {
			res.Contents = append(res.Contents, listed{key, size})
		}
		return nil
	})
	if err != nil {
		return failed(err)
	}
	slices.SortFunc(res.Contents, func(a, b listed) int { return strings.Compare(a.Key, b.Key) })
	if len(res.Contents) > s.page {
		res.Contents = res.Contents[:s.page]
		res.IsTruncated, res.NextContinuationToken = true, res.Contents[s.page-1].Key
	}
	body, err := xml.Marshal(res)
	if err != nil {
		return failed(err)
	}
	return &Answer{Status: http.StatusOK, Body: append([]byte(xml.Header), body...)}
}

func send(w http.ResponseWriter, a *Answer) {
	if a.Cut {
		reset(w, a)
	}
	for name, values := range a.Header {
		w.Header()[name] = values
	}
	if !a.Chunked && w.Header().Get("Content-Length") == "" {
		w.Header().Set("Content-Length", strconv.Itoa(len(a.Body)))
	}
	w.WriteHeader(a.Status)
	if a.Chunked {
		_ = http.NewResponseController(w).Flush()
	}
	_, _ = w.Write(a.Body) // a client that has gone is no concern of a liar
}

// reset sends half an answer and a TCP reset, and does not return.
func reset(w http.ResponseWriter, a *Answer) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d Half\r\nContent-Length: %d\r\n", a.Status, len(a.Body))
	_ = a.Header.Write(&b)
	if b.WriteString("\r\n"); len(a.Body) == 0 {
		b.Truncate(b.Len() / 2)
	}
	b.Write(a.Body[:len(a.Body)/2])
	_, _ = conn.Write(b.Bytes())
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
	panic(http.ErrAbortHandler)
}
