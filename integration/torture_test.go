//go:build linux

package integration

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"kist/integration/s3meter"
)

// load is a client that does one thing after another in a directory of the mount, and
// adds the number of each to a file elsewhere once it was acknowledged as durable.
// judge prints how many of these numbers are there, whole.
type load struct{ name, work, judge string }

var loads = []load{
	{"files", `KIST_TEST_CHILD=ack exec "$SELF" "$MNT/$DIR" 1000000 "$ACKS"`,
		`KIST_TEST_CHILD=acked "$SELF" "$MNT/$DIR" $(wc -l < "$ACKS"); wc -l < "$ACKS"`},
	{"sqlite", `sqlite3 "$DIR/t.db" 'create table t(n integer primary key, data blob)'
		i=0; while i=$((i+1)); do sqlite3 "$DIR/t.db" "pragma synchronous=extra; insert into t values($i, randomblob(900))"; echo $i >> "$ACKS"; done`,
		`test "$(sqlite3 "$DIR/t.db" 'pragma integrity_check')" = ok; sqlite3 "$DIR/t.db" 'select n from t' | among`},
	{"git", gitSetup + `git init -q -b main "$DIR"
		i=0; while i=$((i+1)); do echo $i > "$DIR/$i"; git -C "$DIR" add .; git -C "$DIR" -c core.fsync=all commit -qm $i; sync "$DIR"; echo $i >> "$ACKS"; done`,
		gitSetup + `git -C "$DIR" fsck --full --strict >&2; git -C "$DIR" log --format=%s | among`},
	{"rsync", `i=0; while i=$((i+1)); do rsync -aHAX "$SOURCE/" "$DIR/$i/"; sync "$DIR"; echo $i >> "$ACKS"; done`,
		`while read n; do if diff -r "$SOURCE" "$DIR/$n" >&2; then echo $n; fi; done < "$ACKS" | wc -l`},
	{"fio", `i=0; while i=$((i+1)); do ` + tortureFio + `--filename="$DIR/$i" --randseed=$i --do_verify=0 --end_fsync=1 >&2; sync "$DIR"; echo $i >> "$ACKS"; done`,
		`while read n; do if ` + tortureFio + `--filename="$DIR/$n" --randseed=$n --verify_only >&2; then echo $n; fi; done < "$ACKS" | wc -l`},
}

const tortureFio = `fio --name=t --size=256k --ioengine=psync --rw=randwrite --bs=4k --verify=crc32c --verify_fatal=1 --verify_state_save=0 --output-format=terse `

// run is one load in one round.
type run struct {
	load
	dir, acks string
	p         *process
}

func (r *run) script(m *Machine, what string) string {
	return fmt.Sprintf(`SELF='%s' DIR='%s' ACKS='%s' SOURCE='%s'
		among() { sort "$ACKS" > "$ACKS.sorted"; sort | comm -12 - "$ACKS.sorted" | wc -l; }
		%s`, suite.self, r.dir, r.acks, m.w.dir+"/source", what)
}

func (m *Machine) torment(l load, round int) *run {
	m.w.t.Helper()
	r := &run{load: l, dir: fmt.Sprint(l.name, round), acks: filepath.Join(m.w.dir, fmt.Sprint("acks-", l.name, round))}
	m.w.ok(os.WriteFile(r.acks, nil, 0o666))
	m.sh("mkdir " + r.dir + "; sync " + r.dir + " .")
	r.p = m.background(m.shell(0, r.script(m, l.work)))
	return r
}

func (r *run) acknowledged(m *Machine) int {
	raw, err := os.ReadFile(r.acks)
	m.w.ok(err)
	return bytes.Count(raw, []byte("\n"))
}

// verify counts what was acknowledged, and what of it a machine has.
func (m *Machine) verify(runs []*run) (acked, there int) {
	m.w.t.Helper()
	for _, r := range runs {
		n := r.acknowledged(m)
		if n == 0 {
			continue
		}
		got := m.try(3*stepLimit, r.script(m, r.judge))
		have, err := strconv.Atoi(strings.TrimSpace(got.out))
		if acked += n; got.code == 0 && err == nil {
			there += have
		}
		if got.code != 0 || err != nil || have != n {
			m.w.t.Errorf("machine %s, %s: acknowledged %d: %v", m.name, r.dir, n, got)
		}
	}
	return acked, there
}

// TestTorture kills the daemon again and again, under programs that wait for their
// data to be durable, with a store that fails now and then; KIST_CAMPAIGN makes it
// long. Nothing acknowledged may be missing, here at once, elsewhere in the end.
func TestTorture(t *testing.T) {
	t.Parallel()
	long, seed, err := campaign()
	if err != nil {
		t.Fatal(err)
	}
	kind := onS3
	if _, err := findServer(); err != nil {
		kind = onDir
	}
	t.Logf("KIST_SEED=%d, on %s", seed, kind)
	rnd := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t, kind, metered, hurried)
	a := w.first("a")
	a.run(a.childCommand(stepLimit, "many", filepath.Join(w.dir, "source"), "30"))
	a.mount()
	var runs []*run
	for round, begun := 0, time.Now(); round < 3 || time.Since(begun) < long; round++ {
		now := a.round(rnd, round)
		a.verify(now)
		if t.Failed() {
			return
		}
		runs = append(runs, now...)
	}
	a.umount()
	b := w.join("b")
	b.mount()
	acked, there := b.verify(runs)
	t.Logf("acknowledged %d, verified %d, lost %d", acked, there, acked-there)
	if acked < len(runs) {
		t.Errorf("only %d things were acknowledged to %d programs", acked, len(runs))
	}
}

// round works for a while and ends with a dead daemon and a fresh mount.
func (m *Machine) round(rnd *rand.Rand, round int) (runs []*run) {
	m.w.t.Helper()
	for _, i := range rnd.Perm(len(loads))[:3] {
		runs = append(runs, m.torment(loads[i], round))
	}
	end := m.fault(rnd)
	time.Sleep(time.Second + time.Duration(rnd.Int64N(int64(3*time.Second)))) // the clients' time, not ours
	m.crash()
	end()
	for _, r := range runs {
		if got, err := r.p.wait(stepLimit); err != nil || got.code == 0 {
			m.w.t.Fatalf("%s, the client of a dead daemon: %v, %v", r.name, got, err)
		}
	}
	if rnd.IntN(2) == 0 {
		m.killedMount(rnd)
	}
	m.mount()
	if rnd.IntN(3) == 0 {
		m.sync()
	}
	return runs
}

// killedMount kills a mount that is just recovering.
func (m *Machine) killedMount(rnd *rand.Rand) {
	m.w.t.Helper()
	p := m.background(command{argv: []string{m.w.program, "mount", m.store(), m.mnt}, dir: m.dir, env: m.environment(), uid: m.uid})
	time.Sleep(time.Duration(rnd.Int64N(int64(800 * time.Millisecond))))
	for pid := range m.daemons() {
		killPid(pid)
	}
	if _, err := p.wait(stepLimit); err != nil {
		m.w.t.Fatal(err)
	}
	for pid := range m.daemons() { // one that the first look missed
		killPid(pid)
	}
	m.daemonGone()
}

// fault lets some requests of a machine fail, until end is called.
func (m *Machine) fault(rnd *rand.Rand) (end func()) {
	if m.meter == nil {
		return func() {}
	}
	acts := []s3meter.Act{s3meter.Pass, s3meter.Refuse, s3meter.Fail, s3meter.Expire, s3meter.Drop, s3meter.Hang, s3meter.Lose, s3meter.Flip, s3meter.Shorten}
	classes := []s3meter.Class{"", s3meter.Log, s3meter.Pack}
	rule := m.meter.Add(s3meter.Rule{Act: acts[rnd.IntN(len(acts))], Class: classes[rnd.IntN(len(classes))], After: rnd.IntN(3)})
	return func() { m.meter.Remove(rule) }
}
