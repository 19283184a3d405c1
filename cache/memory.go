package cache

import (
	"container/list"
	"sync"
)

// unit names a piece of plaintext in memory: a row is unit 0 of its name,
// the units of a chunk file count from 1.
type unit struct {
	name name
	i    int
}

// memory is a least-recently-used list under a byte budget. Its values must
// not be changed.
type memory struct {
	mu     sync.Mutex
	budget int
	bytes  int
	order  *list.List // of held, the most recently used in front
	units  map[unit]*list.Element
}

type held struct {
	unit  unit
	value []byte
}

// overhead is about what a value costs beyond its bytes.
const overhead = 200

func newMemory(budget int) *memory {
	return &memory{budget: budget, order: list.New(), units: map[unit]*list.Element{}}
}

func (m *memory) get(u unit) ([]byte, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.units[u]
	if e == nil {
		return nil, false
	}
	m.order.MoveToFront(e)
	return e.Value.(held).value, true
}

func (m *memory) put(u unit, value []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.take(u)
	m.units[u] = m.order.PushFront(held{u, value})
	m.bytes += len(value) + overhead
	for m.bytes > m.budget {
		m.take(m.order.Back().Value.(held).unit)
	}
}

func (m *memory) take(u unit) {
	if e := m.units[u]; e != nil {
		m.bytes -= len(e.Value.(held).value) + overhead
		m.order.Remove(e)
		delete(m.units, u)
	}
}

func (m *memory) size() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return int64(m.bytes)
}

func (m *memory) drop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.order.Init()
	clear(m.units)
	m.bytes = 0
}
