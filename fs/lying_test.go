package fs

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"kist/backend"
	"kist/backend/liar"
	"kist/backend/s3"
)

// B3: holes are holes because a sealed page says so. They come back exact.
func TestHolesAreExact(t *testing.T) {
	d := newDrive(t)
	a := d.machine("a")
	f := a.write(RootIno, "sparse", "head")
	zeros := strings.Repeat("\x00", 5000)
	a.put(f, "middle", 2<<20+5)
	a.put(f, zeros, 3<<20) // zeros that were written are data
	_, err := a.v.Setattr(context.Background(), f, SetAttr{Mask: SetSize, Size: 5<<20 + 1})
	d.check(err)
	want := survey(a.v, nil)
	a.sync()
	b := d.machine("b")
	if want.hold(t, survey(b.v, want), "second machine") != 0 {
		t.Fatal("not readable")
	}
	ino, err := b.at("sparse")
	d.check(err)
	at, err := b.v.Seek(context.Background(), ino, 3<<20+5000, SeekHole)
	if err != nil || at != 3<<20+5000 {
		t.Fatal("no hole where one was left:", at, err)
	}
	if at, err = b.v.Seek(context.Background(), ino, 1<<20, SeekData); err != nil || at != 2<<20+5 {
		t.Fatal("no data where some was written:", at, err)
	}
}

// B2, B5: a server that speaks S3 and lies in answers to ranges, seen through the vault.
func TestLyingServer(t *testing.T) {
	d := newDrive(t)
	a := d.machine("a")
	furnish(a)
	a.write(RootIno, "big", randomText(600<<10)) // alone in its request
	a.sync()
	truth := survey(a.v, nil)
	p := a.pointer("big")
	server := liar.New("bucket", "", d.store, 100)
	srv := httptest.NewServer(server)
	defer srv.Close()
	defer server.Close()
	open := func() *machine {
		spec, err := backend.Parse("s3://bucket/?endpoint=" + srv.URL)
		d.check(err)
		st, err := s3.OpenWith(spec, "access", "secret")
		d.check(err)
		b := a.reopened(st)
		d.check(b.open())
		return b
	}
	whole := d.store.Peek(d.packKey(p))
	older := bytes.Clone(whole)
	older[p.Offset] ^= 1
	cut := func(from, to uint32) func(*liar.Answer) {
		return func(a *liar.Answer) { a.Body = bytes.Clone(older[from:to]) }
	}
	for name, lie := range map[string]func(*liar.Answer){
		"shorter":        func(a *liar.Answer) { a.Body = a.Body[:len(a.Body)-1] },
		"much shorter":   func(a *liar.Answer) { a.Body, a.Chunked = a.Body[:99], true },
		"longer":         func(a *liar.Answer) { a.Body = append(a.Body, 0) },
		"nothing":        func(a *liar.Answer) { a.Body = nil },
		"another range":  cut(0, p.SealedLen),
		"older object":   cut(p.Offset, p.Offset+p.SealedLen),
		"another object": func(a *liar.Answer) { a.Body = []byte(randomText(len(a.Body))) },
		"error page":     func(a *liar.Answer) { a.Status, a.Body = 200, []byte("<Error><Code>SlowDown</Code></Error>") },
		"whole object":   func(a *liar.Answer) { a.Status, a.Body = 200, whole; a.Header.Del("Content-Range") },
		"other offset": func(a *liar.Answer) {
			a.Header.Set("Content-Range", fmt.Sprintf("bytes 1-%d/%d", len(a.Body), len(whole)))
		},
	} {
		b := open()
		ino, err := b.at("big")
		d.check(err)
		attr, err := b.v.Getattr(context.Background(), ino)
		d.check(err)
		server.SetHook(func(r liar.Request) liar.Lie {
			if r.Op == liar.Get && r.Range != "" {
				return liar.Lie{Bend: lie}
			}
			return liar.Lie{}
		})
		got := readAll(b.v, attr, truth["/big:content"])
		server.SetHook(nil)
		if !strings.HasPrefix(got, failed) {
			t.Errorf("%s: %.60q", name, got)
		}
		if truth.hold(t, survey(b.v, truth), name) != 0 {
			t.Errorf("%s: not readable afterwards", name)
		}
	}
	var asked atomic.Int64
	server.SetHook(func(liar.Request) liar.Lie {
		n := asked.Add(1)
		return liar.Lie{Bend: func(a *liar.Answer) {
			for _, name := range []string{"ETag", "X-Amz-Meta-Size", "X-Amz-Meta-Mtime", "Content-Type", "X-Amz-Version-Id", "X-Amz-Storage-Class", "Date", "Age"} {
				a.Header.Set(name, hex.EncodeToString([]byte(randomText(8))))
			}
			a.Header.Set("Last-Modified", time.Unix(n*1e7, 0).UTC().Format(http.TimeFormat))
		}}
	})
	if truth.hold(t, survey(open().v, truth), "random headers") != 0 || asked.Load() == 0 {
		t.Error("random headers were not borne")
	}
}
