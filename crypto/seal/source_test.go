package seal

import (
	"bytes"
	"go/ast"
	"go/build/constraint"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// These tests read the sources of the whole module and hold rules that no
// compiler holds.

const module = "../.."

type source struct {
	dir  string // from the module's root, with slashes
	name string
	file *ast.File
}

func sources(t *testing.T, fset *token.FileSet) []source {
	var all []source
	err := filepath.WalkDir(module, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		hidden := strings.HasPrefix(d.Name(), ".") && d.Name() != ".." || d.Name() == "testdata"
		if d.IsDir() && hidden {
			return fs.SkipDir
		}
		if d.IsDir() || hidden || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(module, filepath.Dir(path))
		all = append(all, source{filepath.ToSlash(dir), d.Name(), f})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 10 {
		t.Fatalf("only %d files found", len(all))
	}
	return all
}

// label is a constant of labels.go and the package that its list is for.
type label struct{ name, value, owner string }

func labels(t *testing.T) []label {
	f, err := parser.ParseFile(token.NewFileSet(), "labels.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var all []label
	for _, decl := range f.Decls {
		group, ok := decl.(*ast.GenDecl)
		if !ok || group.Tok != token.CONST {
			continue
		}
		owner := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(group.Doc.Text()), "Labels of "), ".")
		for _, spec := range group.Specs {
			v := spec.(*ast.ValueSpec)
			all = append(all, label{v.Names[0].Name, strings.Trim(v.Values[0].(*ast.BasicLit).Value, `"`), owner})
		}
	}
	if len(all) == 0 {
		t.Fatal("no labels found")
	}
	return all
}

// roles are the calls that one label may be used in, each once.
var roles = [][]string{
	{"Derive"}, {"DeriveKey"}, {"Hash"}, {"SigMessage"}, {"append"}, {"EpochKey"},
	{"OpenK", "SealK"}, {"Sign", "VerifyDevice"},
}

func TestEachLabelHasOnePurpose(t *testing.T) {
	fset := token.NewFileSet()
	all := labels(t)
	uses, written := map[string][]string{}, map[string]bool{}
	for _, src := range sources(t, fset) {
		if src.dir == "crypto/seal" && src.name == "labels.go" {
			continue
		}
		for name, callee := range labelUses(t, fset, src) {
			i := slices.IndexFunc(all, func(l label) bool { return l.name == name })
			if i < 0 {
				t.Errorf("%s is not in the list of labels", name)
				continue
			}
			if all[i].owner != src.dir {
				t.Errorf("%s is used in %s, but is a label of %s", name, src.dir, all[i].owner)
			}
			uses[name] = append(uses[name], callee...)
			written[all[i].owner] = true
		}
	}
	values := map[string]bool{}
	for _, l := range all {
		if values[l.value] || !strings.HasPrefix(l.value, "kist/1/") || strings.ContainsRune(l.value, 0) {
			t.Errorf("%s: %q is taken or not of the right form", l.name, l.value)
		}
		values[l.value] = true
		slices.Sort(uses[l.name])
		if len(uses[l.name]) == 0 {
			// A package that uses none of its labels has not been written yet.
			if written[l.owner] {
				t.Errorf("%s is used nowhere in %s: use it or remove it", l.name, l.owner)
			}
			continue
		}
		if !slices.ContainsFunc(roles, func(r []string) bool { return slices.Equal(r, uses[l.name]) }) {
			t.Errorf("%s is used by %v: one purpose has one place", l.name, uses[l.name])
		}
	}
}

// labelUses maps the labels that a file mentions to the functions they are passed
// to. Passing them on in any other way, and making new ones, is refused.
func labelUses(t *testing.T, fset *token.FileSet, src source) map[string][]string {
	uses, seen := map[string][]string{}, map[ast.Node]bool{}
	isLabel := func(e ast.Expr) (string, bool) {
		if sel, ok := e.(*ast.SelectorExpr); ok {
			e = sel.Sel
		}
		id, ok := e.(*ast.Ident)
		if !ok || !strings.HasPrefix(id.Name, "Label") || len(id.Name) == len("Label") {
			return "", false
		}
		return id.Name, true
	}
	ast.Inspect(src.file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			callee := n.Fun
			if sel, ok := callee.(*ast.SelectorExpr); ok {
				callee = sel.Sel
			}
			id, ok := callee.(*ast.Ident)
			if ok && id.Name == "Label" {
				t.Errorf("%s: a label is made outside the list", fset.Position(n.Pos()))
			}
			for _, arg := range n.Args {
				if name, is := isLabel(arg); is && ok && importsSeal(src) {
					uses[name] = append(uses[name], id.Name)
					seen[arg] = true
				}
			}
		case *ast.BasicLit:
			if n.Kind == token.STRING && strings.Contains(n.Value, "kist/1/") {
				t.Errorf("%s: the label %s stands outside the list", fset.Position(n.Pos()), n.Value)
			}
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && x.Name == "seal" && !seen[n] {
				if name, is := isLabel(n); is {
					t.Errorf("%s: %s is not passed straight to a function", fset.Position(n.Pos()), name)
				}
			}
		}
		return true
	})
	return uses
}

func importsSeal(src source) bool {
	return src.dir == "crypto/seal" || slices.ContainsFunc(src.file.Imports, func(i *ast.ImportSpec) bool {
		return i.Path.Value == `"kist/crypto/seal"`
	})
}

// crypto knows no clock, no files, no environment, and one source of randomness.
func TestImports(t *testing.T) {
	forbidden := []string{"math/rand", "math/rand/v2", "os", "time", "log", "log/slog", "unsafe", "crypto/md5", "crypto/sha1", "crypto/des", "crypto/rc4"}
	allowed := map[string]bool{"log/slog": true} // for LogValue
	for _, src := range sources(t, token.NewFileSet()) {
		if !strings.HasPrefix(src.dir, "crypto/") {
			continue
		}
		for _, i := range src.file.Imports {
			path := strings.Trim(i.Path.Value, `"`)
			if slices.Contains(forbidden, path) && !allowed[path] {
				t.Errorf("%s/%s imports %s", src.dir, src.name, path)
			}
			if strings.HasPrefix(path, "kist/") && !strings.HasPrefix(path, "kist/crypto/") {
				t.Errorf("%s/%s imports %s: imports point downward only", src.dir, src.name, path)
			}
		}
		for _, group := range src.file.Comments {
			for _, c := range group.List {
				if constraint.IsGoBuild(c.Text) {
					t.Errorf("%s/%s has a build constraint", src.dir, src.name)
				}
			}
		}
	}
}

// The fingerprint is compared unconditionally, before anything is decrypted.
func TestOpenBlobHasNoBypass(t *testing.T) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "blob.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("blob.go")
	if err != nil {
		t.Fatal(err)
	}
	show := func(n ast.Node) string {
		return string(text[fset.Position(n.Pos()).Offset:fset.Position(n.End()).Offset])
	}
	const check = "if FingerprintOf(sealed) != fp {\n\t\treturn nil, ErrUnseal\n\t}"
	for _, decl := range f.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok || fn.Name.Name != "OpenBlob" {
			continue
		}
		at := slices.IndexFunc(fn.Body.List, func(s ast.Stmt) bool { return show(s) == check })
		if at < 0 {
			t.Fatal("OpenBlob does not compare the fingerprint as a statement of its own")
		}
		for _, s := range fn.Body.List[:at] {
			if i, ok := s.(*ast.IfStmt); !ok || len(i.Body.List) != 1 || show(i.Body.List[0]) != "return nil, ErrUnseal" {
				t.Errorf("before the comparison stands: %s", show(s))
			}
		}
		return
	}
	t.Fatal("OpenBlob not found")
}

// Keys are compared in constant time, and nothing in crypto compares bytes in
// another way.
func TestSecretsAreNotCompared(t *testing.T) {
	exports := exportData(t)
	fset := token.NewFileSet()
	imp := importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	files := map[string][]*ast.File{}
	for _, src := range sources(t, fset) {
		if strings.HasPrefix(src.dir, "crypto/") {
			files[src.dir] = append(files[src.dir], src.file)
		}
	}
	if len(files) < 2 {
		t.Fatal("packages are missing")
	}
	for dir, list := range files {
		info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Uses: map[*ast.Ident]types.Object{}}
		conf := types.Config{Importer: imp}
		if _, err := conf.Check("kist/"+dir, fset, list, info); err != nil {
			t.Fatal(err)
		}
		for _, f := range list {
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.BinaryExpr:
					if n.Op == token.EQL || n.Op == token.NEQ {
						if isKey(info.TypeOf(n.X)) || isKey(info.TypeOf(n.Y)) {
							t.Errorf("%s: keys are compared", fset.Position(n.Pos()))
						}
					}
				case *ast.SelectorExpr:
					obj := info.Uses[n.Sel]
					if obj != nil && obj.Pkg() != nil && slices.Contains([]string{"bytes.Equal", "bytes.Compare", "slices.Equal", "slices.Compare", "reflect.DeepEqual"}, obj.Pkg().Path()+"."+obj.Name()) {
						t.Errorf("%s: bytes are compared in variable time", fset.Position(n.Pos()))
					}
				}
				return true
			})
		}
	}
}

func isKey(t types.Type) bool {
	switch t := types.Unalias(t).(type) {
	case *types.Named:
		return t.Obj().Name() == "Key" && t.Obj().Pkg() != nil && t.Obj().Pkg().Path() == "kist/crypto/seal" || isKey(t.Underlying())
	case *types.Struct:
		for f := range t.Fields() {
			if isKey(f.Type()) {
				return true
			}
		}
	case *types.Array:
		return isKey(t.Elem())
	}
	return false
}

// exportData maps the import paths that crypto needs to compiled packages.
func exportData(t *testing.T) map[string]string {
	cmd := exec.Command("go", "list", "-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}", "./crypto/...")
	cmd.Dir = module
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	exports := map[string]string{}
	for line := range strings.Lines(string(out)) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), "\t")
		exports[path] = file
	}
	return exports
}
