package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// made returns a user who has a drive.
func made(t *testing.T) *user {
	u := newUser(t)
	u.run("init", "--user", "ann", "--passphrase-file", "pass", "dir:store").exits(0).
		says("ann", "keyfile", "passphrase", "kist id export")
	return u
}

func TestInit(t *testing.T) {
	u := made(t)
	before := list(t, u.path("home"))
	u.run("init", "--passphrase-file", "pass", "dir:store").exits(1).quiet().warns("holds a drive")
	if after := list(t, u.path("home")); after != before {
		t.Errorf("a refused init changed the state folders:\n%s\n%s", before, after)
	}
	for _, path := range globs(t, u.path("home/*/keyfile"), u.path("home/*")) {
		fi, err := os.Stat(path)
		if err != nil || fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", path, fi.Mode(), err)
		}
	}
	u.run("status").exits(0).says("dir:"+u.path("store"), "no", "kist id export")
	u.run("status", "--json").exits(0).says(`"mounted": false`, `"keyfile_exported": false`, `"space_reclaimed": false`)
}

func TestPassphraseSources(t *testing.T) {
	u := made(t)
	u.run("id", "show").exits(2).quiet()
	show := func(args ...string) outcome { return u.run(append([]string{"id", "show"}, args...)...) }
	show("--passphrase-file", "pass").exits(0).says("ann", "identity", "device")
	show("--passphrase-command", "printf 'correct horse\\nrest'").exits(0)
	u.write("crlf", "correct horse\r\n", 0o600)
	show("--passphrase-file", "crlf").exits(6).quiet().warns("wrong passphrase or damaged keyfile")
	u.write("loud", "correct horse", 0o644)
	show("--passphrase-file", "loud").exits(0).warns("others can read")

	if err := os.Mkdir(u.path("cred"), 0o700); err != nil {
		t.Fatal(err)
	}
	u.write("cred/kist.passphrase", "correct horse\n", 0o600)
	u.setenv("CREDENTIALS_DIRECTORY", u.path("cred"))
	show().exits(0)
	u.write("wrong", "wrong\n", 0o600)
	u.setenv("KIST_PASSPHRASE_FILE", u.path("wrong"))
	show().exits(6)
	show("--passphrase-file", "pass").exits(0)
}

func TestExportAndImport(t *testing.T) {
	u := made(t)
	u.run("id", "export", "--passphrase-file", "wrong", "out").exits(1).quiet()
	u.run("id", "export", "--passphrase-file", "pass", "out").exits(0).quiet()
	if fi, err := os.Stat(u.path("out")); err != nil || fi.Mode() != 0o600 {
		t.Fatalf("the export: %v, %v", fi, err)
	}
	first, _ := os.ReadFile(u.path("out"))
	u.run("id", "export", "--passphrase-file", "pass", "out").exits(1).quiet().warns("left as it is")
	if again, _ := os.ReadFile(u.path("out")); string(again) != string(first) {
		t.Error("an export was overwritten")
	}
	if out := u.run("id", "export", "--passphrase-file", "pass", "-").exits(0).out; !strings.HasPrefix(out, "kist keyfile of dir:") {
		t.Errorf("export to standard output: %.40q", out)
	}
	if out := u.run("status").out; strings.Contains(out, "kist id export") {
		t.Errorf("status still reminds:\n%s", out)
	}

	// Another machine.
	other := newUser(t)
	other.write("in", string(first), 0o600)
	other.run("id", "import", "--passphrase-file", "absent", "in").exits(1).quiet()
	other.write("bad", "no", 0o600)
	other.run("id", "import", "--passphrase-file", "bad", "in").exits(6).quiet()
	other.run("status").exits(2)
	other.run("id", "import", "--passphrase-file", "pass", "in").exits(0).says("ann", u.path("store"))
	other.run("id", "import", "--passphrase-file", "pass", "in").exits(1).quiet()
	mine, theirs := u.run("id", "show", "--passphrase-file", "pass").out, other.run("id", "show", "--passphrase-file", "pass").exits(0).out
	if field(mine, "identity") != field(theirs, "identity") || field(mine, "device") == field(theirs, "device") {
		t.Errorf("the same person on two devices:\n%s\n%s", mine, theirs)
	}

	// From a pipe, without the line that says where the store is.
	third := newUser(t)
	_, bare, _ := strings.Cut(string(first), "\n")
	third.in = bare
	third.run("id", "import", "--passphrase-file", "pass", "-").exits(2).quiet()
	third.run("id", "import", "--passphrase-file", "pass", "-", "dir:"+u.path("store")).exits(0)

	// Damaged, or of another store.
	fourth := newUser(t)
	fourth.write("in", string(first[:len(first)-1])+string([]byte{first[len(first)-1] ^ 1}), 0o600)
	fourth.run("id", "import", "--passphrase-file", "pass", "in").exits(6).quiet()
	fourth.run("init", "--passphrase-file", "pass", "dir:mine").exits(0)
	fourth.write("in", string(first), 0o600)
	fourth.run("id", "import", "--passphrase-file", "pass", "in", "dir:mine").exits(6).quiet()
}

func field(text, name string) string {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

func TestPasswd(t *testing.T) {
	u := made(t)
	u.write("new", "another\n", 0o600)
	u.run("passwd", "--passphrase-file", "pass").exits(2).quiet()
	u.run("passwd", "--passphrase-file", "new", "--new-passphrase-file", "pass").exits(6).quiet()
	u.run("passwd", "--passphrase-file", "pass", "--new-passphrase-file", "new").exits(0).says("Changed")
	u.run("id", "show", "--passphrase-file", "pass").exits(6).quiet()
	u.run("id", "show", "--passphrase-file", "new").exits(0)
}

// restored puts a copy of a saved home in place of the home.
func (u *user) restored(from string) {
	u.t.Helper()
	if err := os.RemoveAll(u.path("home")); err != nil {
		u.t.Fatal(err)
	}
	if err := os.CopyFS(u.path("home"), os.DirFS(u.path(from))); err != nil {
		u.t.Fatal(err)
	}
}

func (u *user) renames(from, to string) {
	u.t.Helper()
	if err := os.Rename(u.path(from), u.path(to)); err != nil {
		u.t.Fatal(err)
	}
}

func TestCopiedHome(t *testing.T) {
	u := mounted(t)
	u.write("mnt/waits", "in the journal", 0o600)
	u.run("umount", "--no-drain", "mnt").exits(0)
	u.renames("home", "old")
	u.restored("old")
	u.run("mount", "mnt").exits(4).quiet().warns("kist id device new")
	u.renames("store/kist.json", "kist.json")
	u.run("id", "device", "new").exits(5).quiet()
	u.renames("kist.json", "store/kist.json")
	u.run("id", "device", "new").exits(0).says("device of its own", "changes of the former device")
	u.run("mount", "mnt").exits(0).quiet()
	u.reads("mnt/waits", "in the journal")
	u.run("umount", "mnt").exits(0).quiet()
	u.run("status").exits(0).says("former journals are kept")
	u.run("status", "--json").exits(0).says(`"former_waiting": 0`)
	// Cut short before it was said that all is carried over: goes on, changes nothing.
	if err := os.Remove(globs(t, u.path("home/*/former/*/adopted"))[0]); err != nil {
		t.Fatal(err)
	}
	u.run("status").exits(0).says("waits to be carried over")
	if o := u.run("id", "device", "new").exits(0).says("changes of the former device"); strings.Contains(o.out, "of its own") {
		t.Errorf("made another device:\n%s", o.out)
	}
	u.run("id", "device", "new").exits(0).says("device of its own", "nothing that was not in the store")
	u.run("mount", "mnt").exits(0).quiet()
	u.reads("mnt/waits", "in the journal")
	if names, err := os.ReadDir(u.path("mnt")); err != nil || len(names) != 1 {
		t.Errorf("carried over twice: %v, %v", names, err)
	}
}

// A home and its copy, in which the copy does not show itself, are both used.
func TestClonedHome(t *testing.T) {
	u := mounted(t)
	u.write("mnt/shared", "before", 0o600)
	u.run("umount", "mnt").exits(0)
	twin := newUser(t)
	twin.env = append(twin.env, "KIST_PASSPHRASE_FILE="+u.path("pass"))
	if err := os.Mkdir(twin.path("mnt"), 0o700); err != nil {
		t.Fatal(err)
	}
	copyHome(t, u.path("home"), twin.path("home"))
	t.Cleanup(func() { twin.run("umount", "--no-drain", "mnt") })

	twin.run("mount", "mnt").exits(0).quiet()
	twin.reads("mnt/shared", "before")
	u.renames("store", "away") // so that the twin is not the first to store
	twin.write("mnt/of the twin", "t", 0o600)
	twin.run("umount", "--no-drain", "mnt").exits(0)
	u.renames("away", "store")
	u.run("mount", "mnt").exits(0).quiet()
	u.write("mnt/of the first", "f", 0o600)
	u.run("umount", "mnt").exits(0)

	twin.run("mount", "mnt").exits(4).quiet().warns("kist id device new")
	twin.run("id", "device", "new").exits(0).says("changes of the former device")
	twin.run("mount", "mnt").exits(0).quiet()
	u.run("mount", "mnt").exits(0).quiet()
	for _, who := range []*user{u, twin} {
		who.reads("mnt/shared", "before")
		who.reads("mnt/of the first", "f")
		who.reads("mnt/of the twin", "t")
	}
	twin.run("umount", "mnt").exits(0)
	u.run("umount", "mnt").exits(0)
	u.run("check", "--read-data", "dir:store").exits(0).says("no damage")
}

// copyHome copies a state folder as a cloned machine has it: under the same inode
// numbers. Here the file state, the one whose number counts, is hard-linked.
func copyHome(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	for _, state := range globs(t, from+"/*/state") {
		there := filepath.Join(to, strings.TrimPrefix(state, from))
		if err := os.Remove(there); err != nil {
			t.Fatal(err)
		}
		if err := os.Link(state, there); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCheck(t *testing.T) {
	u := mounted(t)
	u.write("mnt/file", strings.Repeat("content ", 1000), 0o600)
	u.run("sync", "mnt").exits(0)
	u.run("check", "mnt").exits(0).says("head", "1 files", "no damage")
	u.run("check", "--read-data", "--json", "mnt").exits(0).says(`"damage": 0`, `"read_data": true`)
	u.run("umount", "mnt").exits(0)
	u.run("check", "mnt").exits(1).quiet()
	u.run("check", "--read-data", "dir:store").exits(0).says("no damage")
	pack := globs(t, u.path("store/vaults/*/packs/*"))[0]
	raw, err := os.ReadFile(pack)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/3] ^= 1
	if err := os.Chmod(pack, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(pack, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	u.run("check", "--read-data", "dir:store").exits(3).says("DAMAGE").warns("damage found")
	if o := u.run("check", "--read-data", "--json", "dir:store").exits(3); strings.Contains(o.out, `"damage": 0`) {
		t.Errorf("the report says nothing of it:\n%s", o.out)
	}
}

func list(t *testing.T, dir string) string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		all = append(all, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, "\n")
}

func globs(t *testing.T, patterns ...string) []string {
	t.Helper()
	var all []string
	for _, p := range patterns {
		found, err := filepath.Glob(p)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %v, %v", p, found, err)
		}
		all = append(all, found...)
	}
	return all
}
