package mount

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"syscall"

	"kist/fs"
)

// POSIX access lists are extended attributes that the kernel reads, keeps in
// mind (that there is none as well) and enforces. What ties them to the mode
// is left to the file system, and is done here: an access list sets the mode's
// permission bits, chmod changes the list, and what is made in a directory
// inherits its default list instead of being subject to the umask.
const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

// Tags of entries, in the order in which a list has them.
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

const aclVersion = 2

type aclEntry struct {
	tag, perm uint16
	id        uint32
}

type acl []aclEntry

// parseACL refuses what the kernel would refuse.
func parseACL(b []byte) (acl, bool) {
	if len(b) < 4 || len(b)%8 != 4 || binary.LittleEndian.Uint32(b) != aclVersion {
		return nil, false
	}
	var l acl
	count := map[uint16]int{}
	for b = b[4:]; len(b) > 0; b = b[8:] {
		e := aclEntry{binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:]), binary.LittleEndian.Uint32(b[4:])}
		if e.perm > 7 || len(l) > 0 && e.tag < l[len(l)-1].tag {
			return nil, false
		}
		count[e.tag]++
		l = append(l, e)
	}
	named := count[aclUser] + count[aclGroup]
	ok := count[aclUserObj] == 1 && count[aclGroupObj] == 1 && count[aclOther] == 1 && count[aclMask] <= 1 &&
		(named == 0 || count[aclMask] == 1) && len(l) == 3+named+count[aclMask]
	return l, ok
}

func (l acl) encode() []byte {
	b := binary.LittleEndian.AppendUint32(nil, aclVersion)
	for _, e := range l {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

// extended tells whether the list says more than a mode can.
func (l acl) extended() bool { return len(l) > 3 }

// class returns the entry that stands for three bits of a mode: of the owner
// (shift 6), of the group (3), where a mask speaks for all groups, of others (0).
func (l acl) class(shift int) *aclEntry {
	tags := map[int][]uint16{6: {aclUserObj}, 3: {aclMask, aclGroupObj}, 0: {aclOther}}[shift]
	for _, tag := range tags {
		if i := slices.IndexFunc(l, func(e aclEntry) bool { return e.tag == tag }); i >= 0 {
			return &l[i]
		}
	}
	panic("mount: an access list without an obligatory entry")
}

var classes = []int{6, 3, 0}

// mode returns the permission bits that the list shows as.
func (l acl) mode() (perm uint32) {
	for _, shift := range classes {
		perm |= uint32(l.class(shift).perm) << shift
	}
	return perm
}

// chmod makes the list show as perm.
func (l acl) chmod(perm uint32) {
	for _, shift := range classes {
		l.class(shift).perm = uint16(perm >> shift & 7)
	}
}

// limit takes away what perm does not grant: it is the mode that a program
// asked for when it made the file.
func (l acl) limit(perm uint32) {
	for _, shift := range classes {
		l.class(shift).perm &= uint16(perm >> shift & 7)
	}
}

// readACL returns a list of ino, or nil: there is none, or none that counts.
func (a *adapter) readACL(ctx context.Context, ino fs.Ino, name string) (acl, []byte, error) {
	raw, err := a.fs.Getxattr(ctx, ino, name)
	switch {
	case errors.Is(err, noAttr), errors.Is(err, syscall.ENOTSUP):
		return nil, nil, nil
	case err != nil:
		return nil, nil, err
	}
	l, ok := parseACL(raw)
	if !ok {
		return nil, nil, nil
	}
	return l, raw, nil
}

// legacy is what a new file gets from its directory besides the mode.
type legacy []bequest

type bequest struct {
	name  string
	value []byte
}

// inherit returns the mode and the lists of what is made in parent.
func (a *adapter) inherit(ctx context.Context, parent fs.Ino, mode, umask uint32) (uint32, legacy, error) {
	l, raw, err := a.readACL(ctx, parent, aclDefault)
	if err != nil {
		return 0, nil, err
	}
	if l == nil {
		return mode &^ (umask & 0o777), nil, nil
	}
	var g legacy
	if mode&syscall.S_IFMT == syscall.S_IFDIR {
		g = append(g, bequest{aclDefault, raw})
	}
	l.limit(mode)
	if l.extended() {
		g = append(g, bequest{aclAccess, l.encode()})
	}
	return mode&^0o777 | l.mode(), g, nil
}

func (a *adapter) bestow(ctx context.Context, ino fs.Ino, g legacy) error {
	for _, x := range g {
		if err := a.fs.Setxattr(ctx, ino, x.name, x.value, 0); err != nil {
			return err
		}
	}
	return nil
}

// setACL sets an access list and the mode that it shows as. A list that says
// no more than a mode is not kept.
func (a *adapter) setACL(ctx context.Context, ino fs.Ino, value []byte, flags uint32, killSgid bool) error {
	l, ok := parseACL(value)
	if !ok {
		return syscall.EINVAL
	}
	attr, err := a.fs.Getattr(ctx, ino)
	if err != nil {
		return err
	}
	if l.extended() {
		err = a.fs.Setxattr(ctx, ino, aclAccess, value, flags)
	} else if err = a.fs.Removexattr(ctx, ino, aclAccess); errors.Is(err, noAttr) {
		err = nil
	}
	if err != nil {
		return err
	}
	mode := attr.Mode&0o7000 | l.mode()
	if killSgid {
		mode &^= syscall.S_ISGID
	}
	if mode == attr.Mode&0o7777 {
		return nil
	}
	_, err = a.fs.Setattr(ctx, ino, fs.SetAttr{Mask: fs.SetMode, Mode: mode})
	return err
}

// chmodACL brings an access list in line with a new mode.
func (a *adapter) chmodACL(ctx context.Context, ino fs.Ino, mode uint32) error {
	l, _, err := a.readACL(ctx, ino, aclAccess)
	if err != nil || l == nil {
		return err
	}
	l.chmod(mode)
	return a.fs.Setxattr(ctx, ino, aclAccess, l.encode(), 0)
}
