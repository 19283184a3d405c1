//go:build linux

package integration

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"kist/integration/s3meter"
)

// The kinds of store that a story is told on.
const (
	onDir = "dir"
	onS3  = "s3"
)

// World is one store and the machines that use it.
type World struct {
	t        *testing.T
	dir      string // everything of this test; its name begins no other's, see alive
	kind     string
	objects  string // the folder in which the store's objects lie as files
	bucket   string
	program  string
	machines []*Machine
	ends     int  // what the last check must exit with
	lawless  bool // the store is beyond checking: no last check
	meters   bool // on S3, each machine has a proxy of its own
}

var worlds atomic.Int64

// option changes a World before it begins.
type option func(*World) error

// metered puts a proxy between each machine and the server.
func metered(w *World) error {
	w.meters = w.kind == onS3
	return nil
}

// unraced drives the plain program, for tests that carry much data.
func unraced(w *World) (err error) {
	w.program, err = quick()
	return err
}

// eachStore tells a story once on a directory and once on the S3 server, both
// at the same time as other tests.
func eachStore(t *testing.T, story func(t *testing.T, w *World), opts ...option) {
	t.Parallel()
	for _, kind := range []string{onDir, onS3} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			story(t, newWorld(t, kind, opts...))
		})
	}
}

func newWorld(t *testing.T, kind string, opts ...option) *World {
	t.Helper()
	if err := requireMachine(); err != nil {
		t.Fatal(err)
	}
	n := worlds.Add(1)
	w := &World{t: t, kind: kind, dir: filepath.Join(suite.dir, fmt.Sprintf("w%d.", n)), bucket: fmt.Sprint("bucket", n)}
	w.ok(os.Mkdir(w.dir, 0o755))
	t.Cleanup(w.finish)
	for _, o := range opts {
		w.ok(o(w))
	}
	if w.program == "" {
		var err error
		w.program, err = racing()
		w.ok(err)
	}
	if kind == onDir {
		w.objects = filepath.Join(w.dir, "store")
		return w
	}
	s, err := theServer()
	w.ok(err)
	dir, err := s.bucket(w.bucket)
	w.ok(err)
	w.objects = filepath.Join(dir, "p")
	return w
}

// ok fails the test at an error of the test's own work.
func (w *World) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// storeAt is the STORE argument, by way of an endpoint; "" is the server's own.
func (w *World) storeAt(endpoint string) string {
	if w.kind == onDir {
		return "dir:" + w.objects
	}
	if endpoint == "" {
		s, err := theServer()
		w.ok(err)
		endpoint = s.endpoint
	}
	return fmt.Sprintf("s3://%s/p?endpoint=%s&region=us-east-1&path_style=1", w.bucket, url.QueryEscape(endpoint))
}

// finish is the end of every test; see the package's promise.
func (w *World) finish() {
	t := w.t
	failed := t.Failed()
	for _, m := range w.machines {
		if m.mounted() && !failed {
			m.umount()
		}
	}
	if !failed && !w.lawless && len(w.machines) > 0 {
		w.check()
	}
	w.nothingLeft()
	for _, m := range w.machines {
		m.noAccusations()
	}
	if t.Failed() {
		w.tell()
	}
	for _, m := range w.machines {
		if m.meter != nil {
			m.meter.Close()
		}
	}
	if t.Failed() && os.Getenv("KIST_KEEP") != "" {
		t.Logf("kept: %s", w.dir)
		return
	}
	if err := os.RemoveAll(w.dir); err != nil {
		t.Error(err)
	}
	if w.kind == onS3 && w.objects != "" {
		if err := os.RemoveAll(filepath.Dir(w.objects)); err != nil {
			t.Error(err)
		}
	}
}

// away makes the store unreachable for every machine, until back is called. On
// S3 the World must be metered.
func (w *World) away() (back func()) {
	w.t.Helper()
	if w.kind == onDir {
		aside := w.objects + ".away"
		w.ok(os.Rename(w.objects, aside))
		return func() { w.t.Helper(); w.ok(os.Rename(aside, w.objects)) }
	}
	rules := map[*s3meter.Meter]*s3meter.Rule{}
	for _, m := range w.machines {
		rules[m.meter] = m.meter.Add(s3meter.Rule{Act: s3meter.Drop})
	}
	return func() {
		for meter, rule := range rules {
			meter.Remove(rule)
		}
	}
}

// check lets the first machine judge the store.
func (w *World) check() {
	w.t.Helper()
	if r := w.machines[0].kist("check", "--read-data", w.storeAt("")); r.code != w.ends {
		w.t.Errorf("the last check must exit %d: %v", w.ends, r)
	}
}

// nothingLeft finds mounts, processes and temporary files that should be gone,
// and removes them.
func (w *World) nothingLeft() {
	for _, dir := range slices.Backward(mounts(w.dir)) { // what is mounted in another comes first
		w.complain("left mounted: %s", strings.TrimPrefix(dir, w.dir))
		cut(dir)
	}
	// What was killed or told to end may still be on its way out.
	gone := time.Now().Add(10 * time.Second)
	left := alive(w.dir)
	for len(left) > 0 && time.Now().Before(gone) && !w.t.Failed() {
		time.Sleep(20 * time.Millisecond)
		left = alive(w.dir)
	}
	for pid, line := range left {
		w.complain("left running: %d %s", pid, line)
		killPid(pid)
	}
	for _, m := range w.machines {
		entries, err := os.ReadDir(m.tmp)
		if err != nil {
			w.t.Error(err)
		}
		for _, e := range entries {
			w.complain("machine %s left a temporary file: %s", m.name, e.Name())
		}
	}
}

// stacks shortens the stacks in a log to those that pass through the program
// itself, without the values of registers and arguments.
func stacks(log string) string {
	parts := strings.Split(log, "\n\n")
	kept := parts[:1]
	for _, part := range parts[1:] {
		if strings.Contains(part, "kist/") && strings.HasPrefix(part, "goroutine ") {
			kept = append(kept, frame.ReplaceAllString(part, ""))
		} else if !strings.HasPrefix(part, "goroutine ") && !strings.HasPrefix(part, "rax ") {
			kept = append(kept, part)
		}
	}
	return strings.Join(kept, "\n\n")
}

var frame = regexp.MustCompile(`\([^()]*\)$|\{?0x[0-9a-f]+[?}]?,? ?| \+0x.*$|(?m:^runtime\..*\n.*\n)`)

// complain is an error unless the test has failed already: what is left then is
// only a consequence.
func (w *World) complain(format string, args ...any) {
	if !w.t.Failed() {
		w.t.Errorf(format, args...)
	}
}

// tell prints what the daemons had to say.
func (w *World) tell() {
	for _, m := range w.machines {
		for _, path := range m.logs() {
			text, err := os.ReadFile(path)
			w.t.Logf("machine %s, %s (%v):\n%s", m.name, filepath.Base(path), err, stacks(string(text)))
		}
		if m.meter != nil {
			w.t.Logf("machine %s, requests since the last reset: %s", m.name, m.meter.Summary())
		}
	}
}
