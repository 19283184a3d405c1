package drive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kist/backend"
)

func serveTest(t *testing.T, h handler) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 40))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "control")
	s, err := listen(path, h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return path
}

func TestControl(t *testing.T) {
	path := serveTest(t, func(_ context.Context, req request, progress func(string)) (any, error) {
		switch req.Op {
		case "status":
			progress("one")
			progress("two")
			return map[string]int{"n": 7}, nil
		}
		return nil, fmt.Errorf("reading: %w", backend.ErrAway)
	})
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", fi, err)
	}
	var seen []string
	result := map[string]int{}
	c, err := call(t.Context(), path, request{Op: "status"}, &result, func(p string) { seen = append(seen, p) })
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if result["n"] != 7 || strings.Join(seen, " ") != "one two" {
		t.Errorf("got %v after %v", result, seen)
	}
	c, err = call(t.Context(), path, request{Op: "sync"}, nil, nil)
	if Code(err) != CodeAway || !strings.Contains(err.Error(), "reading") {
		t.Errorf("got %v with code %d", err, Code(err))
	}
	c.Close()
}

func TestControlEndsWithTheVerb(t *testing.T) {
	began, ended := make(chan struct{}), make(chan struct{})
	path := serveTest(t, func(ctx context.Context, _ request, _ func(string)) (any, error) {
		close(began)
		<-ctx.Done()
		close(ended)
		return nil, ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-began; cancel() }()
	c, err := call(ctx, path, request{Op: "sync"}, nil, nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	c.Close()
	<-ended
}

func TestControlOfTheDead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control")
	if _, err := call(t.Context(), path, request{Op: "status"}, nil, nil); !errors.Is(err, ErrDead) {
		t.Errorf("no socket: %v, want ErrDead", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := call(t.Context(), path, request{Op: "status"}, nil, nil); !errors.Is(err, ErrDead) {
		t.Errorf("no listener: %v, want ErrDead", err)
	}
}

func TestCodes(t *testing.T) {
	for _, row := range codes {
		if got := Code(fmt.Errorf("doing: %w", row.kind)); got != row.code {
			t.Errorf("%v: code %d, want %d", row.kind, got, row.code)
		}
	}
	if Code(nil) != CodeDone || Code(errors.New("else")) != CodeFailed {
		t.Error("no error, or an unknown one, has the wrong code")
	}
	if got := Code(fmt.Errorf("asked: %w", &Told{Code: 5})); got != 5 {
		t.Errorf("a code told by a daemon: %d", got)
	}
}
