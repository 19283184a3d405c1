package tree

import (
	"fmt"
	"slices"
)

type step[V any, C Codec[V]] struct {
	p     *page[V, C]
	i     int  // where the key is or would be; the child to follow
	found bool // level 0
}

// Set puts v under key. On any error, Miss included, nothing has changed.
func (m *Map[V, C]) Set(e *Edit, key string, v V) error {
	var c C
	if !c.keyOK(key) || !c.valid(key, v) {
		return fmt.Errorf("%w: node kind %d", ErrInvalid, c.nodeKind())
	}
	v = c.complete(v)
	size := uint16(c.keySize(key) + c.valueSize(v)) // below MaxPage/2 for all that is valid
	if m.root == nil {
		p := &page[V, C]{owner: e, size: headerSize}
		p.insertValue(0, key, v, size)
		m.root = newRef(p)
		return nil
	}
	path, err := m.path(key)
	if err != nil {
		return err
	}
	m.own(e, path)
	last := path[len(path)-1]
	shrunk := false
	if last.found {
		shrunk = size < last.p.sizes[last.i]
		last.p.replaceValue(last.i, v, size)
	} else {
		last.p.insertValue(last.i, key, v, size)
	}
	m.settle(e, path, shrunk)
	return nil
}

// Delete removes key and reports whether it was there. On a Miss nothing has
// changed.
func (m *Map[V, C]) Delete(e *Edit, key string) (bool, error) {
	if m.root == nil {
		return false, nil
	}
	path, err := m.path(key)
	if err != nil || !path[len(path)-1].found {
		return false, err
	}
	m.own(e, path)
	last := path[len(path)-1]
	last.p.remove(last.i, last.i+1)
	m.settle(e, path, true)
	return true, nil
}

func (m *Map[V, C]) path(key string) ([]step[V, C], error) {
	path := make([]step[V, C], 0, 4)
	for r, at := m.root, atRoot; ; {
		p, err := r.load(at)
		if err != nil {
			return nil, err
		}
		if p.level == 0 {
			i, found := p.find(key)
			return append(path, step[V, C]{p, i, found}), nil
		}
		i := max(0, p.floor(key))
		path = append(path, step[V, C]{p: p, i: i})
		r, at = p.kids[i], p.below(at, i)
	}
}

// own makes every page of the path one that e may change.
func (m *Map[V, C]) own(e *Edit, path []step[V, C]) {
	if e == nil {
		panic("tree: a change without an Edit")
	}
	for d, s := range path {
		if s.p.owner == e {
			continue
		}
		path[d].p = s.p.clone(e)
		r := newRef(path[d].p)
		if d == 0 {
			m.root = r
		} else {
			path[d-1].p.kids[path[d-1].i] = r
		}
	}
}

// settle restores, from the bottom up, what a change below may have broken:
// first keys, page sizes, empty pages and a root with a single child.
func (m *Map[V, C]) settle(e *Edit, path []step[V, C], shrunk bool) {
	last := len(path) - 1
	grew := path[last].i // the item of the current page that may be new
	for d := last; d > 0; d-- {
		p, up, i := path[d].p, path[d-1].p, path[d-1].i
		at := i
		switch {
		case len(p.keys) == 0:
			up.remove(i, i+1)
		case p.size > MaxPage:
			up.setKey(i, p.keys[0])
			right := p.split(e, grew)
			up.insertKid(i+1, right)
			at = i + 1
		default:
			up.setKey(i, p.keys[0])
			if shrunk && p.size < MinPage {
				up.mergeKid(e, i)
			}
		}
		grew = at
	}
	m.settleRoot(e, path[0].p, grew)
}

func (m *Map[V, C]) settleRoot(e *Edit, p *page[V, C], grew int) {
	switch {
	case len(p.keys) == 0:
		m.root = nil
	case p.size > MaxPage:
		right := p.split(e, grew)
		top := &page[V, C]{owner: e, level: p.level + 1, size: headerSize}
		top.insertRef(0, p.keys[0], m.root)
		top.insertKid(1, right)
		m.root = newRef(top)
	}
	for m.root != nil {
		top := m.root.page.Load()
		if top == nil || top.level == 0 || len(top.kids) > 1 {
			return
		}
		m.root = top.kids[0]
	}
}

func (p *page[V, C]) clone(e *Edit) *page[V, C] {
	q := &page[V, C]{owner: e, level: p.level, size: p.size}
	q.used.Store(true)
	q.appendItems(p, 0, len(p.keys))
	return q
}

// appendItems appends items from to to of another page, without their bytes.
func (p *page[V, C]) appendItems(o *page[V, C], from, to int) {
	room := to - from + 8
	p.keys = append(slices.Grow(p.keys, room), o.keys[from:to]...)
	p.sizes = append(slices.Grow(p.sizes, room), o.sizes[from:to]...)
	if p.level == 0 {
		p.vals = append(slices.Grow(p.vals, room), o.vals[from:to]...)
	} else {
		p.kids = append(slices.Grow(p.kids, room), o.kids[from:to]...)
	}
}

func (p *page[V, C]) insertValue(i int, key string, v V, size uint16) {
	p.keys = slices.Insert(p.keys, i, key)
	p.vals = slices.Insert(p.vals, i, v)
	p.sizes = slices.Insert(p.sizes, i, size)
	p.size += int(size)
}

func (p *page[V, C]) replaceValue(i int, v V, size uint16) {
	p.size += int(size) - int(p.sizes[i])
	p.vals[i], p.sizes[i] = v, size
}

func (p *page[V, C]) insertKid(i int, kid *page[V, C]) { p.insertRef(i, kid.keys[0], newRef(kid)) }

func (p *page[V, C]) insertRef(i int, first string, kid *ref[V, C]) {
	var c C
	size := uint16(c.keySize(first) + PointerSize)
	p.keys = slices.Insert(p.keys, i, first)
	p.kids = slices.Insert(p.kids, i, kid)
	p.sizes = slices.Insert(p.sizes, i, size)
	p.size += int(size)
}

func (p *page[V, C]) setKey(i int, key string) {
	if p.keys[i] == key {
		return
	}
	var c C
	size := uint16(c.keySize(key) + PointerSize)
	p.size += int(size) - int(p.sizes[i])
	p.keys[i], p.sizes[i] = key, size
}

func (p *page[V, C]) remove(from, to int) {
	for _, n := range p.sizes[from:to] {
		p.size -= int(n)
	}
	p.keys = slices.Delete(p.keys, from, to)
	p.sizes = slices.Delete(p.sizes, from, to)
	if p.level == 0 {
		p.vals = slices.Delete(p.vals, from, to)
	} else {
		p.kids = slices.Delete(p.kids, from, to)
	}
}

// split moves the upper part of p to a new page: half of the bytes or, when what
// grew is the last item, that item alone, so that names made in order fill pages.
func (p *page[V, C]) split(e *Edit, grew int) *page[V, C] {
	at, left := len(p.keys)-1, p.size-int(p.sizes[len(p.sizes)-1])
	if grew != at || left > MaxPage {
		at, left = 0, headerSize
		for left < p.size/2 {
			left += int(p.sizes[at])
			at++
		}
		if left > MaxPage {
			at--
		}
	}
	q := &page[V, C]{owner: e, level: p.level, size: headerSize}
	q.used.Store(true)
	q.appendItems(p, at, len(p.keys))
	for _, n := range q.sizes {
		q.size += int(n)
	}
	p.remove(at, len(p.keys))
	return q
}

// mergeKid joins the small kid i, which e owns, with a neighbour that is in
// memory, if the two fit in a page.
func (p *page[V, C]) mergeKid(e *Edit, i int) {
	kid := p.kids[i].page.Load()
	for _, j := range [2]int{i - 1, i + 1} {
		if j < 0 || j >= len(p.kids) {
			continue
		}
		next := p.kids[j].page.Load()
		if next == nil || kid.size+next.size-headerSize > MaxPage {
			continue
		}
		a, b := kid, next
		if j < i {
			a, b = next, kid
		}
		sum := &page[V, C]{owner: e, level: kid.level, size: a.size + b.size - headerSize}
		sum.used.Store(true)
		sum.appendItems(a, 0, len(a.keys))
		sum.appendItems(b, 0, len(b.keys))
		at := min(i, j)
		p.remove(at+1, at+2)
		p.kids[at] = newRef(sum)
		p.setKey(at, sum.keys[0])
		return
	}
}
