//go:build linux

package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// volume mounts a small file system of its own at a folder of this machine.
func (m *Machine) volume(dir string, size int64) {
	m.w.t.Helper()
	image := filepath.Join(m.dir, "volume.img")
	m.w.ok(os.WriteFile(image, nil, 0o600))
	m.w.ok(os.Truncate(image, size))
	m.w.ok(os.MkdirAll(dir, 0o700))
	d := &disk{m, image}
	d.command("mkfs.ext4", "-q", "-F", "-m", "0", image)
	d.command("mount", "-o", "loop", image, dir)
	m.w.t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
}

// free is how much of the volume of dir is free.
func (m *Machine) free(dir string) int64 {
	m.w.t.Helper()
	var st unix.Statfs_t
	m.w.ok(unix.Statfs(dir, &st))
	return int64(st.Bavail) * st.Bsize
}

func (m *Machine) size(f *os.File) int64 {
	m.w.t.Helper()
	info, err := f.Stat()
	m.w.ok(err)
	return info.Size()
}

// take leaves only so much free on the volume of dir, until the file it returns
// is removed.
func (m *Machine) take(dir string, left int64) (ballast string) {
	m.w.t.Helper()
	f, err := os.CreateTemp(dir, "ballast-")
	m.w.ok(err)
	defer f.Close()
	ballast = f.Name()
	const slack = 4 << 20 // for what the file system itself takes
	if size := m.free(dir) - left - slack; size > 0 {
		m.w.ok(unix.Fallocate(int(f.Fd()), 0, 0, size))
	}
	if left > 0 {
		return ballast
	}
	for err == nil {
		_, err = f.WriteAt(make([]byte, 4096), m.size(f))
	}
	if !errors.Is(err, unix.ENOSPC) {
		m.w.t.Fatal(err)
	}
	return ballast
}

// settled waits until nothing changes below a folder for two seconds.
func (m *Machine) settled(dir string) {
	m.w.t.Helper()
	last, since := "", time.Now()
	eventually(m.w.t, stepLimit, "a folder that settles", func() error {
		out, err := exec.Command("ls", "-ls", "--full-time", dir).CombinedOutput()
		if err != nil {
			return err
		}
		if now := string(out); now != last {
			last, since = now, time.Now()
		}
		if time.Since(since) < 2*time.Second {
			return errors.New("it changes")
		}
		return nil
	})
}

// fill writes files of a MiB, each acknowledged by fsync, until one cannot be
// written, and returns how many were and what was said then.
const fill = `i=0
while dd if=/dev/urandom of=$1$i bs=1M count=1 conv=fsync 2> "$TMPDIR/said"; do
	sha256sum $1$i >> "$TMPDIR/sums"
	i=$((i+1))
	[ $i -lt 200 ]
done
cat "$TMPDIR/said" >&2
echo $i`

func (m *Machine) fill(name string) int {
	m.w.t.Helper()
	r := m.try(2*stepLimit, "set -- "+name+"\n"+fill)
	n := 0
	if _, err := fmt.Sscan(r.out, &n); r.code != 0 || err != nil || !strings.Contains(r.err, "No space left on device") {
		m.w.t.Fatalf("machine %s: a full disk must say so, and say so as one: %v", m.name, r)
	}
	return n
}

// TestDiskFull fills the disk of the state folder while the store is away: the
// writer is told by write, a floor of free space is left, deletions and reads
// go on, and so does everything once there is space or the store is back.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onDir)
	a := w.machine("a")
	a.onDisk()
	a.init()
	a.mount()
	a.sh("mkdir d; echo in the store > d/file")
	a.sync()
	ballast := a.take(a.home, 96<<20)
	back := w.away()
	n := a.fill("x")
	if left := a.free(a.home); n < 10 || n > 40 || left < 60<<20 {
		t.Errorf("%d MiB were taken, %d bytes are left", n, left)
	}
	a.sh(`rm x0; : > x1; mv x2 y; ls -l; cat d/file`)
	a.sh(`sed -i '/x0$/d; /x1$/d; s/x2$/y/' "$TMPDIR/sums"; sha256sum --quiet -c "$TMPDIR/sums"`)
	a.sh("rm -rf x1 x3; sync .; sed -i '/x3$/d' \"$TMPDIR/sums\"")

	w.ok(os.Remove(ballast)) // space is freed: it goes on, the store still away
	eventually(t, stepLimit, "writing with free space", func() error {
		if r := a.try(stepLimit, "echo more > more; sync more"); r.code != 0 {
			return errors.New(r.String())
		}
		return nil
	})
	ballast = a.take(a.home, 76<<20)
	n = a.fill("z")
	back() // the store is back: a commit frees the journal, and it goes on
	eventually(t, stepLimit, "writing with the store back", func() error {
		if r := a.try(stepLimit, "dd if=/dev/zero of=big bs=1M count=12 conv=fsync"); r.code != 0 {
			return errors.New(r.String())
		}
		return nil
	})
	a.crash()
	a.mount()
	a.sh(`sha256sum --quiet -c "$TMPDIR/sums"; rm "$TMPDIR/sums" "$TMPDIR/said"; test "$(stat -c %s big more d/file | tr '\n' ' ')" = "12582912 5 13 "`)
	t.Logf("%d files more fitted", n)
	a.umount()
	w.check()
	a.noAccusations()
	w.ok(os.Remove(ballast))
	w.ok(unix.Unmount(a.home, 0))
	w.machines = nil // its state folder is gone with the disk
}

// TestCacheDiskFull fills the disk of the cache under a mount and before one:
// what is read and written is right, and the daemon lives.
func TestCacheDiskFull(t *testing.T) {
	t.Parallel()
	w := newWorld(t, onDir)
	a := w.first("a")
	homes, err := filepath.Glob(a.home + "/*/journal")
	if err != nil || len(homes) != 1 {
		t.Fatal(homes, err)
	}
	cache := filepath.Join(filepath.Dir(homes[0]), "cache")
	a.volume(cache, 256<<20)
	a.mount()
	a.sh(`mkdir d; for i in $(seq 60); do head -c $((i * 300)) /dev/urandom > d/$i; done; head -c 6000000 /dev/urandom > big; sha256sum d/* big > "$TMPDIR/sums"`)
	a.sync()
	use := func(round string) {
		t.Helper()
		a.sh(`sha256sum --quiet -c "$TMPDIR/sums"; ls -lR | wc -l; mkdir ` + round + `; head -c 300000 /dev/urandom > ` + round + `/f; cp -r d ` + round)
		a.sync()
	}
	use("roomy")
	pid := a.daemon()
	// Below its floor the cache writes no more; what it had begun comes to its end.
	first := a.take(cache, 100<<20)
	a.settled(filepath.Join(cache, "db"))
	ballast := a.take(cache, 0)
	use("full")
	if got := a.daemon(); got != pid {
		t.Errorf("the daemon was %d and is %d", pid, got)
	}
	a.crash()
	a.mount()
	use("again")
	w.ok(errors.Join(os.Remove(ballast), os.Remove(first)))
	before := a.status()["cache_bytes"].(float64)
	use("free")
	if after := a.status()["cache_bytes"].(float64); after <= before {
		t.Errorf("with space again, the cache went from %.0f to %.0f bytes", before, after)
	}
	a.sh(`rm "$TMPDIR/sums"`)
	a.umount()
}
