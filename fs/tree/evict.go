package tree

// Evict drops pages of st from memory that are stored and have not been used
// since the last Evict, then used ones, until at most keep bytes (encoded) are
// loaded. It returns how many still are. What is new since the last Install
// stays, whatever keep says.
func Evict(st State, keep int64) (loaded int64) {
	v := evictor{}
	v.state(st) // count
	for pass := 0; pass < 2 && v.loaded > keep; pass++ {
		v = evictor{drop: true, loaded: v.loaded, keep: keep}
		v.state(st)
	}
	return v.loaded
}

// evictor walks what is in memory. Counting, it adds to loaded; dropping, it
// takes away from it, and takes the used mark off what it spares.
type evictor struct {
	drop         bool
	loaded, keep int64
}

func (v *evictor) state(st State) {
	evictMap(v, st.Table)
	evictMap(v, st.Root.Dir)
}

func evictMap[V any, C Codec[V]](v *evictor, m Map[V, C]) {
	if m.root != nil {
		evictRef(v, m.root)
	}
}

// evictRef treats children first, so that leaves go before what leads to them,
// and a page goes only when nothing below it is left in memory.
func evictRef[V any, C Codec[V]](v *evictor, r *ref[V, C]) (gone bool) {
	p := r.page.Load()
	if p == nil {
		return true
	}
	var c C
	gone = true
	for _, kid := range p.kids {
		gone = evictRef(v, kid) && gone
	}
	for i := range p.vals {
		if in := c.inode(p.vals[i]); in != nil {
			gone = evictInode(v, in) && gone
		}
	}
	if !v.drop {
		v.loaded += int64(p.size)
		return false
	}
	if p.used.Load() {
		p.used.Store(false)
		return false
	}
	if !gone || v.loaded <= v.keep || r.ptr.Load() == nil {
		return false
	}
	r.page.Store(nil)
	v.loaded -= int64(p.size)
	return true
}

func evictInode(v *evictor, in *Inode) (gone bool) {
	gone = true
	if in.Extents.root != nil && in.Extents.embedded() == nil {
		gone = evictRef(v, in.Extents.root)
	}
	if in.Dir.root != nil {
		gone = evictRef(v, in.Dir.root) && gone
	}
	return gone
}
