//go:build linux

package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kist/integration/s3meter"
)

// hurried drives the program whose calls give the store up after hastyLimit.
func hurried(w *World) (err error) {
	w.program, err = hasty()
	return err
}

const hastyLimit = 5 * time.Second

// TestOutage takes the store away in every way it can be away. What needs no store
// goes on meanwhile, what needs it fails in time and is told, and nothing of it
// lasts.
func TestOutage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onS3, metered, hurried)
	a := w.first("a")
	a.mount()
	ways := []struct {
		act  s3meter.Act
		name string
	}{{s3meter.Drop, "refused"}, {s3meter.Hang, "hangs"}, {s3meter.Fail, "500"}, {s3meter.Refuse, "503"}, {s3meter.Expire, "expired"}}
	a.sh("echo near > near")
	for _, way := range ways {
		a.sh("head -c 3000000 /dev/urandom > far-" + way.name + "; sha256sum far-" + way.name + " >> sums")
		a.sync()
	}
	a.umount()
	a.forgetCache()
	a.mount()
	a.sh("ls -l > /dev/null; cat near sums > /dev/null")
	for _, way := range ways {
		a.outage(way.name, way.act)
	}
	a.sync()
	if s := a.status(); fmt.Sprint(s["pending_ops"]) != "0" || s["store_away"] != nil || len(s["problems"].([]any)) > 1 {
		t.Errorf("after all of it: %v", s) // one problem is that the keyfile has no copy
	}
	a.umount()
	a.forgetCache()
	a.mount()
	a.sh("sha256sum --quiet -c sums; test $(cat during-* | wc -c) = 500000")
}

// forgetCache removes what an unmounted machine may lose at any moment.
func (m *Machine) forgetCache() {
	m.w.t.Helper()
	caches, err := filepath.Glob(m.home + "/*/cache")
	m.w.ok(err)
	for _, dir := range caches {
		m.w.ok(os.RemoveAll(dir))
	}
}

// outage takes the store away in one way, and gives it back.
func (m *Machine) outage(name string, act s3meter.Act) {
	t := m.w.t
	rule := m.meter.Add(s3meter.Rule{Act: act})
	reader := m.background(m.shell(stepLimit, "cat far-"+name))
	start := time.Now()
	m.sh(fmt.Sprintf("test $(cat near) = near; head -c 100000 /dev/urandom > during-%[1]s; sync during-%[1]s; sync .; ls -l > /dev/null; grep -q far-%[1]s sums", name))
	if took := time.Since(start); took > hastyLimit {
		t.Errorf("%s: what needs no store took %v", name, took)
	}
	r, err := reader.wait(stepLimit)
	if err != nil || r.code == 0 || r.out != "" || !strings.Contains(r.err, "Input/output error") {
		t.Errorf("%s: reading what is not here: %v, %v", name, r, err)
	}
	// A read is two calls: the kernel first asks for more, then for the page alone.
	if took := time.Since(start); took > 2*hastyLimit+3*time.Second {
		t.Errorf("%s: a read failed only after %v", name, took)
	}
	if s := m.status(); s["store_away"] == nil || fmt.Sprint(s["pending_ops"]) == "0" {
		t.Errorf("%s: status does not tell: %v", name, s)
	}
	m.meter.Remove(rule)
	m.sh("grep far-" + name + " sums | sha256sum --quiet -c")
	eventually(t, stepLimit, name+": status tells that the store is back", func() error {
		if s := m.status(); s["store_away"] != nil {
			return errors.New(fmt.Sprint(s["store_away"]))
		}
		return nil
	})
}
