package mem_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"testing"

	"kist/backend"
	"kist/backend/backendtest"
	"kist/backend/mem"
)

func TestConformance(t *testing.T) {
	// The suite breaks rules on purpose, so nobody is accused.
	backendtest.Run(t, func(t *testing.T) backend.Store { return mem.New(nil) })
}

func TestViewsShare(t *testing.T) {
	s := mem.New(nil)
	backendtest.Race(t, []backend.Store{s, s.View("b"), s.View("c")}, 16)
}

// judge collects accusations.
type judge struct{ said []string }

func (j *judge) Helper() {}
func (j *judge) Errorf(format string, args ...any) {
	j.said = append(j.said, fmt.Sprintf(format, args...))
}

func put(s *mem.Store, key, body string) error {
	return s.Put(context.Background(), key, []byte(body), sha256.Sum256([]byte(body)))
}

func TestAccuses(t *testing.T) {
	sum := sha256.Sum256([]byte("pack"))
	pack := "vaults/v/packs/" + hex.EncodeToString(sum[:])
	for name, c := range map[string]struct {
		do      func(s *mem.Store)
		accused bool
	}{
		"good pack, twice": {func(s *mem.Store) { put(s, pack, "pack"); put(s, pack, "pack") }, false},
		"pack changes":     {func(s *mem.Store) { put(s, pack, "pack"); put(s, pack, "kcap") }, true},
		"pack misnamed":    {func(s *mem.Store) { put(s, "packs/00", "pack") }, true},
		"pack deleted":     {func(s *mem.Store) { put(s, pack, "pack"); s.Delete(t.Context(), pack) }, false},
		"slot created":     {func(s *mem.Store) { s.Create(t.Context(), "vaults/v/log/0", []byte("x")) }, false},
		"slot lost":        {func(s *mem.Store) { s.Plant("log/0", []byte("y")); s.Create(t.Context(), "log/0", []byte("x")) }, false},
		"slot put":         {func(s *mem.Store) { put(s, "vaults/v/log/0", "x") }, true},
		"slot deleted":     {func(s *mem.Store) { s.Delete(t.Context(), "vaults/v/log/0") }, true},
		"identity put":     {func(s *mem.Store) { put(s, "ids/a/0", "x") }, true},
		"kist.json put":    {func(s *mem.Store) { put(s, "kist.json", "x") }, true},
		"hint, again":      {func(s *mem.Store) { put(s, "vaults/v/hint", "1"); put(s, "vaults/v/hint", "2") }, false},
		"empty put":        {func(s *mem.Store) { put(s, "vaults/v/hint", "") }, true},
		"empty create":     {func(s *mem.Store) { s.Create(t.Context(), "vaults/v/log/0", nil) }, true},
		"attacker":         {func(s *mem.Store) { s.Plant("log/0", nil); s.Plant(pack, []byte("x")) }, false},
		"store's own lie": {func(s *mem.Store) {
			s.SetHook(func(mem.Request) mem.Answer { return mem.Answer{Accept: true, Bend: mem.Flip(0)} })
			put(s, pack, "pack")
			s.Create(t.Context(), "log/0", []byte("x"))
			s.Create(t.Context(), "log/0", []byte("y"))
		}, false},
	} {
		var j judge
		c.do(mem.New(&j))
		if (len(j.said) > 0) != c.accused {
			t.Errorf("%s: %q", name, j.said)
		}
	}
}

var errLie = errors.New("lie")

func TestLies(t *testing.T) {
	ctx := t.Context()
	lie := func(a mem.Answer) *mem.Store {
		s := mem.New(t)
		s.Plant("k", []byte("old"))
		s.Plant("k", []byte("new"))
		s.Plant("other", []byte("another"))
		s.SetHook(func(mem.Request) mem.Answer { return a })
		return s
	}
	read := func(a mem.Answer) string {
		got, err := lie(a).Get(ctx, "k", 100)
		part, perr := lie(a).GetRange(ctx, "k", 0, 3)
		if err == nil && (perr != nil && len(got) >= 3 || perr == nil && string(part) != string(got[:3])) {
			t.Errorf("Get says %q, GetRange %q, %v", got, part, perr)
		}
		return fmt.Sprintf("%s%v", got, err)
	}
	for _, c := range []struct {
		a    mem.Answer
		want string
	}{
		{mem.Answer{}, "new<nil>"},
		{mem.Answer{Before: errLie}, "lie"},
		{mem.Answer{After: errLie}, "lie"},
		{mem.Answer{Drop: true}, backend.ErrNotExist.Error()},
		{mem.Answer{Key: "other"}, "another<nil>"},
		{mem.Answer{Version: 1}, "old<nil>"},
		{mem.Answer{Version: 3}, backend.ErrNotExist.Error()},
		{mem.Answer{Bend: mem.Flip(0)}, "oew<nil>"},
		{mem.Answer{Bend: mem.Truncate(2)}, "ne<nil>"},
		{mem.Answer{Bend: mem.Extend(1)}, "new\x00<nil>"},
		{mem.Answer{Wait: func(context.Context) error { return errLie }}, "lie"},
	} {
		if got := read(c.a); got != c.want {
			t.Errorf("%+v: read %q, want %q", c.a, got, c.want)
		}
	}
	for _, c := range []struct {
		a    mem.Answer
		err  error
		kept string
	}{
		{mem.Answer{Before: errLie}, errLie, ""},
		{mem.Answer{After: errLie}, errLie, "body"},
		{mem.Answer{Drop: true}, nil, ""},
		{mem.Answer{Bend: mem.Truncate(3)}, nil, "bod"},
	} {
		s := lie(c.a)
		if err := s.Create(ctx, "fresh", []byte("body")); err != c.err || string(s.Peek("fresh")) != c.kept {
			t.Errorf("Create: %v, kept %q", err, s.Peek("fresh"))
		}
		s = lie(c.a)
		if err := put(s, "fresh", "body"); err != c.err || string(s.Peek("fresh")) != c.kept {
			t.Errorf("Put: %v, kept %q", err, s.Peek("fresh"))
		}
	}
	s := lie(mem.Answer{List: func(items []mem.Item) []mem.Item { return items[1:] }})
	var keys []string
	if err := s.List(ctx, "", func(key string, _ int64) error { keys = append(keys, key); return nil }); err != nil || !slices.Equal(keys, []string{"other"}) {
		t.Error(keys, err)
	}
	if n := s.Versions("k"); n != 2 {
		t.Error(n)
	}
}

func TestForks(t *testing.T) {
	a := mem.New(t)
	a.Plant("k", []byte("1"))
	b := a.Clone("b")
	a.Plant("k", []byte("2a"))
	b.Plant("k", []byte("2b"))
	b.Plant("only b", []byte("x"))
	if string(a.Peek("k")) != "2a" || string(b.Peek("k")) != "2b" || a.Peek("only b") != nil {
		t.Fatal(a.Keys(), b.Keys())
	}
	view := a.View("second")
	view.SetHook(func(mem.Request) mem.Answer { return mem.Answer{Version: 1} })
	old, _ := view.Get(t.Context(), "k", 9)
	now, _ := a.Get(t.Context(), "k", 9)
	if string(old) != "1" || string(now) != "2a" {
		t.Fatalf("%q %q", old, now)
	}
}

func TestLog(t *testing.T) {
	s := mem.New(t)
	put(s, "a", "12345")
	s.Get(t.Context(), "b", 1)
	s.GetRange(t.Context(), "a", 1, 2)
	s.Forget()
	s.Get(t.Context(), "b", 1)
	log := s.Log()
	if len(log) != 1 || log[0].N != 4 || log[0].Of != 2 || log[0].Err != backend.ErrNotExist || s.Counts()[mem.Get] != 1 {
		t.Fatalf("%+v", log)
	}
}
