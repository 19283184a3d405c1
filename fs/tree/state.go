package tree

import "fmt"

// State is a whole vault at one moment: the root directory's record and the
// records of files with more than one name.
type State struct {
	Root  *Inode
	Table Table
}

const stateVersion = 1

// AppendState appends what a commit carries of a state: the root's record, whose
// directory is a pointer, and the pointer to the inode table, if it has one. All
// pages must be stored.
func AppendState(dst []byte, st State) ([]byte, error) {
	w := writer{}
	dst = st.append(dst, &w)
	return dst, w.err
}

func (st State) append(dst []byte, w *writer) []byte {
	if st.Root == nil || st.Root.Type != TypeDir || st.Root.Nlink != 1 || !st.Root.ok() {
		w.fail("no root directory")
		return dst
	}
	dst = st.Root.append(append(dst, stateVersion), w)
	if st.Table.root == nil {
		return append(dst, 0)
	}
	return w.node(append(dst, 1), st.Table.root, st.Table.root.ptr.Load())
}

// ParseState decodes what AppendState wrote. No page is in memory then.
func ParseState(b []byte) (State, error) {
	r := reader{b: b}
	r.require(r.u8() == stateVersion)
	st := State{Root: r.inode()}
	r.require(st.Root.Type == TypeDir && st.Root.Nlink == 1)
	switch r.u8() {
	case 0:
	case 1:
		st.Table = Table{storedRef[*Inode, TableCodec](r.pointer(KindTable))}
	default:
		r.bad = true
	}
	if r.bad || len(r.b) != 0 {
		return State{}, fmt.Errorf("%w: state", ErrMalformed)
	}
	return st, nil
}
