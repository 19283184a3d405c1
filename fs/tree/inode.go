package tree

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// ErrInvalid says that a caller tried to store what the format cannot hold.
var ErrInvalid = errors.New("tree: not a valid entry")

// Type is the kind of file an inode is.
type Type uint8

const (
	TypeFile    Type = 1
	TypeDir     Type = 2
	TypeSymlink Type = 3
	TypeFifo    Type = 4
	TypeSocket  Type = 5
	TypeChar    Type = 6
	TypeBlock   Type = 7
	// 8 is reserved for a link to another vault and refused.
)

// Time is a point in time since 1970; Nsec < 1e9.
type Time struct {
	Sec  int64
	Nsec uint32
}

// Xattr is one extended attribute.
type Xattr struct {
	Name  string
	Value []byte
}

// Inode is the record of one file. It is immutable once it has been Set.
// Content is Inline or Extents for a file (both empty: nothing but a hole of
// Size bytes), Dir for a directory, Target for a symlink. Inline, if there, has
// exactly Size bytes. Nlink is 1 unless the record stands in the inode table.
type Inode struct {
	Ino                 uint64
	VerOp               uint64
	VerDev              uint16
	Mode                uint16 // 07777
	Type                Type
	Uid, Gid            uint32
	Rdev                uint32
	Nlink               uint32
	Atime, Mtime, Ctime Time
	Size                uint64
	Xattrs              []Xattr // ascending by name, each name once
	Target              string
	Inline              []byte
	Extents             Extents
	Dir                 Dir
}

// Entry is what a name stands for: the record itself or, for a Linked one, the
// number of a record in the inode table. Ino and Type are those of the record;
// Set completes them where Inode is given.
type Entry struct {
	Inode  *Inode // nil if Linked
	Ino    uint64
	Linked bool
	Type   Type
}

// CheckName reports whether the format can hold name.
func CheckName(name string) error {
	if !nameOK(name) {
		return fmt.Errorf("%w: a name is 1 to 255 bytes without '/' and NUL, not \".\" or \"..\"", ErrInvalid)
	}
	return nil
}

func nameOK(s string) bool {
	return len(s) > 0 && len(s) <= MaxName && s != "." && s != ".." &&
		strings.IndexByte(s, '/') < 0 && strings.IndexByte(s, 0) < 0
}

// Key makes the key of an inode number or an offset in a Table or Extents map.
func Key(n uint64) string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], n)
	return string(b[:])
}

// KeyUint is the number that Key made a key of.
func KeyUint(key string) uint64 {
	var b [8]byte
	copy(b[:], key)
	return binary.BigEndian.Uint64(b[:])
}

// Check reports whether the format can hold the record.
func (in *Inode) Check() error {
	if !in.ok() {
		return fmt.Errorf("%w: inode record", ErrInvalid)
	}
	return nil
}

func (in *Inode) ok() bool {
	return in.Ino > 0 && in.Ino <= MaxIno && in.VerDev <= MaxDevice && in.Mode <= 0o7777 &&
		in.Nlink > 0 && in.Size <= MaxFileSize &&
		in.Atime.Nsec < 1e9 && in.Mtime.Nsec < 1e9 && in.Ctime.Nsec < 1e9 &&
		xattrsOK(in.Xattrs) && in.contentOK()
}

func xattrsOK(xs []Xattr) bool {
	for i, x := range xs {
		if len(x.Name) == 0 || len(x.Name) > MaxName || strings.IndexByte(x.Name, 0) >= 0 ||
			len(x.Value) > MaxXattrs || i > 0 && xs[i-1].Name >= x.Name {
			return false
		}
	}
	return xattrsSize(xs) <= MaxXattrs
}

func xattrsSize(xs []Xattr) (n int) {
	for _, x := range xs {
		n += 3 + len(x.Name) + len(x.Value)
	}
	return n
}

func (in *Inode) contentOK() bool {
	file, dir, link := in.Type == TypeFile, in.Type == TypeDir, in.Type == TypeSymlink
	special := in.Type == TypeChar || in.Type == TypeBlock
	switch {
	case in.Type < TypeFile || in.Type > TypeBlock,
		!special && in.Rdev != 0,
		!dir && !in.Dir.Empty(),
		!file && (len(in.Inline) > 0 || !in.Extents.Empty()),
		!link && in.Target != "",
		!file && !link && in.Size != 0:
		return false
	case link:
		return len(in.Target) > 0 && len(in.Target) <= MaxTarget &&
			in.Size == uint64(len(in.Target)) && strings.IndexByte(in.Target, 0) < 0
	case len(in.Inline) > 0:
		return len(in.Inline) <= MaxInline && in.Size == uint64(len(in.Inline)) && in.Extents.Empty()
	}
	return in.extentsOK()
}

// extentsOK checks the end of an embedded extent map, the only one that is
// always at hand. That of a paged map is checked when it is sealed.
func (in *Inode) extentsOK() bool {
	p := in.Extents.embedded()
	if p == nil {
		return true
	}
	last := len(p.keys) - 1
	return KeyUint(p.keys[last])+p.vals[last].Len <= in.Size
}
