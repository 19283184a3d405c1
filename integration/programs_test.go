//go:build linux

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const gitSetup = `
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
`

// TestGit clones a repository into the mount, works on it, and lets a second
// machine judge and continue.
func TestGit(t *testing.T) {
	eachStore(t, func(t *testing.T, w *World) {
		a := w.first("a")
		origin := filepath.Join(w.dir, "origin")
		source := filepath.Join(goRoot(t), "src", "encoding")
		a.run(a.childCommand(stepLimit, "many", filepath.Join(w.dir, "many"), "10"))
		if r := a.run(a.shell(stepLimit, gitSetup+fmt.Sprintf(`
			git init -q -b main '%s'; cd '%s'; cp -r '%s' .; git add .; git commit -qm one
			for i in 1 2 3 4 5; do echo $i >> changes; git add .; git commit -qm "change $i"; done`, origin, origin, source))); r.code != 0 {
			t.Fatal(r)
		}
		a.mount()
		a.sh(gitSetup + `
			git clone -q --no-local '` + origin + `' work; cd work
			for i in 1 2 3; do
				git checkout -q -b topic$i; mkdir -p new$i; cp -r encoding/json new$i/; git add .; git mv new$i/json/decode.go new$i/moved.go
				git add .; git commit -qm "topic $i"; git checkout -q main; git merge -q --no-edit topic$i
			done
			git stash list; git gc -q --prune=now; git fsck --full --strict; test -z "$(git status --porcelain)"; git rev-parse HEAD > ../head`)
		a.sync()
		b := w.join("b")
		b.mount()
		b.sh(gitSetup + `
			test "$(git -C work rev-parse HEAD)" = "$(cat head)"; cd work; git fsck --full --strict
			test -z "$(git status --porcelain)"; diff -r encoding '` + origin + `/encoding'
			echo b >> changes; git commit -qam "by b"; git repack -qad; git fsck --full`)
		b.umount()
		a.remount()
		a.sh(gitSetup + `cd work; git fsck --full --strict; test "$(git log -1 --format=%s)" = "by b"; test -z "$(git status --porcelain)"`)
	})
}

// TestSQLite writes from several processes at once, in both journal modes,
// through a crash, and lets SQLite judge its own files.
func TestSQLite(t *testing.T) {
	eachStore(t, func(t *testing.T, w *World) {
		a := w.first("a")
		a.mount()
		for _, mode := range []string{"wal", "delete"} {
			a.sh(fmt.Sprintf(`sqlite3 %s.db 'pragma journal_mode=%s; create table t(id integer primary key, who text, data blob); create index i on t(who, id);'`, mode, mode))
			load := fmt.Sprintf(`
				work() { for i in $(seq 12); do
					sqlite3 -cmd '.timeout 60000' %[1]s.db "begin immediate; insert into t(who, data) select '$1', randomblob(300) from generate_series(1, 40); update t set data = randomblob(700) where id %% 17 = $i; delete from t where id %% 23 = $i; insert into t(who) values('$1 done $i'); commit;"
				done; }
				work one & p1=$!; work two & p2=$!; work three & p3=$!; wait $p1; wait $p2; wait $p3`, mode)
			if r := a.try(3*stepLimit, load); r.code != 0 {
				t.Fatal(r)
			}
			a.intact(mode)
			if n := a.sh(fmt.Sprintf(`sqlite3 %s.db "select count(*) from t where who like '%% done %%'"`, mode)); strings.TrimSpace(n) == "0" {
				t.Errorf("%s: nothing was written", mode)
			}
		}
		a.sync()
		b := w.join("b")
		b.mount()
		b.intact("wal")
		b.intact("delete")
		b.umount()
		a.interruptedSQLite()
	})
}

// intact asks for what SQLite itself can verify.
func (m *Machine) intact(name string) {
	m.w.t.Helper()
	if out := m.sh(fmt.Sprintf(`sqlite3 -cmd '.timeout 60000' %s.db 'pragma integrity_check; pragma foreign_key_check'`, name)); strings.TrimSpace(out) != "ok" {
		m.w.t.Errorf("machine %s: %s: %s", m.name, name, out)
	}
}

// interruptedSQLite kills the daemon between acknowledged transactions and
// expects each of them to be there afterwards. Only synchronous=extra also
// syncs the removal of a rollback journal, which is what commits.
func (m *Machine) interruptedSQLite() {
	m.w.t.Helper()
	for _, mode := range []string{"wal", "delete"} {
		m.sh(fmt.Sprintf(`for i in $(seq 20); do sqlite3 %s.db "pragma synchronous=extra; insert into t(who) values('acknowledged $i')" ; done`, mode))
		m.crash()
		m.mount()
		m.intact(mode)
		if n := m.sh(fmt.Sprintf(`sqlite3 %s.db "select count(distinct who) from t where who like 'acknowledged %%'"`, mode)); strings.TrimSpace(n) != "20" {
			m.w.t.Errorf("%s: %s of 20 acknowledged transactions are left", mode, strings.TrimSpace(n))
		}
	}
}

// TestTar unpacks an archive in the mount, packs the result on another
// machine, and finds nothing changed.
func TestTar(t *testing.T) {
	eachStore(t, func(t *testing.T, w *World) {
		source := filepath.Join(w.dir, "source")
		w.ok(os.Mkdir(source, 0o755))
		w.ok(makeTree(source))
		// tar does not archive sockets, and its POSIX form keeps the rest.
		w.ok(os.Remove(filepath.Join(source, "socket")))
		a := w.first("a")
		const flags = "--sparse --format=posix --xattrs --xattrs-include='*' --acls --numeric-owner"
		if r := a.run(a.shell(stepLimit, "tar "+flags+" -C '"+source+"' -cf '"+w.dir+"/in.tar' .")); r.code != 0 {
			t.Fatal(r)
		}
		a.mount()
		a.sh("mkdir tree; tar " + flags + " -xpf '" + w.dir + "/in.tar' -C tree; cp '" + w.dir + "/in.tar' kept.tar")
		a.child(stepLimit, "compare", source, a.at("tree"))
		a.umount()
		b := w.join("b")
		b.mount()
		b.sh("cmp kept.tar '" + w.dir + "/in.tar'; tar " + flags + " -C tree -cf '" + w.dir + "/out.tar' .")
		back := filepath.Join(w.dir, "back")
		w.ok(os.Mkdir(back, 0o755))
		if r := b.run(b.shell(stepLimit, "tar "+flags+" -xpf '"+w.dir+"/out.tar' -C '"+back+"'")); r.code != 0 {
			t.Fatal(r)
		}
		if err := compareTrees(source, back); err != nil {
			t.Error(err)
		}
	})
}

// TestFio lets fio write and verify, buffered, direct and through mmap, and
// verify once more after a remount.
func TestFio(t *testing.T) {
	eachStore(t, func(t *testing.T, w *World) {
		a := w.first("a")
		a.mount()
		jobs := map[string]string{
			"buffered": "--ioengine=psync --rw=randrw --bsrange=1k-200k",
			"direct":   "--ioengine=psync --direct=1 --rw=randwrite --bs=4k",
			"mapped":   "--ioengine=mmap --rw=randwrite --bs=4k",
			"synced":   "--ioengine=psync --rw=write --bs=64k --fsync=16",
		}
		fio := func(name, more string) string {
			return fmt.Sprintf("fio --name=%s --filename=%s --size=12m --randseed=7 --verify=crc32c --verify_fatal=1 --verify_state_save=0 --output-format=terse %s %s >/dev/null", name, name, jobs[name], more)
		}
		for name := range jobs {
			if r := a.try(2*stepLimit, fio(name, "--do_verify=1")); r.code != 0 {
				t.Errorf("%s: %v", name, r)
			}
		}
		a.umount()
		a.mount()
		for name := range jobs {
			if r := a.try(2*stepLimit, fio(name, "--verify_only")); r.code != 0 {
				t.Errorf("%s, after the remount: %v", name, r)
			}
		}
	})
}
