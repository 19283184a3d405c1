package integration

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"
)

// The layers, lowest first. A package may import packages of lower layers, and
// nothing else of this module; what knows of what is narrowed further below.
var layers = [][]string{
	{"crypto/seal", "backend"},
	{"crypto/keys", "fs/home", "backend/s3", "backend/dir", "backend/mem", "cache", "fs/tree", "fs/journal"},
	{"backend/open", "fs/pack"},
	{"fs/log"},
	{"fs"},
	{"fs/mount", "fs/check"},
	{"fs/drive"},
	{"cmd/kist"},
}

// What a tree of packages must not import, whatever the layer.
var ignorant = map[string][]string{
	"crypto":     {"kist/fs", "kist/backend", "kist/cache", "net", "path/filepath"},
	"backend":    {"kist/fs", "kist/crypto", "kist/cache"},
	"cache":      {"kist/fs", "kist/backend", "kist/crypto/keys", "net"},
	"fs/tree":    {"kist/backend", "kist/cache", "os", "net"},
	"fs/journal": {"kist/backend", "kist/cache", "net"},
	"fs/mount":   {"kist/backend", "kist/cache", "kist/crypto"},
	"cmd":        {"kist/cache", "kist/crypto/seal", "kist/backend/s3", "kist/backend/dir", "kist/fs/tree", "kist/fs/journal", "kist/fs/pack"},
}

// What only some packages may import; nobody, where the list is empty: such
// packages are for tests.
var reserved = map[string][]string{
	"github.com/dgraph-io": {"cache"},
	"github.com/hanwen":    {"fs/mount"},
	"github.com/aws":       {"backend/s3"},
	"github.com/spf13":     {"cmd/kist"},
	"golang.org/x/term":    {"cmd/kist"},
	"kist/backend/s3":      {"backend/open"},
	"kist/backend/dir":     {"backend/open", "fs/drive"},
	"kist/backend/mem":     {},
	"crypto/ed25519":       {"crypto/keys", "fs/log"},
	"crypto/aes":           {"crypto/seal"},
	"crypto/cipher":        {"crypto/seal"},
	"math/rand":            {"fs", "backend/s3"}, // jitter
	"math/rand/v2":         {"fs", "backend/s3"},
	"unsafe":               {"fs/mount"},
	"github.com/klauspost": {"crypto/seal"},
	"golang.org/x/crypto":  {"crypto/keys"},
	"crypto/hpke":          {"crypto/keys"},
	"os/exec":              {"crypto/keys", "fs/drive", "cmd/kist", "fs/mount"},
	"kist/fs/mount":        {"fs/drive"},
	"kist/cache":           {"fs", "fs/drive"},
	"kist/fs/home":         {"fs/drive", "cmd/kist"},
	"net":                  {"backend/s3", "fs/drive", "fs/mount"},
	"net/url":              anyone,
	"net/http":             {"backend/s3"},
	"kist/backend/open":    {"fs/drive"},
	"go.uber.org/goleak":   {},
	"pgregory.net/rapid":   {},
}

var anyone = []string{"anyone"}

// within reports whether pkg is tree or stands below it.
func within(pkg, tree string) bool { return pkg == tree || strings.HasPrefix(pkg, tree+"/") }

// helper reports whether a package exists for tests only. Its own
// imports are as free as a test's, but nothing else may import it.
func helper(pkg string) bool {
	return strings.HasSuffix(path.Base(pkg), "test") || pkg == "backend/liar"
}

func layer(pkg string) int {
	for i, names := range layers {
		for _, name := range names {
			if pkg == name {
				return i
			}
		}
	}
	return -1
}

// judge says what is wrong with one import of a package, "" if nothing is.
func judge(pkg, imported string) string {
	for tree, banned := range ignorant {
		for _, b := range banned {
			if within(pkg, tree) && within(imported, b) {
				return fmt.Sprintf("%s must know nothing of %s", tree, b)
			}
		}
	}
	for tree, allowed := range reserved {
		if within(imported, tree) && mostSpecific(imported) == tree && !contains(allowed, pkg) && !contains(allowed, "anyone") {
			return fmt.Sprintf("only %v may import %s", allowed, tree)
		}
	}
	below, ours := strings.CutPrefix(imported, "kist/")
	if !ours {
		return ""
	}
	if helper(below) {
		return below + " is for tests"
	}
	if layer(below) < 0 {
		return below + " has no layer in integration/lint_test.go"
	}
	if layer(below) >= layer(pkg) {
		return below + " is not below it"
	}
	return ""
}

// mostSpecific finds the longest entry of reserved that covers an import.
func mostSpecific(imported string) string {
	best := ""
	for tree := range reserved {
		if within(imported, tree) && len(tree) > len(best) {
			best = tree
		}
	}
	return best
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}

// lint returns the violations in one file, given as its path in the module.
func lint(name string, src []byte) ([]string, error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, src, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var found []string
	test := strings.HasSuffix(name, "_test.go")
	pkg := path.Dir(name)
	if test {
		ast.Inspect(f, func(n ast.Node) bool {
			if call, ok := n.(*ast.SelectorExpr); ok && skips(call) {
				found = append(found, fmt.Sprintf("%s: a test that skips", fset.Position(call.Pos())))
			}
			return true
		})
	}
	if test || helper(pkg) || within(pkg, "integration") {
		return found, nil
	}
	if layer(pkg) < 0 {
		found = append(found, name+": the package has no layer in integration/lint_test.go")
	}
	for _, spec := range f.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, err
		}
		if why := judge(pkg, imported); why != "" {
			found = append(found, fmt.Sprintf("%s imports %s: %s", name, imported, why))
		}
	}
	return found, nil
}

func skips(sel *ast.SelectorExpr) bool {
	id, ok := sel.X.(*ast.Ident)
	return ok && contains([]string{"t", "b", "f", "tb", "rt"}, id.Name) &&
		contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name)
}

// TestImports holds the directions of the layers, for every system at once:
// files are read whatever their build constraint says.
func TestImports(t *testing.T) {
	root := os.DirFS("..")
	files := 0
	var found []string
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || name == "drive" || d.Name() == "testdata") {
			return fs.SkipDir
		}
		if d.IsDir() || filepath.Ext(name) != ".go" {
			return nil
		}
		src, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		files++
		more, err := lint(name, src)
		found = append(found, more...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 20 {
		t.Fatalf("only %d files found: the linter looks in the wrong place", files)
	}
	sort.Strings(found)
	for _, violation := range found {
		t.Error(violation)
	}
}

// TestLintCanFail shows each rule to be awake.
func TestLintCanFail(t *testing.T) {
	for _, c := range []struct{ name, imported, why string }{
		{"crypto/seal/x.go", "kist/backend", "must know nothing"},
		{"crypto/keys/x.go", "kist/fs/tree", "must know nothing"},
		{"backend/dir/x.go", "kist/crypto/seal", "must know nothing"},
		{"cache/x.go", "kist/backend", "must know nothing"},
		{"cache/x.go", "net/http", "must know nothing"},
		{"fs/x.go", "github.com/dgraph-io/badger/v4", "only"},
		{"fs/x.go", "github.com/hanwen/go-fuse/v2/fuse", "only"},
		{"backend/dir/x.go", "github.com/aws/aws-sdk-go-v2/service/s3", "only"},
		{"fs/tree/x.go", "kist/fs", "not below"},
		{"fs/log/x.go", "kist/fs/check", "not below"},
		{"fs/check/x.go", "kist/fs/mount", "only"},
		{"cmd/kist/x.go", "kist/fs/tree", "must know nothing"},
		{"fs/x.go", "kist/backend/backendtest", "for tests"},
		{"fs/new/x.go", "fmt", "no layer"},
		{"crypto/keys/x.go", "crypto/aes", "only"},
	} {
		found, err := lint(c.name, []byte("package x\nimport _ \""+c.imported+"\"\n"))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(strings.Join(found, "\n"), c.why) {
			t.Errorf("%s importing %s: found %q, want %q", c.name, c.imported, found, c.why)
		}
	}
	for _, body := range []string{"t.Skip()", "t.Skipf(``)", "t.SkipNow()"} {
		found, err := lint("fs/x_test.go", []byte("package x\nfunc f() { "+body+" }\n"))
		if err != nil || len(found) != 1 {
			t.Errorf("%s: found %q, %v", body, found, err)
		}
	}
	for _, c := range []struct{ name, imported string }{
		{"fs/x.go", "kist/crypto/seal"}, {"fs/mount/x.go", "github.com/hanwen/go-fuse/v2/fuse"},
		{"cache/x.go", "github.com/dgraph-io/badger/v4"}, {"fs/x_test.go", "kist/backend/mem"},
		{"cmd/kist/x.go", "kist/fs/drive"}, {"backend/backendtest/x.go", "testing"},
	} {
		found, err := lint(c.name, []byte("package x\nimport _ \""+c.imported+"\"\n"))
		if err != nil || len(found) != 0 {
			t.Errorf("%s importing %s: found %q, %v", c.name, c.imported, found, err)
		}
	}
}
