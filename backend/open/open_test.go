package open_test

import (
	"errors"
	"path/filepath"
	"testing"

	"kist/backend"
	"kist/backend/open"
)

func TestOpen(t *testing.T) {
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(t.TempDir(), "none"))
	top := filepath.Join(t.TempDir(), "missing")
	for in, kind := range map[string]error{
		"dir:" + top: nil,
		"s3://bucket/p?endpoint=http://127.0.0.1:1&region=r": nil,
		"s3://bucket?profile=nobody":                         backend.ErrDenied,
	} {
		spec, err := backend.Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		s, err := open.Open(t.Context(), spec)
		if !errors.Is(err, kind) || (s == nil) != (err != nil) {
			t.Errorf("%s: %v, %v", in, s, err)
		}
		if err == nil && s.String() != spec.String() {
			t.Errorf("%s is called %s", in, s)
		}
	}
	if _, err := open.Open(t.Context(), backend.Spec{}); !errors.Is(err, backend.ErrInvalid) {
		t.Error(err)
	}
}
