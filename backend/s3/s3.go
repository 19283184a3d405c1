// Package s3 is the store in a bucket. It is the only package that knows AWS.
//
// It holds the contract of package backend against a store, and proxies in
// front of it, that answer anything at all: every length and range is checked
// here, ETags and the checksums of answers are not looked at, and the meaning
// of the bytes is judged above.
//
// What is sent carries its SHA-256 twice, as signed payload hash and as
// checksum that the store must verify; it is computed once, by the caller of
// Put, who has it as the name of the pack.
//
// A whole Get can't tell an error page sent with status 200 from the object:
// its bytes are returned, and refused above. A GetRange can, and does.
//
// A credential without list rights is told 403 for a missing object. That is
// ErrDenied here, never ErrNotExist: give kist the right to list the prefix.
package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/logging"
	"github.com/aws/smithy-go/middleware"

	"kist/backend"
)

// Without a region, S3-compatible servers expect this one in signatures.
const defaultRegion = "us-east-1"

// Store is a backend.Store in a bucket.
type Store struct {
	spec   backend.Spec
	prefix string // with its slash, or empty
	client *s3.Client
	fresh  *http.Client // for backend.Fresh: no connection is used twice
	tune   tuning
}

var _ backend.Store = (*Store)(nil)

// tuning holds what tests make shorter.
type tuning struct {
	dial   time.Duration // to connect
	stall  time.Duration // without a byte in either direction
	header time.Duration // from the end of the request to the answer
	tries  int           // of one call
	pause  time.Duration // before the second try; doubles, with jitter
}

var defaults = tuning{
	dial:   10 * time.Second,
	stall:  30 * time.Second,
	header: 30 * time.Second,
	tries:  4,
	pause:  100 * time.Millisecond,
}

// Open prepares the store that spec names, with credentials from the user's
// AWS settings or environment. It does not contact the store: a bucket that is
// away shows at the first call.
func Open(ctx context.Context, spec backend.Spec) (*Store, error) {
	var opts []func(*config.LoadOptions) error
	if spec.Profile != "" {
		opts = append(opts, config.WithSharedConfigProfile(spec.Profile))
	}
	cfg, err := config.LoadDefaultConfig(ctx, opts...)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: the AWS settings can't be used, or have no such profile", backend.ErrDenied)
	}
	return open(spec, cfg, defaults)
}

// OpenWith prepares the store with the given credentials.
func OpenWith(spec backend.Spec, accessKey, secretKey string) (*Store, error) {
	return open(spec, staticConfig(accessKey, secretKey), defaults)
}

func staticConfig(accessKey, secretKey string) aws.Config {
	return aws.Config{Credentials: credentials.NewStaticCredentialsProvider(accessKey, secretKey, "")}
}

func open(spec backend.Spec, cfg aws.Config, tune tuning) (*Store, error) {
	if spec.Kind != backend.KindS3 {
		return nil, fmt.Errorf("%w: not an S3 address", backend.ErrInvalid)
	}
	roots := rootCAs(cfg)
	st := &Store{spec: spec, fresh: newHTTPClient(tune, roots, true), tune: tune}
	if spec.Prefix != "" {
		st.prefix = spec.Prefix + "/"
	}
	st.client = s3.NewFromConfig(cfg, func(o *s3.Options) {
		o.HTTPClient = newHTTPClient(tune, roots, false)
		o.Retryer = aws.NopRetryer{} // the tries are counted in Store.try
		o.RetryMaxAttempts = 0
		o.Credentials = watched{o.Credentials}
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		o.DisableLogOutputChecksumValidationSkipped = true
		o.ContinueHeaderThresholdBytes = -1 // a round trip for nothing; some servers never answer it
		o.Logger = logging.Nop{}            // it would print keys
		if spec.Region != "" {
			o.Region = spec.Region
		} else if o.Region == "" {
			o.Region = defaultRegion
		}
		if spec.Endpoint != "" {
			o.BaseEndpoint = aws.String(spec.Endpoint)
		}
		o.UsePathStyle = spec.PathStyle || spec.Endpoint != ""
	})
	return st, nil
}

// String implements backend.Store.
func (s *Store) String() string { return s.spec.String() }

// Get implements backend.Store.
func (s *Store) Get(ctx context.Context, key string, limit int64) ([]byte, error) {
	if err := backend.CheckKey(key); err != nil {
		return nil, err
	}
	if limit < 0 || limit > backend.MaxObject {
		return nil, fmt.Errorf("%w: a limit of %d bytes", backend.ErrInvalid, limit)
	}
	var data []byte
	err := s.try(ctx, func() error {
		out, err := s.client.GetObject(ctx, s.getInput(key), s.options(ctx)...)
		if err != nil {
			return s.explain(ctx, err)
		}
		defer out.Body.Close()
		data, err = readWhole(out, limit)
		return s.explain(ctx, err)
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

// GetRange implements backend.Store.
func (s *Store) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	if err := backend.CheckRange(key, off, n); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil || n == 0 {
		return []byte{}, err
	}
	in := s.getInput(key)
	in.Range = aws.String(fmt.Sprintf("bytes=%d-%d", off, off+n-1))
	var data []byte
	err := s.try(ctx, func() error {
		out, err := s.client.GetObject(ctx, in, s.options(ctx)...)
		if err != nil {
			return s.explain(ctx, err)
		}
		defer out.Body.Close()
		data, err = readRange(out, off, n)
		return s.explain(ctx, err)
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

func (s *Store) getInput(key string) *s3.GetObjectInput {
	return &s3.GetObjectInput{Bucket: &s.spec.Bucket, Key: aws.String(s.prefix + key)}
}

// options are those of one request.
func (s *Store) options(ctx context.Context) []func(*s3.Options) {
	if !backend.IsFresh(ctx) {
		return nil
	}
	return []func(*s3.Options){func(o *s3.Options) { o.HTTPClient = s.fresh }}
}

// Put implements backend.Store.
func (s *Store) Put(ctx context.Context, key string, body []byte, sum [32]byte) error {
	if err := backend.CheckWrite(key, body); err != nil {
		return err
	}
	return s.try(ctx, func() error { return s.put(ctx, key, body, sum, false) })
}

// Create implements backend.Store. Only answers that say for certain that
// nothing was written (a conflict with a concurrent request, a damaged body)
// lead to another try: after a lost answer a 412 could be about this very
// call, so the caller has to look.
func (s *Store) Create(ctx context.Context, key string, body []byte) error {
	if err := backend.CheckWrite(key, body); err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := s.put(ctx, key, body, sum, true)
		var f *failure
		if !errors.As(err, &f) || !f.unwritten || n+1 >= s.tune.tries {
			return err
		}
		if err := s.rest(ctx, n); err != nil {
			return err
		}
	}
}

func (s *Store) put(ctx context.Context, key string, body []byte, sum [32]byte, create bool) error {
	stream := newBody(body)
	defer stream.retire()
	in := &s3.PutObjectInput{
		Bucket:         &s.spec.Bucket,
		Key:            aws.String(s.prefix + key),
		Body:           stream,
		ContentLength:  aws.Int64(int64(len(body))),
		ChecksumSHA256: aws.String(base64.StdEncoding.EncodeToString(sum[:])),
	}
	if create {
		in.IfNoneMatch = aws.String("*")
	}
	_, err := s.client.PutObject(ctx, in, s3.WithAPIOptions(payloadHash(sum)))
	return s.explain(ctx, err)
}

// payloadHash gives the signer the hash that is known already; otherwise it
// would read the body again, or over TLS sign none at all.
func payloadHash(sum [32]byte) func(*middleware.Stack) error {
	set := middleware.InitializeMiddlewareFunc("kist/payload-hash", func(
		ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler,
	) (middleware.InitializeOutput, middleware.Metadata, error) {
		return next.HandleInitialize(v4.SetPayloadHash(ctx, hex.EncodeToString(sum[:])), in)
	})
	return func(stack *middleware.Stack) error { return stack.Initialize.Add(set, middleware.Before) }
}

// Delete implements backend.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := backend.CheckKey(key); err != nil {
		return err
	}
	err := s.try(ctx, func() error {
		_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.spec.Bucket, Key: aws.String(s.prefix + key)})
		return s.explain(ctx, err)
	})
	if errors.Is(err, backend.ErrNotExist) {
		return nil // some servers say so
	}
	return err
}

// List implements backend.Store.
func (s *Store) List(ctx context.Context, prefix string, fn func(string, int64) error) error {
	if err := backend.CheckPrefix(prefix); err != nil {
		return err
	}
	full := s.prefix + prefix
	in := &s3.ListObjectsV2Input{Bucket: &s.spec.Bucket, Prefix: &full}
	for {
		var out *s3.ListObjectsV2Output
		err := s.try(ctx, func() (err error) {
			out, err = s.client.ListObjectsV2(ctx, in)
			return s.explain(ctx, err)
		})
		if err != nil {
			return err
		}
		for _, obj := range out.Contents {
			name := aws.ToString(obj.Key)
			if !strings.HasPrefix(name, full) {
				return fmt.Errorf("%w: the listing names objects outside of what was asked", backend.ErrShort)
			}
			if err := fn(name[len(s.prefix):], aws.ToInt64(obj.Size)); err != nil {
				return err
			}
		}
		if !aws.ToBool(out.IsTruncated) {
			return nil
		}
		next := aws.ToString(out.NextContinuationToken)
		if next == "" || next == aws.ToString(in.ContinuationToken) {
			return fmt.Errorf("%w: the listing does not go on where it stopped", backend.ErrShort)
		}
		in.ContinuationToken = &next
	}
}

// try repeats what may be repeated without harm while that is likely to help.
func (s *Store) try(ctx context.Context, do func() error) error {
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := do()
		var f *failure
		if errors.As(err, &f) && (f.kind == backend.ErrExist || f.kind == backend.ErrUnsupported) {
			// Only a conditional write has a use for such an answer.
			return &failure{kind: backend.ErrAway, text: f.text}
		}
		if f == nil || !f.again || n+1 >= s.tune.tries {
			return err
		}
		if err := s.rest(ctx, n); err != nil {
			return err
		}
	}
}

// rest waits before try n+2: the pause doubled n times, less up to half of it.
func (s *Store) rest(ctx context.Context, n int) error {
	d := s.tune.pause << n
	d -= rand.N(d/2 + 1)
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func readWhole(out *s3.GetObjectOutput, limit int64) ([]byte, error) {
	if out.ContentLength == nil || *out.ContentLength < 0 {
		return readUpTo(out.Body, limit)
	}
	n := *out.ContentLength
	if n > limit {
		return nil, backend.ErrTooLarge
	}
	return readExactly(out.Body, n)
}

// readUpTo serves answers without a length.
func readUpTo(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, backend.ErrTooLarge
	}
	return data, nil
}

func readRange(out *s3.GetObjectOutput, off, n int64) ([]byte, error) {
	got := aws.ToString(out.ContentRange)
	if got == "" { // an error page, or a proxy that does not know ranges
		return nil, &failure{kind: backend.ErrShort, text: "an answer without a range", again: true}
	}
	if !strings.HasPrefix(got, fmt.Sprintf("bytes %d-%d/", off, off+n-1)) {
		return nil, wrongRange("an answer that is another range")
	}
	if out.ContentLength != nil && *out.ContentLength >= 0 && *out.ContentLength != n {
		return nil, wrongRange("an answer of another length")
	}
	return readExactly(out.Body, n)
}

// readExactly refuses one byte less and one byte more.
func readExactly(r io.Reader, n int64) ([]byte, error) {
	data := bytes.NewBuffer(make([]byte, 0, n+1+bytes.MinRead))
	// A line that breaks off is an error here, an answer that just ends is none.
	switch m, err := data.ReadFrom(io.LimitReader(r, n+1)); {
	case err != nil:
		return nil, err
	case m > n:
		return nil, wrongRange("an answer that is too long")
	case m < n:
		return nil, wrongRange("an answer that is too short")
	}
	return data.Bytes(), nil
}
