package integration

import (
	"fmt"
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// These tests read the sources, as the linter does, and hold what no run can show: that
// there is no way around a check. See docs/SECURITY-TESTS.md, row B7.

// guarded are the functions between bytes that are not believed and whoever reads them.
// Each has to exist, so that a renamed one is not forgotten here.
var guarded = map[string][]string{
	"crypto/seal": {"OpenBlob", "OpenK", "blobData", "gcmOpen", "Stream.Open"},
	"crypto/keys": {"Keyfile.OpenMain", "Keyfile.OpenMaster", "ParseIdentity", "VerifyDevice"},
	"fs/pack":     {"Reader.Fetch", "Reader.FetchMany", "Reader.fetchRun", "Reader.again", "Reader.open", "Footer.Parse"},
	"fs/log":      {"parseObject", "object.open", "Log.settle", "Log.confirm", "Log.judge", "Trust.open", "Trust.Advance"},
	"fs/journal":  {"Journal.Payload", "segment.payload", "coder.openMeta", "coder.openPayload", "decodeHeader"},
	"cache":       {"rows.unseal", "rows.get", "blocks.read", "blocks.decode"},
	"fs":          {"Vault.fill", "Vault.blob", "Vault.readBlob", "Vault.localBytes"},
}

// Where the environment may be asked, and files be made. Nothing that opens or verifies
// is among the former; nothing that holds plaintext is written by the latter.
var (
	asksEnvironment = []string{"cmd/kist/main.go", "cmd/kist/passphrase.go", "fs/drive/service.go", "fs/mount/server_linux.go"}
	makesFiles      = []string{"cache", "fs/home", "fs/journal", "backend/dir", "fs/drive/logfile.go", "fs/mount/server_linux.go"}
)

// bypassFlag is what no option of the program may be called.
var bypassFlag = regexp.MustCompile(`(?i)insecure|unsafe|verif|skip|ignore|no-check|unchecked|fast-and`)

// audit collects what is wrong with the sources.
type audit struct {
	found []string
	seen  map[string]bool // guarded functions, as "package name"
}

func (a *audit) complain(name, format string, args ...any) {
	a.found = append(a.found, name+": "+fmt.Sprintf(format, args...))
}

// file judges one file, given as its path in the module.
func (a *audit) file(name string, src []byte) error {
	f, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ParseComments)
	if err != nil {
		return err
	}
	a.constraints(name, f)
	pkg := path.Dir(name)
	for _, decl := range f.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if fn := funcName(d); slices.Contains(guarded[pkg], fn) {
				a.seen[pkg+" "+fn] = true
				a.signature(name, fn, d)
			}
		case *ast.GenDecl:
			if _, judged := guarded[pkg]; judged && d.Tok == token.VAR {
				a.variables(name, d)
			}
		}
	}
	a.calls(name, f)
	return nil
}

// constraints: only systems tell files apart, so that no build leaves a check out.
func (a *audit) constraints(name string, f *ast.File) {
	for _, group := range f.Comments {
		for _, c := range group.List {
			if !constraint.IsGoBuild(c.Text) {
				continue
			}
			expr, err := constraint.Parse(c.Text)
			if err != nil {
				a.complain(name, "%v", err)
				continue
			}
			expr.Eval(func(tag string) bool {
				if !slices.Contains([]string{"linux", "darwin", "unix"}, tag) {
					a.complain(name, "the build tag %s", tag)
				}
				return false
			})
			expr.Eval(func(tag string) bool {
				if !slices.Contains([]string{"linux", "darwin", "unix"}, tag) {
					a.complain(name, "the build tag %s", tag)
				}
				return true
			})
		}
	}
}

func funcName(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return d.Name.Name
	}
	t := d.Recv.List[0].Type
	if star, ok := t.(*ast.StarExpr); ok {
		t = star.X
	}
	if id, ok := t.(*ast.Ident); ok {
		return id.Name + "." + d.Name.Name
	}
	return d.Name.Name
}

// signature: nothing that a caller says can turn a check off, and what is returned
// comes with an error or with a word that it is good.
func (a *audit) signature(name, fn string, d *ast.FuncDecl) {
	for _, p := range d.Type.Params.List {
		switch t := p.Type.(type) {
		case *ast.Ident:
			if t.Name == "bool" || strings.Contains(strings.ToLower(t.Name), "option") {
				a.complain(name, "%s takes a %s", fn, t.Name)
			}
		case *ast.Ellipsis:
			a.complain(name, "%s takes options", fn)
		}
	}
	if d.Type.Results == nil || len(d.Type.Results.List) == 0 {
		a.complain(name, "%s returns no verdict", fn)
		return
	}
	last, _ := d.Type.Results.List[len(d.Type.Results.List)-1].Type.(*ast.Ident)
	if last == nil || last.Name != "error" && last.Name != "bool" {
		a.complain(name, "%s returns no verdict", fn)
	}
}

// variables: no switch in a package that verifies. A hook for tests returns nothing.
func (a *audit) variables(name string, d *ast.GenDecl) {
	for _, spec := range d.Specs {
		v := spec.(*ast.ValueSpec)
		if id, ok := v.Type.(*ast.Ident); ok && id.Name == "bool" {
			a.complain(name, "the switch %s", v.Names[0].Name)
		}
		for i, value := range v.Values {
			switch x := value.(type) {
			case *ast.Ident:
				if x.Name == "true" || x.Name == "false" {
					a.complain(name, "the switch %s", v.Names[i].Name)
				}
			case *ast.FuncLit:
				if x.Type.Results != nil {
					a.complain(name, "%s can be replaced and decides something", v.Names[i].Name)
				}
			}
		}
	}
}

func (a *audit) calls(name string, f *ast.File) {
	returned := map[ast.Node]bool{}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ReturnStmt:
			if len(n.Results) == 1 {
				returned[n.Results[0]] = true
			}
		case *ast.AssignStmt:
			a.dropped(name, n)
		case *ast.SelectorExpr:
			a.selector(name, n)
		case *ast.BasicLit:
			if strings.HasPrefix(name, "cmd/") && n.Kind == token.STRING && bypassFlag.MatchString(n.Value) && !strings.Contains(n.Value, " ") {
				a.complain(name, "the option %s", n.Value)
			}
		case *ast.CallExpr:
			sel, ok := n.Fun.(*ast.SelectorExpr)
			if ok && sel.Sel.Name == "OpenBlob" && !returned[n] {
				a.complain(name, "OpenBlob's answer is not passed on as it is")
			}
		}
		return true
	})
}

// dropped: the verdict of an opening call is never assigned to nothing.
func (a *audit) dropped(name string, n *ast.AssignStmt) {
	if len(n.Rhs) != 1 {
		return
	}
	call, ok := n.Rhs[0].(*ast.CallExpr)
	if !ok {
		return
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || !slices.Contains([]string{"OpenK", "OpenBlob", "Open", "openMeta", "openPayload", "unseal", "Fetch", "FetchMany"}, sel.Sel.Name) {
		return
	}
	if id, ok := n.Lhs[len(n.Lhs)-1].(*ast.Ident); ok && id.Name == "_" {
		a.complain(name, "the verdict of %s is dropped", sel.Sel.Name)
	}
}

func (a *audit) selector(name string, n *ast.SelectorExpr) {
	x, ok := n.X.(*ast.Ident)
	if !ok {
		return
	}
	full := x.Name + "." + n.Sel.Name
	switch full {
	case "os.Getenv", "os.LookupEnv", "os.Environ", "os.ExpandEnv", "syscall.Getenv", "syscall.Environ":
		if !slices.Contains(asksEnvironment, name) {
			a.complain(name, "asks the environment: %s", full)
		}
	case "os.WriteFile", "os.Create", "os.CreateTemp", "os.MkdirTemp", "os.O_CREATE", "unix.O_CREAT", "unix.O_TMPFILE":
		if !slices.Contains(makesFiles, name) && !slices.Contains(makesFiles, path.Dir(name)) {
			a.complain(name, "makes files: %s", full)
		}
	}
}

func TestNoWayAround(t *testing.T) {
	root, a := os.DirFS(".."), &audit{seen: map[string]bool{}}
	files := 0
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || name == "drive" || name == "integration" || d.Name() == "testdata" || helper(name)) {
			return fs.SkipDir
		}
		if d.IsDir() || path.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		src, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		files++
		return a.file(name, src)
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 100 {
		t.Fatalf("only %d files found", files)
	}
	for _, found := range a.found {
		t.Error(found)
	}
	for pkg, names := range guarded {
		for _, fn := range names {
			if !a.seen[pkg+" "+fn] {
				t.Errorf("%s: %s is gone; whatever took its place belongs in this test", pkg, fn)
			}
		}
	}
}

// TestAuditCanFail shows each rule to be awake.
func TestAuditCanFail(t *testing.T) {
	for body, why := range map[string]string{
		"func OpenBlob(b []byte, trusted bool) ([]byte, error) { return b, nil }":  "takes a bool",
		"func OpenBlob(b []byte, o ...int) ([]byte, error) { return b, nil }":      "takes options",
		"func OpenBlob(b []byte, o OpenOptions) ([]byte, error) { return b, nil }": "takes a OpenOptions",
		"func OpenBlob(b []byte) []byte { return b }":                              "no verdict",
		"var check = true": "the switch check",
		"var check bool":   "the switch check",
		"var same = func(a, b []byte) bool { return true }":                                         "can be replaced",
		"func f() string { return os.Getenv(`KIST_INSECURE`) }":                                     "asks the environment",
		"func f() { os.WriteFile(`x`, nil, 0) }":                                                    "makes files",
		"func f(s []byte) []byte { p, _ := seal.OpenK(k, l, nil, s); return p }":                    "is dropped",
		"func f(s []byte) []byte { p, err := seal.OpenBlob(s); if err != nil { p = s }; return p }": "not passed on",
	} {
		a := &audit{seen: map[string]bool{}}
		if err := a.file("crypto/seal/x.go", []byte("package x\n"+body+"\n")); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(strings.Join(a.found, "\n"), why) {
			t.Errorf("%s: found %q, want %q", body, a.found, why)
		}
	}
	for name, src := range map[string]string{
		"fs/pack/x.go":  "//go:build !verify\n\npackage x\n",
		"cmd/kist/x.go": "package x\nfunc f() { flag(`skip-verify`) }\n",
	} {
		a := &audit{seen: map[string]bool{}}
		if err := a.file(name, []byte(src)); err != nil || len(a.found) == 0 {
			t.Errorf("%s passes: %v", name, err)
		}
	}
}
