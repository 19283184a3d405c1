//go:build linux

package mount

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"kist/fs"
)

// TestKernelRemembers pins how often FS is asked when nothing changed.
func TestKernelRemembers(t *testing.T) {
	m, dir := mounted(t, Options{})
	r := startAgent(t, dir, nil)
	r.do(order{Op: "write", Path: "f", Data: "content"})
	for range 3 {
		r.do(order{Op: "read", Path: "f"})
		r.do(order{Op: "list"})
		r.do(order{Op: "stat", Path: "f"})
		r.try(order{Op: "stat", Path: "absent"})
	}
	m.reset()
	for range 10 {
		r.do(order{Op: "read", Path: "f"})
		r.do(order{Op: "list"})
		r.do(order{Op: "stat", Path: "f"})
		if rep := r.try(order{Op: "stat", Path: "absent"}); rep.Errno != int(syscall.ENOENT) {
			t.Error(rep)
		}
	}
	for op, want := range map[string]int{"lookup": 0, "getattr": 0, "read": 0, "readdir": 0, "flush": 0, "getxattr": 0, "open": 10} {
		if got := m.count(op); got != want {
			t.Errorf("%s: asked %d times, not %d", op, got, want)
		}
	}
}

// TestWritesAskNothing pins that a write costs a write.
func TestWritesAskNothing(t *testing.T) {
	m, dir := mounted(t, Options{})
	r := startAgent(t, dir, nil)
	r.do(order{Op: "write", Path: "f"})
	r.do(order{Op: "open", Path: "f"})
	r.do(order{Op: "pwrite", Path: "f", Data: "x"})
	m.reset()
	for i := range 10 {
		r.do(order{Op: "pwrite", Path: "f", Data: "x", Off: int64(i)})
	}
	for op, want := range map[string]int{"write": 10, "getxattr": 0, "getattr": 0, "lookup": 0} {
		if got := m.count(op); got != want {
			t.Errorf("%s: asked %d times, not %d", op, got, want)
		}
	}
	r.do(order{Op: "close", Path: "f"})
}

// TestNewsFromOthers changes files behind the kernel's back.
func TestNewsFromOthers(t *testing.T) {
	m, dir := mounted(t, Options{})
	r := startAgent(t, dir, nil)
	if rep := r.try(order{Op: "stat", Path: "f"}); rep.Errno != int(syscall.ENOENT) {
		t.Fatal(rep)
	}
	r.do(order{Op: "list"})
	r.do(order{Op: "list"})

	m.put("f", "first")
	eventually(t, "a name that was absent", func() bool { return r.try(order{Op: "stat", Path: "f"}).Err == "" })
	eventually(t, "a listing that was kept", func() bool { return r.do(order{Op: "list"}) == "f" })
	if got := r.do(order{Op: "read", Path: "f"}); got != "first" {
		t.Errorf("read %q", got)
	}

	m.put("f", "second")
	eventually(t, "content of a closed file", func() bool { return r.do(order{Op: "read", Path: "f"}) == "second" })
	m.put("f", "longer than before")
	eventually(t, "content that grew", func() bool { return r.do(order{Op: "read", Path: "f"}) == "longer than before" })

	m.take("f")
	eventually(t, "a name that went", func() bool { return r.try(order{Op: "stat", Path: "f"}).Errno == int(syscall.ENOENT) })
	eventually(t, "a listing after that", func() bool { return r.do(order{Op: "list"}) == "" })
}

// TestNewsOfAnOpenFile: a file grows in the middle of a page that the kernel
// holds; its reader never sees the zeros after the old end.
func TestNewsOfAnOpenFile(t *testing.T) {
	m, dir := mounted(t, Options{})
	r := startAgent(t, dir, nil)
	m.put("log", "one ")
	r.do(order{Op: "open", Path: "log"})
	pread := order{Op: "pread", Path: "log", N: 100}
	if got := r.do(pread); got != "one " {
		t.Fatalf("read %q", got)
	}
	m.put("log", "one two ")
	eventually(t, "content of an open file", func() bool { return r.do(pread) == "one two " })
	m.put("log", "other")
	eventually(t, "another content, read anew", func() bool { return r.do(order{Op: "read", Path: "log"}) == "other" })
	r.do(order{Op: "close", Path: "log"})
}

// TestNewsNeverStops has a name change while it is looked up all the time.
func TestNewsNeverStops(t *testing.T) {
	m, dir := mounted(t, Options{})
	r := startAgent(t, dir, nil)
	last := ""
	for i := range 200 {
		last = fmt.Sprint("content ", i)
		m.put("f", last)
		r.try(order{Op: "read", Path: "f"})
		r.try(order{Op: "list"})
	}
	eventually(t, "the last content", func() bool { return r.do(order{Op: "read", Path: "f"}) == last })
}

// fakeKernel notes what it is told.
type fakeKernel struct {
	told  chan string
	block chan struct{}
}

func (k *fakeKernel) InodeNotify(node uint64, off, _ int64) (s status) {
	k.told <- fmt.Sprintf("inode %d %d", node, off)
	<-k.block
	return s
}

func (k *fakeKernel) EntryNotify(parent uint64, name string) (s status) {
	k.told <- fmt.Sprintf("entry %d %s", parent, name)
	<-k.block
	return s
}

// TestNotifierQueue: news does not wait, is told once, and a listing after
// its names.
func TestNotifierQueue(t *testing.T) {
	k := &fakeKernel{told: make(chan string), block: make(chan struct{})}
	pages := make(chan fs.Ino, 10)
	n := newNotifier(k, notifierOptions{hold: func(ino fs.Ino) bool { return ino == 7 }, later: func(ino fs.Ino) { pages <- ino }})
	n.Inode(99)
	if got := <-k.told; got != "inode 99 -1" {
		t.Fatal(got)
	}
	for range 1000 {
		n.Entry(1, "a")
		n.Content(7)
		n.Entry(1, "b")
		n.Content(8)
		n.Inode(5)
	}
	close(k.block)
	for _, want := range []string{"entry 1 a", "inode 7 -1", "entry 1 b", "inode 1 0", "inode 8 0", "inode 5 -1"} {
		if got := <-k.told; got != want {
			t.Errorf("told %q, not %q", got, want)
		}
	}
	if ino := <-pages; ino != 7 {
		t.Errorf("pages of %d", ino)
	}
	n.close()
	n.done.Wait()
	n.Entry(1, "after the end")
	if n.queue.Len() != 0 {
		t.Error("news is kept after the end")
	}
}

// TestDirOffsets: offsets are for ever while somebody needs them, and the
// kernel may not use a listing whose table is gone.
func TestDirOffsets(t *testing.T) {
	d := dirTables{tables: map[fs.Ino]*dirTable{}}
	if d.open(1) {
		t.Error("a listing is kept that nobody made")
	}
	tab := d.tables[1]
	first := tab.offset("m")
	for i := range 3000 {
		tab.offset(fmt.Sprint(i))
	}
	if tab.offset("m") != first {
		t.Error("an offset changed")
	}
	if name, ok := tab.after(first); !ok || name != "m" {
		t.Error(name, ok)
	}
	if _, ok := tab.after(offNames + 3001); ok {
		t.Error("an offset that was never given")
	}
	tab.served, tab.live = true, 3001
	d.close(1)
	if !d.open(1) {
		t.Error("a good listing is thrown away")
	}
	tab.live = 10
	d.close(1)
	if d.open(1) || d.tables[1] == tab {
		t.Error("a table of bygone names is kept")
	}
	for ino := fs.Ino(2); ino < 20; ino++ {
		d.open(ino)
		for i := range keptNames / 8 {
			d.tables[ino].offset(fmt.Sprintf("%08d", i))
		}
		d.close(ino)
		if d.idle > keptNames {
			t.Fatalf("%d names are kept", d.idle)
		}
	}
	d.close(1)
	for ino := range fs.Ino(20) {
		d.forget(ino)
	}
	if d.idle != 0 || len(d.tables) != 0 {
		t.Errorf("%d names in %d tables are left", d.idle, len(d.tables))
	}
}

// TestRequestContext: an interrupt ends what waits long, not what is short.
func TestRequestContext(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	cancel := make(chan struct{})
	short, long := newRequest(cancel), newRequest(cancel)
	defer long.finish()
	short.Done()
	if short.Err() != nil {
		t.Error(short.Err())
	}
	close(cancel)
	if short.Err() != nil {
		t.Error("done at once")
	}
	short.finish()
	select {
	case <-long.Done():
	case <-time.After(10 * grace):
		t.Fatal("not done")
	}
	if !errors.Is(long.Err(), context.Canceled) {
		t.Error(long.Err())
	}
	select {
	case <-short.Done():
		t.Error("done after its end")
	default:
	}
}

// TestInterrupt has a read wait for the store until its caller is killed.
func TestInterrupt(t *testing.T) {
	m, dir := mounted(t, Options{})
	m.put("f", "content")
	reading := make(chan struct{}, 10)
	m.intercept(func(ctx context.Context, op string) error {
		if op != "read" {
			return nil
		}
		reading <- struct{}{}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the store: %w", ctx.Err())
		case <-time.After(time.Minute):
			return errors.New("nobody interrupted")
		}
	})
	r := startAgent(t, dir, nil)
	if err := r.in.Encode(order{Op: "read", Path: "f"}); err != nil {
		t.Fatal(err)
	}
	<-reading
	start := time.Now()
	if err := r.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	r.cmd.Wait()
	if took := time.Since(start); took > 10*grace {
		t.Errorf("dead after %v", took)
	}
}

// TestPanic costs one request and one line.
func TestPanic(t *testing.T) {
	var out syncBuffer
	m, dir := mounted(t, Options{Log: out.logger()})
	m.put("f", "content")
	m.intercept(func(_ context.Context, op string) error {
		if op == "setattr" {
			panic("a bug")
		}
		if op == "read" {
			return errors.New("the store is on fire")
		}
		return nil
	})
	r := startAgent(t, dir, nil)
	if rep := r.try(order{Op: "chmod", Path: "f", N: 0o600}); rep.Errno != int(syscall.EIO) {
		t.Error(rep)
	}
	if got := out.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "a bug") {
		t.Errorf("logged %q", got)
	}
	for range 5 {
		if rep := r.try(order{Op: "read", Path: "f"}); rep.Errno != int(syscall.EIO) {
			t.Error(rep)
		}
	}
	if got := out.String(); strings.Count(got, "on fire") != 1 {
		t.Errorf("logged %q", got)
	}
	r.do(order{Op: "stat", Path: "f"})
}
