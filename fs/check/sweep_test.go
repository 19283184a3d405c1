package check

import (
	"strings"
	"sync"
	"testing"

	"kist/backend/mem"
)

// Every byte of every object up to 64 KiB and of footers, and every 997th of
// larger ones, is flipped (fewer under the race detector); each time the object is named. To read the vault once for many flips,
// objects of different kinds are flipped together: none hides another.
func TestEveryByteCounts(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a")
	f := a.write(1, "f", noise(1, 300))
	_, err := a.v.Link(ctx, f, 1, "g")
	w.must(err)
	a.sync()
	a.write(1, "big", noise(2, 100000))
	a.sync()
	a.clean(w.store, true)

	var flips []map[string]int // each: positions by key
	together := func(keys []string) {
		var positions [][]int
		for _, k := range keys {
			positions = append(positions, sweep(len(w.store.Peek(k))))
		}
		for i := 0; ; i++ {
			flip := map[string]int{}
			for n, k := range keys {
				if i < len(positions[n]) {
					flip[k] = positions[n][i]
				}
			}
			if len(flip) == 0 {
				return
			}
			flips = append(flips, flip)
		}
	}
	logs := w.keys("/log/")
	head := logs[len(logs)-1]
	for _, k := range logs { // genesis and head alone: nothing can be read without them
		if k != logs[1] {
			together([]string{k})
		}
	}
	ids := w.keys("ids/")
	together(append(w.keys("/packs/"), logs[1], headerKey, ids[0]))
	together(ids[1:]) // this device's: without it the log does not open
	for _, k := range w.store.Keys() {
		t.Log(k[max(0, len(k)-30):], len(w.store.Peek(k)))
	}
	t.Logf("%d checks", len(flips))

	work := make(chan map[string]int)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for flip := range work {
				a.flipped(flip, head)
			}
		})
	}
	for _, flip := range flips {
		work <- flip
	}
	close(work)
	wg.Wait()
}

// sweep says which bytes of an object are flipped; of a large one all of the
// footer, too.
func sweep(size int) (at []int) {
	step, footer := stride, size
	if size > 64<<10 {
		step, footer = 997*stride, size-1024
	}
	for i := 0; i < footer; i += step {
		at = append(at, i)
	}
	for i := footer; i < size; i += stride {
		at = append(at, i)
	}
	return at
}

func (m *machine) flipped(flip map[string]int, head string) {
	s := m.store.View("flipped")
	s.SetHook(func(r mem.Request) mem.Answer {
		if at, ok := flip[r.Key]; ok {
			return mem.Answer{Bend: mem.Flip(8*at + at%8)}
		}
		return mem.Answer{}
	})
	r, err := Run(ctx, m.config(s, true))
	if away(err) {
		m.t.Errorf("%v: %v", flip, err)
	}
	for key, at := range flip {
		kind, where := KindLog, key[max(0, len(key)-16):]
		switch {
		case key == headerKey:
			kind, where = KindHeader, key
		case strings.Contains(key, "/packs/"):
			kind, where = KindPack, key[len(key)-64:len(key)-52]
		case strings.HasPrefix(key, "ids/"):
			kind = KindIdentity
		case strings.HasSuffix(key, "/0000000000000000"):
			where = "log"
		case key == head:
			kind, where = KindRefused, "log"
		}
		if !says(r.Problems, kind, where, "") {
			m.t.Errorf("byte %d of %s: %v %+v", at, key, err, r.Problems)
		}
	}
}
