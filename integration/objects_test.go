//go:build linux

package integration

import (
	"bytes"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
)

// What tests do to a store behind the program's back. Objects are files, on
// the S3 server too.

// objectName is every name that an object of a store may have.
var objectName = regexp.MustCompile(`^(kist\.json|vaults/[0-9a-f]{64}/(hint|log/[0-9a-f]{16}|packs/[0-9a-f]{64})|ids/[0-9a-f]{64}/[0-9a-f]{16})$`)

// list reads all objects.
func (w *World) list() map[string][]byte {
	w.t.Helper()
	objects := map[string][]byte{}
	err := filepath.WalkDir(w.objects, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(w.objects, path)
		if err != nil || strings.HasPrefix(rel, ".") { // the store's own business
			return err
		}
		objects[rel], err = os.ReadFile(path)
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		w.t.Fatal(err)
	}
	return objects
}

func sameObjects(a, b map[string][]byte) bool {
	for name, raw := range a {
		other, ok := b[name]
		if !ok || !bytes.Equal(raw, other) {
			return false
		}
	}
	return len(a) == len(b)
}

// slots lists the log of the only vault, in order.
func (w *World) slots() []string {
	w.t.Helper()
	var slots []string
	for name := range w.list() {
		if strings.Contains(name, "/log/") {
			slots = append(slots, name)
		}
	}
	sort.Strings(slots)
	if len(slots) == 0 {
		w.t.Fatal("the store has no log")
	}
	return slots
}

// sequence is the number of the newest slot.
func (w *World) sequence() uint64 {
	w.t.Helper()
	slots := w.slots()
	n, err := strconv.ParseUint(filepath.Base(slots[len(slots)-1]), 16, 64)
	w.ok(err)
	return n
}

// path is where an object lies.
func (w *World) path(name string) string { return filepath.Join(w.objects, name) }

// save copies the whole store aside; restore makes the store be what was saved.
func (w *World) save(name string) { w.t.Helper(); w.copyTree(w.objects, w.aside(name)) }

func (w *World) restore(name string) {
	w.t.Helper()
	w.ok(os.RemoveAll(w.objects))
	w.copyTree(w.aside(name), w.objects)
}

func (w *World) aside(name string) string { return filepath.Join(w.dir, "saved-"+name) }

// copyTree copies with everything; the target must not be there.
func (w *World) copyTree(from, to string) {
	w.t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		w.t.Fatalf("copying: %v: %s", err, out)
	}
}

// startForgetful is a server that takes conditional writes for plain ones: it
// makes room for each of them.
func startForgetful(s *server) (*httptest.Server, error) {
	to, err := url.Parse(s.endpoint)
	if err != nil {
		return nil, err
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.Out.URL.Scheme, p.Out.URL.Host, p.Out.Host = to.Scheme, to.Host, p.In.Host
		p.Out.Header["Accept-Encoding"] = p.In.Header["Accept-Encoding"]
	}}
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("If-None-Match") != "" {
			if err := os.Remove(filepath.Join(s.top, filepath.Clean(r.URL.Path))); err != nil && !os.IsNotExist(err) {
				http.Error(w, "making room", http.StatusInternalServerError)
				return
			}
		}
		proxy.ServeHTTP(w, r)
	})), nil
}
