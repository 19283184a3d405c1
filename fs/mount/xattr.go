package mount

import (
	"context"

	"github.com/hanwen/go-fuse/v2/fuse"

	"kist/fs"
)

// ControlXattr is an attribute of the root that holds Options.Control. It is
// never listed, never stored, and can't be changed.
const ControlXattr = "user.kist.control"

// StateXattr is an attribute of every file and folder that says where its newest state
// is: see fs.Vault.State. It is never listed, so that nothing copies it, never stored,
// and can't be changed.
const StateXattr = "user.kist.state"

// own says whether an attribute is one that this package answers itself.
func (a *adapter) own(ino fs.Ino, name string) bool {
	return name == StateXattr || a.control(ino, name)
}

func (a *adapter) control(ino fs.Ino, name string) bool {
	return a.opt.Control != "" && ino == fs.RootIno && name == ControlXattr
}

// answer copies a value that the caller may have asked only the size of.
func answer(value, dest []byte) (uint32, fuse.Status) {
	if len(dest) == 0 {
		return uint32(len(value)), fuse.OK
	}
	if len(value) > len(dest) {
		return uint32(len(value)), fuse.ERANGE
	}
	return uint32(copy(dest, value)), fuse.OK
}

func (a *adapter) GetXAttr(cancel <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	if a.control(h.NodeId, name) {
		return answer([]byte(a.opt.Control), dest)
	}
	ctx := newRequest(cancel)
	defer ctx.finish()
	if name == StateXattr {
		state, err := a.fs.State(ctx, h.NodeId)
		if err != nil {
			return 0, a.fail("getxattr", err)
		}
		return answer([]byte(state), dest)
	}
	value, err := a.fs.Getxattr(ctx, h.NodeId, name)
	if err != nil {
		return 0, a.fail("getxattr", err)
	}
	return answer(value, dest)
}

func (a *adapter) ListXAttr(cancel <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	ctx := newRequest(cancel)
	defer ctx.finish()
	names, err := a.fs.Listxattr(ctx, h.NodeId)
	if err != nil {
		return 0, a.fail("listxattr", err)
	}
	var list []byte
	for _, name := range names {
		list = append(append(list, name...), 0)
	}
	return answer(list, dest)
}

func (a *adapter) SetXAttr(cancel <-chan struct{}, in *fuse.SetXAttrIn, name string, value []byte) fuse.Status {
	if a.own(in.NodeId, name) {
		return fuse.EPERM
	}
	ctx := newRequest(cancel)
	defer ctx.finish()
	return a.fail("setxattr", a.setXattr(ctx, in, name, value))
}

func (a *adapter) setXattr(ctx context.Context, in *fuse.SetXAttrIn, name string, value []byte) error {
	if name == aclAccess {
		return a.setACL(ctx, in.NodeId, value, in.Flags, killsSgid(in))
	}
	return a.fs.Setxattr(ctx, in.NodeId, name, value, in.Flags)
}

func (a *adapter) RemoveXAttr(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	if a.own(h.NodeId, name) {
		return fuse.EPERM
	}
	ctx := newRequest(cancel)
	defer ctx.finish()
	return a.fail("removexattr", a.fs.Removexattr(ctx, h.NodeId, name))
}
