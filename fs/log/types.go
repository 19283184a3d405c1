package log

import (
	"encoding/hex"
	"fmt"
	"time"

	"kist/crypto/keys"
	"kist/crypto/seal"
)

// Hash is the hash of a commit, of an identity object or of a slot's bytes.
type Hash [32]byte

// Short is the form in which a hash is shown to people.
func (h Hash) Short() string { return hex.EncodeToString(h[:4]) }

// Head is a place in a chain: a sequence and the hash of what stands there.
type Head struct {
	Seq  uint64
	Hash Hash
}

// String is the form that two people compare by voice.
func (h Head) String() string { return fmt.Sprintf("%d (%s)", h.Seq, h.Hash.Short()) }

// Kind says what a commit may change.
type Kind uint8

const (
	Ordinary   Kind = 1 // the tree, and the author's own row in the device table
	Membership Kind = 2 // members, roles, epoch, and nothing else
	Numbering  Kind = 3 // a new row for the author's device, and nothing else
)

// Role is what a member may do.
type Role uint8

const (
	Reader Role = 1 // append nothing
	Writer Role = 2 // append ordinary and numbering commits
	Owner  Role = 3 // append everything
)

// Range is the part of a pack in which a commit's new nodes lie.
type Range struct {
	Pack     [32]byte
	Off, Len uint32
}

// DeviceRow says up to where a device's operations are contained in the tree.
type DeviceRow struct {
	Device  keys.DeviceID
	Number  uint16   // 1..MaxDevice, never given to another device
	HighIno uint32   // counter of the highest inode the device made
	Journal [16]byte // id of its journal
	Op      uint64   // last operation contained
	Run     [32]byte // the journal's running hash at Op
}

// Void names a slot that holds no commit.
type Void struct {
	Seq  uint64
	Hash Hash // SHA-256 of the slot's bytes
}

// VaultHead is a head of another vault that the author has seen.
type VaultHead struct {
	Vault seal.VaultID
	Head
}

// IdentityHead is the newest point of an identity's chain known in the log.
type IdentityHead struct {
	Identity keys.IdentityID
	Head
}

// Member is one identity of a vault.
type Member struct {
	Identity keys.IdentityID
	Role     Role
	Pin      Head // the point of its chain that the owner saw when giving the role
}

// Roster is what a membership commit says.
type Roster struct {
	Nonce    [32]byte // makes the roster's hash unguessable
	Members  []Member // by identity, ascending
	Epoch    uint32
	ESCommit [32]byte // commitment to the epoch secret
	Past     []Head   // every earlier membership commit, genesis first
}

// Summary counts, for people, what a commit did.
type Summary struct {
	Created, Changed, Removed uint32
	Bytes                     uint64
}

// Override records that a person told a device to accept a store's head that
// contradicts what the device remembered.
type Override struct {
	Vault              seal.VaultID
	Remembered, Accept Head
}

// Commit is one verified step of a vault. It is shared: nobody changes it.
type Commit struct {
	Head
	Epoch uint32
	Prev  Hash

	Kind     Kind
	Author   keys.IdentityID
	Device   keys.DeviceID
	Identity Head // the point of the author's chain that certifies Device
	Time     time.Time

	Root       []byte // state of the tree, opaque here
	Nodes      []Range
	Devices    []DeviceRow // by number, ascending
	Identities []IdentityHead
	Voids      []Void // the slots between the commit before and this one
	Heads      []VaultHead
	RosterAt   Head    // the membership commit before this one; zero in genesis
	Roster     *Roster // in force after this commit
	Summary    Summary
	Override   *Override
}

// Body is what a caller puts into the next commit. The log adds the rest:
// author, device, time, voids, roster, epoch.
type Body struct {
	Kind     Kind
	Root     []byte      // Ordinary only; other kinds keep the tree as it is
	Nodes    []Range     // Ordinary only
	Row      *DeviceRow  // Ordinary, Numbering: the row of this device (Device is filled in); nil keeps it
	Members  []NewMember // Membership only: everybody who is to be a member
	Rotate   bool        // Membership only: start a new epoch; forced when somebody leaves
	Heads    []VaultHead
	Summary  Summary
	Override *Override
}

// NewMember gives a role to an identity as its chain stands at State.
type NewMember struct {
	State *keys.IdentityState
	Role  Role
}

// Pending is a signed and sealed commit that waits for its slot.
type Pending struct {
	Head
	Bytes []byte
}

// Row returns the row of a device, or nil.
func (c *Commit) Row(d keys.DeviceID) *DeviceRow {
	for i := range c.Devices {
		if c.Devices[i].Device == d {
			return &c.Devices[i]
		}
	}
	return nil
}

// RoleOf returns the role of an identity after this commit; zero for none.
func (c *Commit) RoleOf(id keys.IdentityID) Role {
	for _, m := range c.Roster.Members {
		if m.Identity == id {
			return m.Role
		}
	}
	return 0
}

// Ahead reports whether the commit's time lies more than an hour after now:
// worth a warning, never a reason to refuse.
func (c *Commit) Ahead(now time.Time) bool { return c.Time.Sub(now) > time.Hour }
