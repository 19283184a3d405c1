package journal_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"kist/crypto/seal"
	"kist/fs/journal"
	"kist/fs/journal/disktest"
)

const endMark = 74 // bytes at the end of a segment that was closed in order

const seg1, seg2, seg3 = "0000000000000001.seg", "0000000000000002.seg", "0000000000000003.seg"

// threeSegments makes a disk with records in three segments, all synced.
func threeSegments(t testing.TB, each int) (*disktest.Disk, []item) {
	t.Helper()
	d := &disktest.Disk{}
	var model []item
	for i := range 3 {
		j, _ := open(t, d, journal.Options{Vault: small.Vault})
		model = append(model, appendN(t, j, rand.New(rand.NewPCG(7, uint64(i))), each)...)
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return d, model
}

// reopen opens a damaged disk: either an error, or a prefix of the model.
func reopen(t testing.TB, d *disktest.Disk, model []item) (*journal.Replay, uint64) {
	t.Helper()
	j, r, err := journal.Open(d, testKey, journal.Options{Vault: small.Vault})
	if err != nil {
		if !errors.Is(err, journal.ErrKey) {
			t.Fatal(err)
		}
		return nil, 0
	}
	n := isPrefix(t, j, r, model)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return r, n
}

func total(d *disktest.Disk) (n int) {
	for _, name := range d.Names() {
		n += len(d.Bytes(name))
	}
	return n
}

// TestFlipEveryByte flips a bit of every byte in turn: what comes back is a
// strict prefix, reported, and nothing is deleted.
func TestFlipEveryByte(t *testing.T) {
	d, model := threeSegments(t, 3)
	for k, name := range []string{seg1, seg2, seg3} {
		clean := d.Bytes(name)
		for i := range clean {
			c, b := d.Clone(), bytes.Clone(clean)
			b[i] ^= 1 << (i % 8)
			c.SetBytes(name, b)
			before := total(c)
			r, n := reopen(t, c, model)
			if r == nil {
				t.Fatalf("%s byte %d: refused", name, i)
			}
			whole := n == uint64(len(model)) && r.Start.N == 0
			if i >= len(clean)-endMark {
				if !whole {
					t.Fatalf("%s byte %d: the end mark is only help", name, i)
				}
				continue
			}
			if k == 0 && i < 200 {
				whole = r.Start.N == 0 // the position tells what is missing
			}
			if whole || len(r.Damage) == 0 {
				t.Fatalf("%s byte %d: %d records from %d, damage %+v, cut %d", name, i, n, r.Start.N, r.Damage, r.Cut)
			}
			if total(c) < before {
				t.Fatalf("%s byte %d: something was deleted", name, i)
			}
		}
	}
}

// TestCutAnywhere truncates each segment at every length.
func TestCutAnywhere(t *testing.T) {
	d, model := threeSegments(t, 3)
	for k, name := range []string{seg1, seg2, seg3} {
		clean := d.Bytes(name)
		for i := range len(clean) - endMark {
			c := d.Clone()
			c.SetBytes(name, append([]byte{}, clean[:i]...))
			r, n := reopen(t, c, model)
			if r == nil {
				t.Fatal("refused")
			}
			if n == uint64(len(model)) && r.Start.N == 0 {
				t.Fatalf("%s cut at %d went unnoticed", name, i)
			}
			if k < 2 && len(r.Damage) == 0 {
				t.Fatalf("%s cut at %d is not reported", name, i)
			}
		}
	}
}

// TestForeignSegments puts other segments in the place of one.
func TestForeignSegments(t *testing.T) {
	d, model := threeSegments(t, 4)
	other, _ := threeSegments(t, 4)
	foreign := other.Bytes(seg2)
	renumbered := bytes.Clone(d.Bytes(seg1))
	renumbered[33] = 2
	for name, b := range map[string][]byte{
		"another": d.Bytes(seg3), "older": d.Bytes(seg1), "foreign journal": foreign,
		"renumbered": renumbered, "empty": {}, "gone": nil,
	} {
		c := d.Clone()
		c.SetBytes(seg2, b)
		r, n := reopen(t, c, model)
		if n != 4 || len(r.Damage) == 0 {
			t.Errorf("%s: %d records, damage %v", name, n, r.Damage)
		}
	}
	// A segment that was trimmed long ago comes back in front.
	c := d.Clone()
	j, _ := open(t, c, journal.Options{Vault: small.Vault})
	if err := j.Trim(8); err != nil {
		t.Fatal(err)
	}
	_ = j.Close()
	if r, n := reopen(t, c, model); r.Start.N != 8 || n != 12 {
		t.Error("trimmed journal", r.Start.N, n)
	}
}

func TestRecordsDoNotMove(t *testing.T) {
	d := &disktest.Disk{}
	j, _ := open(t, d, small)
	for range 4 {
		if _, err := j.Append(1, []byte("same"), []byte("same"), 0); err != nil {
			t.Fatal(err)
		}
	}
	_ = j.Close()
	b := d.Bytes(seg1)
	size := (len(b) - 200) / 4
	b2 := bytes.Clone(b)
	copy(b2[200+size:], b[200+2*size:200+3*size]) // the third in the place of the second
	d.SetBytes(seg1, b2)
	j, r := open(t, d, small)
	if r.End.N != 1 {
		t.Fatal("a record spoke from another place", r.End.N)
	}
	_ = j.Close()
}

func TestDamageInTheMiddle(t *testing.T) {
	d, model := threeSegments(t, 5)
	b := d.Bytes(seg2)
	b[len(b)-1-endMark] ^= 1
	d.SetBytes(seg2, b)
	r, n := reopen(t, d, model)
	if n != 9 || len(r.Damage) != 2 {
		t.Fatalf("%d records, damage %+v", n, r.Damage)
	}
	first, second := r.Damage[0], r.Damage[1]
	if first.Segment != 2 || first.First != 10 || first.Last != 10 || first.Off+first.Bytes != int64(len(b)) ||
		second.Segment != 3 || second.First != 11 || second.Off != 0 {
		t.Fatalf("%+v", r.Damage)
	}
	// The same again is not news; the sound beginning is still in use.
	if r, n = reopen(t, d, model); n != 9 || len(r.Damage) != 0 {
		t.Fatalf("%d records, damage %+v", n, r.Damage)
	}
	j, _ := open(t, d, journal.Options{Vault: small.Vault})
	info, err := j.Inspect()
	if err != nil || len(info) != 2 || len(info[0].Records)+len(info[1].Records) < 9 {
		t.Fatalf("%v %+v", err, info)
	}
	if _, err := j.Append(1, nil, nil, 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(j.Sync(), j.Trim(9)); err != nil {
		t.Fatal(err)
	}
	_ = j.Close()
	if d.Bytes("0000000000000002.aside") == nil || d.Bytes("0000000000000003.aside") == nil {
		t.Fatal("what was not understood is gone", d.Names())
	}
}

// TestDamageInTheLast: a record behind the damage says that the damaged one
// had been synced, so it is no torn tail.
func TestDamageInTheLast(t *testing.T) {
	d := &disktest.Disk{}
	j, _ := open(t, d, small)
	for range 3 {
		if _, err := j.Append(1, nil, []byte("payload"), 0); err != nil {
			t.Fatal(err)
		}
		if err := j.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	b := d.Bytes(seg1)
	c := d.Clone()
	b[len(b)-100] ^= 1
	b2 := bytes.Clone(b)
	d.SetBytes(seg1, b2)
	j2, r := open(t, d, small)
	if r.End.N != 1 && r.End.N != 2 || len(r.Damage) != 1 && r.End.N == 1 {
		t.Fatalf("%+v", r)
	}
	_ = j2.Close()
	b = c.Bytes(seg1)
	b[210] ^= 1
	c.SetBytes(seg1, b)
	j2, r = open(t, c, small)
	if r.End.N != 0 || len(r.Damage) != 1 || r.Damage[0].First != 1 {
		t.Fatalf("%+v", r)
	}
	_ = j2.Close()
}

func TestWrongKey(t *testing.T) {
	d, model := threeSegments(t, 3)
	names := strings.Join(d.Names(), " ")
	if _, _, err := journal.Open(d, seal.Key{4}, small); !errors.Is(err, journal.ErrKey) {
		t.Fatal(err)
	}
	if _, _, err := journal.Open(d, testKey, journal.Options{Vault: [32]byte{8}}); !errors.Is(err, journal.ErrKey) {
		t.Fatal(err)
	}
	if strings.Join(d.Names(), " ") != names {
		t.Fatal("a wrong key changed something")
	}
	if _, n := reopen(t, d, model); n != 9 {
		t.Fatal("lost records")
	}
}

// TestClone copies the directory; both go on with the same appends, and seal
// them under different keys.
func TestClone(t *testing.T) {
	d, _ := threeSegments(t, 3)
	c := d.Clone()
	ja, ra := open(t, d, small)
	jb, rb := open(t, c, small)
	if ra.End != rb.End || ja.ID() != jb.ID() {
		t.Fatal("copies differ")
	}
	for _, j := range []*journal.Journal{ja, jb} {
		if _, err := j.Append(1, []byte("meta"), bytes.Repeat([]byte("x"), 100), 0); err != nil {
			t.Fatal(err)
		}
	}
	if ja.Pos() != jb.Pos() {
		t.Fatal("the running hash depends on keys")
	}
	_ = ja.Close()
	_ = jb.Close()
	const seg4 = "0000000000000004.seg"
	a, b := d.Bytes(seg4), c.Bytes(seg4)
	if len(a) != len(b) || bytes.Equal(a[74:200], b[74:200]) || bytes.Equal(a[226:], b[226:]) {
		t.Fatal("copies share a segment key")
	}
}

func TestCanary(t *testing.T) {
	const canary = "CANARY-0123456789"
	d := &disktest.Disk{}
	j, _ := open(t, d, small)
	for range 10 {
		if _, err := j.Append(1, []byte(canary), []byte(canary+canary), 0); err != nil {
			t.Fatal(err)
		}
	}
	_ = j.Close()
	for _, name := range d.Names() {
		for _, form := range []string{canary, hex.EncodeToString([]byte(canary))} {
			if bytes.Contains(d.Bytes(name), []byte(form)) {
				t.Fatalf("%s shows what it holds", name)
			}
		}
	}
}

// TestFailedSync: the segment is given up, and what was not synced stands in
// the next one.
func TestFailedSync(t *testing.T) {
	for _, op := range []disktest.Op{disktest.OpSync, disktest.OpWrite} {
		d := &disktest.Disk{}
		j, _ := open(t, d, small)
		r := rand.New(rand.NewPCG(3, 3))
		model := appendN(t, j, r, 3)
		if err := j.Sync(); err != nil {
			t.Fatal(err)
		}
		model = append(model, appendN(t, j, r, 3)...)
		var failed atomic.Bool
		d.SetHook(func(o disktest.Op, name string) error {
			if o == op && name == seg1 && failed.CompareAndSwap(false, true) {
				return errDisk
			}
			return nil
		})
		if err := j.Sync(); err != nil || !failed.Load() {
			t.Fatal(err)
		}
		for _, it := range model {
			if p, err := j.Payload(it.loc); err != nil || !bytes.Equal(p, it.payload) {
				t.Fatal("a moved record was lost", err)
			}
		}
		d.Crash(1)
		rep, n := reopen(t, d, model)
		if n != 6 || len(rep.Damage) > 0 {
			t.Fatalf("%d records, %+v", n, rep.Damage)
		}
	}
}

func TestBroken(t *testing.T) {
	d := &disktest.Disk{}
	j, _ := open(t, d, small)
	r := rand.New(rand.NewPCG(3, 3))
	model := appendN(t, j, r, 3)
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	model = append(model, appendN(t, j, r, 2)...)
	d.SetHook(func(o disktest.Op, _ string) error {
		if o == disktest.OpSync {
			return errDisk
		}
		return nil
	})
	if err := j.Sync(); !errors.Is(err, journal.ErrBroken) || !errors.Is(err, errDisk) {
		t.Fatal(err)
	}
	d.SetHook(nil)
	if _, err := j.Append(1, nil, nil, journal.Urgent); !errors.Is(err, journal.ErrBroken) {
		t.Fatal(err)
	}
	if err := j.Sync(); !errors.Is(err, journal.ErrBroken) {
		t.Fatal("a second sync forgot the failure", err)
	}
	if p, err := j.Payload(model[4].loc); err != nil || !bytes.Equal(p, model[4].payload) {
		t.Fatal("what is in memory can still be read", err)
	}
	if err := j.Close(); !errors.Is(err, journal.ErrBroken) {
		t.Fatal(err)
	}
	d.Crash(1)
	if rep, n := reopen(t, d, model); n < 3 || len(rep.Damage) > 0 {
		t.Fatal(n, rep.Damage)
	}
}

// TestFullDisk: an ordinary record is refused before anything is promised, an
// urgent one fits, and with space it goes on.
func TestFullDisk(t *testing.T) {
	d := &disktest.Disk{}
	d.SetCapacity(20 << 10)
	j, _ := open(t, d, small)
	var model []item
	payload := bytes.Repeat([]byte("p"), 500)
	for {
		it, err := appendItem(t, j, item{kind: 1, payload: payload}, 0)
		if errors.Is(err, journal.ErrFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		model = append(model, it)
	}
	if err := j.Reserve(8000); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal("Reserve on a full disk", err)
	}
	if err := j.Sync(); err != nil {
		t.Fatal("what was accepted must fit", err)
	}
	for range 8 {
		it, err := appendItem(t, j, item{kind: 2, meta: []byte("unlink")}, journal.Urgent)
		if err != nil {
			t.Fatal(err)
		}
		model = append(model, it)
	}
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Append(1, nil, payload, 0); !errors.Is(err, journal.ErrFull) {
		t.Fatal("the reserve was spent on an ordinary record", err)
	}
	d.SetCapacity(60 << 10)
	it, err := appendItem(t, j, item{kind: 1, payload: payload}, 0)
	if err != nil {
		t.Fatal("does not resume", err)
	}
	model = append(model, it)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	d.Crash(5)
	if r, n := reopen(t, d, model); n != uint64(len(model)) || len(r.Damage) > 0 {
		t.Fatal(n, r.Damage)
	}
}

// TestFullAfterAll: a file system that breaks the promise of its allocation.
func TestFullAfterAll(t *testing.T) {
	d := &disktest.Disk{}
	j, _ := open(t, d, small)
	d.SetHook(func(o disktest.Op, _ string) error {
		if o == disktest.OpWrite {
			return syscall.ENOSPC
		}
		return nil
	})
	model := []item{}
	for range 3 {
		it, err := appendItem(t, j, item{kind: 1, meta: []byte("m")}, 0)
		if err != nil {
			t.Fatal(err)
		}
		model = append(model, it)
	}
	for range 3 {
		if err := j.Sync(); !errors.Is(err, journal.ErrFull) {
			t.Fatal(err)
		}
	}
	d.SetHook(nil)
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	d.Crash(1)
	if r, n := reopen(t, d, model); n != 3 || len(r.Damage) > 0 {
		t.Fatal(n, r.Damage)
	}
}

func TestBudget(t *testing.T) {
	d := &disktest.Disk{}
	j, _ := open(t, d, journal.Options{Budget: 40 << 10})
	payload := bytes.Repeat([]byte("p"), 1000)
	var last journal.Rec
	for {
		rec, err := j.Append(1, nil, payload, 0)
		if errors.Is(err, journal.ErrFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		last = rec
	}
	if _, n := j.Usage(); n > 40<<10 || n < 35<<10 {
		t.Fatal(n)
	}
	if _, err := j.Append(1, nil, nil, journal.Urgent); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(j.Sync(), j.Trim(last.N+1)); err != nil {
		t.Fatal(err)
	}
	if err := j.Reserve(20 << 10); err != nil {
		t.Fatal(err)
	}
	_ = j.Close()
}

func TestUnsyncedLimit(t *testing.T) {
	d := &disktest.Disk{}
	j, _ := open(t, d, journal.Options{Unsynced: 10 << 10})
	for range 100 {
		if _, err := j.Append(1, nil, make([]byte, 1000), journal.Raw); err != nil {
			t.Fatal(err)
		}
		if n, _ := j.Usage(); n > 10<<10 {
			t.Fatal(n, "unsynced")
		}
	}
	if _, err := j.Append(1, nil, make([]byte, journal.MaxPayload+1), 0); !errors.Is(err, journal.ErrTooLarge) {
		t.Fatal(err)
	}
	_ = j.Close()
	if _, err := j.Append(1, nil, nil, 0); !errors.Is(err, journal.ErrClosed) {
		t.Fatal(err)
	}
}

func TestRealDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "journal")
	disk, err := journal.OpenDisk(dir)
	if err != nil {
		t.Fatal(err)
	}
	j, _ := open(t, disk, journal.Options{})
	if _, err := journal.OpenDisk(dir); !errors.Is(err, journal.ErrLocked) {
		t.Fatal("two processes in one journal", err)
	}
	r := rand.New(rand.NewPCG(6, 6))
	model := appendN(t, j, r, 50)
	big := item{kind: 9, payload: bytes.Repeat([]byte("b"), 1<<20)}
	for range 5 {
		it, err := appendItem(t, j, big, journal.Raw)
		if err != nil {
			t.Fatal(err)
		}
		model = append(model, it)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range names {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Error(e.Name(), info.Mode(), err)
		}
	}
	if info, _ := os.Stat(dir); info.Mode().Perm() != 0o700 {
		t.Error(info.Mode())
	}
	disk, err = journal.OpenDisk(dir)
	if err != nil {
		t.Fatal(err)
	}
	j, rep := open(t, disk, journal.Options{})
	if n := isPrefix(t, j, rep, model); n != 55 {
		t.Fatal(n)
	}
	if err := errors.Join(j.Trim(55), j.Close()); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkAppendSync(b *testing.B) {
	disk, err := journal.OpenDisk(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	j, _ := open(b, disk, journal.Options{})
	defer j.Close()
	blob := make([]byte, 1<<20)
	b.SetBytes(1 << 20)
	for b.Loop() {
		rec, err := j.Append(1, []byte("write"), blob, journal.Raw)
		if err != nil {
			b.Fatal(err)
		}
		if rec.N%128 == 0 {
			if err := j.Trim(rec.N - 64); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkAppendSmall(b *testing.B) {
	disk, err := journal.OpenDisk(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	j, _ := open(b, disk, journal.Options{})
	defer j.Close()
	meta, data := make([]byte, 100), make([]byte, 4096)
	b.SetBytes(4096)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := j.Append(1, meta, data, 0); err != nil {
			b.Fatal(err)
		}
	}
}

// TestFloor: an ordinary record leaves the floor free, an urgent one does not mind, and
// with space it goes on.
func TestFloor(t *testing.T) {
	d := &disktest.Disk{}
	d.SetCapacity(60 << 10)
	opt := small
	opt.Floor = 20 << 10
	j, _ := open(t, d, opt)
	defer j.Close()
	payload := bytes.Repeat([]byte("p"), 500)
	fill := func() {
		t.Helper()
		err := error(nil)
		for n := 0; err == nil; n++ {
			if n == 1000 {
				t.Fatal("the floor is never met")
			}
			_, err = j.Append(1, nil, payload, 0)
		}
		if !errors.Is(err, journal.ErrFull) {
			t.Fatal(err)
		}
	}
	fill()
	if left, _ := d.Free(); left < opt.Floor || left > opt.Floor+1<<10 {
		t.Fatalf("%d bytes are free, %d must be", left, opt.Floor)
	}
	for range 20 {
		if _, err := j.Append(2, nil, payload, journal.Urgent); err != nil {
			t.Fatal(err)
		}
	}
	d.SetCapacity(90 << 10)
	fill()
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
}

// TestPromised: a record for which room was made is taken although the disk is full
// since; Sync says that it waits, and it keeps its place in the history.
func TestPromised(t *testing.T) {
	d := &disktest.Disk{}
	j, _ := open(t, d, small)
	var model []item
	add := func(flags journal.Flags) {
		t.Helper()
		it, err := appendItem(t, j, item{kind: 1, payload: bytes.Repeat([]byte("p"), 2000)}, flags)
		if err != nil {
			t.Fatal(err)
		}
		model = append(model, it)
	}
	add(0)
	if err := errors.Join(j.Reserve(2000), j.Cut(), j.Sync()); err != nil {
		t.Fatal(err)
	}
	d.SetCapacity(1)
	j.GiveReserve()
	for range 8 {
		add(journal.Promised)
	}
	if _, err := j.Append(1, nil, []byte("x"), 0); !errors.Is(err, journal.ErrFull) {
		t.Fatal(err)
	}
	for range 2 {
		if err := j.Sync(); !errors.Is(err, journal.ErrFull) {
			t.Fatal(err)
		}
	}
	if p, err := j.Payload(model[4].loc); err != nil || len(p) != 2000 {
		t.Fatal(err)
	}
	d.SetCapacity(0)
	add(0)
	if err := j.Sync(); err != nil {
		t.Fatal(err)
	}
	d.Crash(3)
	if r, n := reopen(t, d, model); n != uint64(len(model)) || len(r.Damage) > 0 {
		t.Fatal(n, r.Damage)
	}
}
