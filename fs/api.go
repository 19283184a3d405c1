package fs

import "kist/fs/tree"

// Ino is the number of an inode: st_ino, and the kernel's node id. A vault's
// root is RootIno.
type Ino = uint64

// RootIno is the root directory of a vault.
const RootIno Ino = 1

// Attr is what stat shows of an inode. Mode holds the type (S_IFMT) and the
// permission bits (07777); Blocks counts units of 512 bytes.
type Attr struct {
	Ino                 Ino
	Size                uint64
	Mode                uint32
	Nlink               uint32
	Uid, Gid            uint32
	Rdev                uint32
	Atime, Mtime, Ctime tree.Time
	Blocks              uint64
}

// Cred is who asks: the owner of what is created.
type Cred struct{ Uid, Gid uint32 }

// Bits of SetAttr.Mask.
const (
	SetMode uint32 = 1 << iota
	SetUid
	SetGid
	SetSize
	SetAtime
	SetMtime
	SetCtime
)

// SetAttr is a change of attributes; only the fields named by Mask count.
//
// KillPriv asks for what Linux does to a file that is changed or given away:
// S_ISUID goes, S_ISGID goes if the group may execute, security.capability
// goes. It never touches a directory.
type SetAttr struct {
	Mask                uint32
	Mode                uint32
	Uid, Gid            uint32
	Size                uint64
	Atime, Mtime, Ctime tree.Time
	KillPriv            bool
}

// WriteOpts qualify a write. Append writes at the end of the file, wherever
// that is by now; the offset given is then only the caller's belief. KillPriv
// is as in SetAttr.
type WriteOpts struct {
	Append   bool
	KillPriv bool
}

// DirEnt is one name of a directory with the attributes of its inode.
type DirEnt struct {
	Name string
	Attr Attr
}

// Statfs is what df shows. Blocks are of Bsize bytes.
type Statfs struct {
	Bsize                 uint32
	Blocks, Bfree, Bavail uint64
	Files, Ffree          uint64
	Namelen               uint32
}

// Notifier is told what others have changed, after the change can be read and
// with no lock held. It never blocks. What this machine's own calls change is
// not told: their answers say it.
type Notifier interface {
	// Entry says that name in parent now means something else, or nothing.
	Entry(parent Ino, name string)
	// Inode says that attributes changed, and nothing else.
	Inode(ino Ino)
	// Content says that content (and perhaps attributes) changed.
	Content(ino Ino)
}
