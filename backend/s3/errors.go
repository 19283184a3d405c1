package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"

	"kist/backend"
)

// A failure is the outcome of one request: a kind for the caller, a text for
// people, and what the tries want to know. It has the kind alone in its chain.
type failure struct {
	kind      error
	text      string
	again     bool // another try may help
	unwritten bool // for certain nothing was written, and another try may help
}

func (f *failure) Error() string { return f.kind.Error() + ": " + f.text }
func (f *failure) Unwrap() error { return f.kind }

func wrongRange(text string) error {
	return &failure{kind: backend.ErrShort, text: text}
}

// errCredentials marks an error of the credentials themselves.
type errCredentials struct{ err error }

func (e *errCredentials) Error() string { return e.err.Error() }

// watched tells errors of the provider from those of the store.
type watched struct{ aws.CredentialsProvider }

func (w watched) Retrieve(ctx context.Context) (aws.Credentials, error) {
	if w.CredentialsProvider == nil {
		return aws.Credentials{}, &errCredentials{errors.New("none are set")}
	}
	c, err := w.CredentialsProvider.Retrieve(ctx)
	if err != nil {
		return c, &errCredentials{err}
	}
	return c, nil
}

// explain turns what the SDK or a body said into the contract's errors.
func (s *Store) explain(ctx context.Context, err error) error {
	var f *failure
	var resp *awshttp.ResponseError
	var cred *errCredentials
	switch {
	case err == nil || errors.As(err, &f) || errors.Is(err, backend.ErrTooLarge):
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &cred):
		return &failure{kind: backend.ErrDenied, text: "no usable credentials; set a profile or the AWS environment"}
	case errors.As(err, &resp) && resp.HTTPStatusCode() > 0:
		return answered(resp.HTTPStatusCode(), code(err))
	case errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF):
		// Shorter than its own header says: the line broke.
		return &failure{kind: backend.ErrAway, text: "the answer ended too early", again: true}
	}
	return &failure{kind: backend.ErrAway, text: cause(err), again: true}
}

// code is the store's own name for the error, or "" where it is no such name:
// the store must not write into our messages.
func code(err error) string {
	var api smithy.APIError
	if !errors.As(err, &api) || len(api.ErrorCode()) > 64 {
		return ""
	}
	for _, c := range []byte(api.ErrorCode()) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9') {
			return ""
		}
	}
	return api.ErrorCode()
}

// codes whose meaning the status does not tell, or tells wrongly.
var codes = map[string]failure{
	"NoSuchKey":                    {kind: backend.ErrNotExist, text: "NoSuchKey"},
	"NoSuchBucket":                 {kind: backend.ErrAway, text: "the bucket does not exist"},
	"NotImplemented":               {kind: backend.ErrUnsupported, text: "it does not implement a request that kist needs"},
	"InvalidRange":                 {kind: backend.ErrShort, text: "the object ends before the range"},
	"ConditionalRequestConflict":   {kind: backend.ErrAway, text: "conflicts with concurrent requests, again and again", again: true, unwritten: true},
	"OperationAborted":             {kind: backend.ErrAway, text: "conflicts with concurrent requests, again and again", again: true, unwritten: true},
	"BadDigest":                    {kind: backend.ErrInvalid, text: "the bytes that arrived have another checksum", again: true, unwritten: true},
	"XAmzContentSHA256Mismatch":    {kind: backend.ErrInvalid, text: "the bytes that arrived have another checksum", again: true, unwritten: true},
	"XAmzContentChecksumMismatch":  {kind: backend.ErrInvalid, text: "the bytes that arrived have another checksum", again: true, unwritten: true},
	"RequestTimeTooSkewed":         {kind: backend.ErrDenied, text: "this machine's clock is wrong", again: true, unwritten: true},
	"ExpiredToken":                 {kind: backend.ErrDenied, text: "the credentials have expired; renew them"},
	"InvalidToken":                 {kind: backend.ErrDenied, text: "the credentials are not valid; renew them"},
	"AuthorizationHeaderMalformed": {kind: backend.ErrDenied, text: "the request was signed for another region; set region="},
	"InvalidAccessKeyId":           {kind: backend.ErrDenied, text: "it does not know the access key"},
	"XAdminUserNotFound":           {kind: backend.ErrDenied, text: "it does not know the access key"}, // versitygw, with 404
	"SignatureDoesNotMatch":        {kind: backend.ErrDenied, text: "the secret key is wrong"},
	"RequestTimeout":               {kind: backend.ErrAway, text: "the upload stalled", again: true},
}

func answered(status int, code string) error {
	if f, ok := codes[code]; ok {
		return &f
	}
	text := strings.TrimSpace(fmt.Sprintf("it answered %d %s", status, code))
	switch {
	case status < 300:
		return &failure{kind: backend.ErrAway, text: "its answer makes no sense", again: true}
	case status == http.StatusPreconditionFailed:
		return &failure{kind: backend.ErrExist, text: "a conditional write found it"}
	case status == http.StatusConflict:
		return &failure{kind: backend.ErrAway, text: text, again: true, unwritten: true}
	case status == http.StatusNotImplemented:
		return &failure{kind: backend.ErrUnsupported, text: text}
	case status == http.StatusRequestedRangeNotSatisfiable:
		return &failure{kind: backend.ErrShort, text: text}
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return &failure{kind: backend.ErrDenied, text: text + " (without the right to list, also for an object that does not exist)"}
	case status >= 300 && status < 400:
		return &failure{kind: backend.ErrAway, text: text + "; the bucket may be in another region: set region= or endpoint="}
	case status == http.StatusNotFound:
		return &failure{kind: backend.ErrAway, text: text + ", which is not S3's way to say that an object is missing; is the endpoint right?"}
	case status == http.StatusInsufficientStorage:
		return &failure{kind: backend.ErrFull, text: text, again: true}
	case status == http.StatusTooManyRequests || status >= 500:
		return &failure{kind: backend.ErrAway, text: text, again: true}
	}
	return &failure{kind: backend.ErrAway, text: text}
}

// cause is the innermost error's text: the SDK's own repeats the URL, and with
// it the key.
func cause(err error) string {
	if u := (*url.Error)(nil); errors.As(err, &u) {
		return u.Err.Error()
	}
	for errors.Unwrap(err) != nil {
		err = errors.Unwrap(err)
	}
	return err.Error()
}
