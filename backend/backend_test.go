package backend_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"kist/backend"
	"kist/backend/mem"
)

func TestParse(t *testing.T) {
	for in, want := range map[string]backend.Spec{
		"dir:/a/b c":          {Kind: "dir", Path: "/a/b c"},
		"dir:rel":             {Kind: "dir", Path: "rel"},
		"dir:./~":             {Kind: "dir", Path: "./~"},
		"dir:/a?b=c":          {Kind: "dir", Path: "/a?b=c"},
		"s3://bucket":         {Kind: "s3", Bucket: "bucket"},
		"s3://bucket/":        {Kind: "s3", Bucket: "bucket"},
		"s3://my.b-1/p/q/":    {Kind: "s3", Bucket: "my.b-1", Prefix: "p/q"},
		"s3://bucket/a%20b+c": {Kind: "s3", Bucket: "bucket", Prefix: "a b+c"},
		"s3://bucket/p?endpoint=http://127.0.0.1:9000/&region=eu-west-1&profile=work&path_style=1": {
			Kind: "s3", Bucket: "bucket", Prefix: "p", Endpoint: "http://127.0.0.1:9000",
			Region: "eu-west-1", Profile: "work", PathStyle: true,
		},
		"s3://bucket?endpoint=https%3A%2F%2F%5B::1%5D:9": {Kind: "s3", Bucket: "bucket", Endpoint: "https://[::1]:9"},
	} {
		got, err := backend.Parse(in)
		if err != nil || got != want {
			t.Errorf("Parse(%q) = %+v, %v", in, got, err)
		}
		again, err := backend.Parse(got.String())
		if err != nil || again != got || again.String() != got.String() {
			t.Errorf("%q is written %q, which is read as %+v, %v", in, got.String(), again, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, in := range []string{
		"", "bucket", "/path", "http://bucket", "S3://bucket", "dir:", "dir:///p", "dir:~/p", "dir:a\x00b",
		"s3://", "s3://ab", "s3:///p", "s3://-bucket", "s3://bucket-", "s3://buc ket", "s3://bucket:80",
		"s3://key:SECRET@bucket", "s3://SECRET@bucket", "s3://bucket/p?access_key=SECRET", "s3://bucket?SECRET",
		"s3://bucket/../p", "s3://bucket/a//b", "s3://bucket/.p", "s3://bucket/p#SECRET", "s3://bucket/p#",
		"s3://bucket?path_style=0", "s3://bucket?path_style=1&path_style=1", "s3://bucket?region=",
		"s3://bucket?region=a/b", "s3://bucket?profile=a%0ab", "s3://bucket?endpoint=host:9",
		"s3://bucket?endpoint=http://k:SECRET@host", "s3://bucket?endpoint=http://host/p",
		"s3://bucket?endpoint=http://host%3Fa=b", "s3://bucket?endpoint=ftp://host", "s3://bucket?a=%zz",
		"s3://bucket/" + strings.Repeat("p", 300), "s3://bucket/%zzSECRET",
	} {
		got, err := backend.Parse(in)
		if !errors.Is(err, backend.ErrInvalid) {
			t.Errorf("Parse(%q) = %+v, %v", in, got, err)
		} else if strings.Contains(err.Error(), "SECRET") {
			t.Errorf("the error repeats a secret: %v", err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("dir:/a")
	f.Add("s3://bucket/p/q?endpoint=http://h:1&region=r&profile=p&path_style=1")
	f.Add("s3://bucket/%25%20?region=a")
	f.Fuzz(func(t *testing.T, in string) {
		spec, err := backend.Parse(in)
		if err != nil {
			return
		}
		again, err := backend.Parse(spec.String())
		if err != nil || again != spec {
			t.Fatalf("%q -> %+v -> %q -> %+v, %v", in, spec, spec.String(), again, err)
		}
	})
}

func TestProbeLeavesNothing(t *testing.T) {
	s := mem.New(t)
	if err := backend.Probe(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if keys := s.Keys(); len(keys) != 0 {
		t.Fatalf("left %v", keys)
	}
	if c := s.Counts(); c[mem.Create] != 10 || c[mem.Get] != 2 || c[mem.Delete] != 2 || len(c) != 3 {
		t.Fatalf("requests: %v", c)
	}
	for _, r := range s.Log() {
		if !strings.HasPrefix(r.Key, "probe/") {
			t.Fatalf("touched %s", r.Key)
		}
	}
}

// Whatever single request fails, the probe reports it as what it is, and
// never as a fault of the store's conditional writes.
func TestProbeFailures(t *testing.T) {
	for _, kind := range []error{backend.ErrAway, backend.ErrDenied, backend.ErrUnsupported} {
		for n := 1; n <= 14; n++ {
			s := mem.New(t)
			s.SetHook(func(r mem.Request) mem.Answer {
				if r.N == n {
					return mem.Answer{After: kind}
				}
				return mem.Answer{}
			})
			want := kind
			if kind == backend.ErrDenied && n > 12 {
				want = nil // nobody needs the right to delete
			}
			if err := backend.Probe(t.Context(), s); !errors.Is(err, want) {
				t.Errorf("request %d failed with %v, the probe says %v", n, kind, err)
			}
		}
	}
}

// A store with a lock that is taken too late lets two win.
func TestProbeFindsRaces(t *testing.T) {
	s := mem.New(t)
	s.SetHook(func(r mem.Request) mem.Answer {
		return mem.Answer{Accept: r.Verb == mem.Create && r.Of == 5 && r.N > 3}
	})
	if err := backend.Probe(t.Context(), s); !errors.Is(err, backend.ErrUnsupported) || !strings.Contains(err.Error(), "both succeeded") {
		t.Fatal(err)
	}
	s.SetHook(func(r mem.Request) mem.Answer { // accepts none, keeps other bytes than the winner's
		if r.Verb == mem.Create && r.Of == 1 && r.N > 3 {
			return mem.Answer{Bend: mem.Flip(9)}
		}
		return mem.Answer{}
	})
	if err := backend.Probe(t.Context(), s); !errors.Is(err, backend.ErrUnsupported) {
		t.Fatal(err)
	}
}

func TestProbeCancelled(t *testing.T) {
	s := mem.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	s.SetHook(func(r mem.Request) mem.Answer {
		if r.N == 2 {
			cancel()
		}
		return mem.Answer{}
	})
	if err := backend.Probe(ctx, s); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if n := len(s.Log()); n != 2 {
		t.Fatalf("%d requests after the cancel", n-2)
	}
}
