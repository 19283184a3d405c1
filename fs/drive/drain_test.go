package drive

import (
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	const mib = 1 << 20
	at := time.Now()
	p := newPace(sample{at: at, ops: 100, bytes: 40 * mib, taken: 5 * mib})
	for _, c := range []struct {
		after     time.Duration
		ops       int
		bytes     int64
		taken     int64
		idle      time.Duration
		says, why string
	}{
		{500 * time.Millisecond, 100, 40 * mib, 9 * mib, 0, "100 changes, 36 MiB to store", "too early for a rate"},
		{4 * time.Second, 100, 40 * mib, 13 * mib, 0, "100 changes, 32 MiB to store, 2048 KiB/s, about 16s left", "what the store took no longer waits"},
		{7 * time.Second, 100, 40 * mib, 13 * mib, 3 * time.Second, "100 changes, 32 MiB to store, 1170 KiB/s, about 28s left", "slower"},
		{13 * time.Second, 100, 40 * mib, 13 * mib, 9 * time.Second, "100 changes, 32 MiB to store; nothing was stored for 9s", "stuck"},
		{60 * time.Second, 30, 10 * mib, 35 * mib, 0, "30 changes, 10 MiB to store, 512 KiB/s, about 20s left", "a commit counts anew"},
		{61 * time.Second, 30, 10 * mib, 37 * mib, 0, "30 changes, 8192 KiB to store, 431 KiB/s, about 19s left", "the first minute no longer counts"},
		{62 * time.Second, 30, 10 * mib, 99 * mib, 0, "30 changes, 0 B to store", "it took more than there was"},
		{130 * time.Second, 30, 10 * mib, 99 * mib, 68 * time.Second, "30 changes, 0 B to store; nothing was stored for 1m8s", "long stuck"},
	} {
		p.add(sample{at: at.Add(c.after), ops: c.ops, bytes: c.bytes, taken: c.taken})
		if p.String() != c.says || p.idle() != c.idle {
			t.Errorf("%s: idle for %v, «%v»; want %v, «%s»", c.why, p.idle(), p, c.idle, c.says)
		}
	}
}
