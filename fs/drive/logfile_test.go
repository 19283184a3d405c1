package drive

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestLogIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, err := openLog(path, false)
	if err != nil {
		t.Fatal(err)
	}
	const writers, lines = 4, 100
	padding := strings.Repeat(".", 16<<10) // 6.4 MiB in all: it is renewed once
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for n := range lines {
				if _, err := fmt.Fprintf(l, "%d %d %s\n", w, n, padding); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, name := range []string{path + ".old", path} {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if len(raw) > maxLog {
			t.Errorf("%s has %d bytes", filepath.Base(name), len(raw))
		}
		if fi, err := os.Stat(name); err != nil || fi.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", filepath.Base(name), fi.Mode(), err)
		}
		for line := range bytes.Lines(raw) {
			f := strings.Fields(string(line))
			if len(f) != 3 || f[2] != padding {
				t.Fatalf("a line is torn: %.40q", line)
			}
			seen[f[0]+" "+f[1]] = true
		}
	}
	if len(seen) != writers*lines {
		t.Errorf("%d lines of %d are there", len(seen), writers*lines)
	}
}

// A log that can't be set aside goes on.
func TestLogGoesOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.MkdirAll(path+".old/full", 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := openLog(path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	line := bytes.Repeat([]byte("."), maxLog-1)
	for range 2 {
		if _, err := l.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	if fi, err := os.Stat(path); err != nil || fi.Size() != int64(2*len(line)) {
		t.Errorf("%v, %v", fi.Size(), err)
	}
}
