package check

import (
	"encoding/hex"
	"fmt"
	"sync"
)

// Kind says what a finding is about.
type Kind string

// The kinds of findings.
const (
	KindHeader   Kind = "header"   // kist.json
	KindLog      Kind = "log"      // a slot
	KindIdentity Kind = "identity" // an identity object
	KindTree     Kind = "tree"     // a page, or the state in a commit
	KindInode    Kind = "inode"    // a rule that the tree as a whole breaks
	KindDevice   Kind = "device"   // the device table
	KindContent  Kind = "content"  // pieces of a file
	KindPack     Kind = "pack"     // a pack as an object
	KindStranger Kind = "stranger" // what nobody refers to
	KindRefused  Kind = "refused"  // contradicts what this device remembers
)

// Problem is one finding. Where is an object's key, shortened, or an inode
// number; Path is empty unless Config.Names is set.
type Problem struct {
	Kind  Kind   `json:"kind"`
	Where string `json:"where"`
	What  string `json:"what"`
	Path  string `json:"path,omitempty"`
}

// maxListed bounds each list; the counts go on.
const maxListed = 1000

// Report is what a run has found. Notes are no damage.
type Report struct {
	Head     string   `json:"head"` // of the log: sequence and hash
	ReadData bool     `json:"read_data"`
	Scope    []string `json:"scope"` // what was verified, and what was not

	Commits    uint64 `json:"commits"`
	VoidSlots  uint64 `json:"void_slots"`
	Identities uint64 `json:"identity_objects"`
	Trees      uint64 `json:"trees"` // states walked: the head's, or all

	Files       uint64 `json:"files"` // in the head's tree, as all up to Bytes
	Directories uint64 `json:"directories"`
	Symlinks    uint64 `json:"symlinks"`
	Specials    uint64 `json:"specials"`
	Bytes       uint64 `json:"bytes"` // sum of the files' sizes

	Nodes             uint64 `json:"nodes"`  // pages verified
	Chunks            uint64 `json:"chunks"` // pieces of content: with ReadData opened, else located
	Packs             uint64 `json:"packs"`  // referred to by what was walked
	PackBytes         uint64 `json:"pack_bytes"`
	Unreferenced      uint64 `json:"unreferenced_packs"` // by what was walked
	UnreferencedBytes uint64 `json:"unreferenced_bytes"`
	Strangers         uint64 `json:"strangers"` // other objects
	StrangerBytes     uint64 `json:"stranger_bytes"`

	Damage   uint64    `json:"damage"` // number of problems, listed or not
	Problems []Problem `json:"problems"`
	Notes    []Problem `json:"notes"`

	mu sync.Mutex
}

// Damaged reports whether something does not verify.
func (r *Report) Damaged() bool { return r.Damage > 0 }

func (r *Report) problem(p Problem) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Damage++
	if len(r.Problems) < maxListed {
		r.Problems = append(r.Problems, p)
	}
}

func (r *Report) note(p Problem) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.Notes) < maxListed {
		r.Notes = append(r.Notes, p)
	}
}

func atSlot(seq uint64) string { return fmt.Sprintf("log/%016x", seq) }

func atPack(name [32]byte) string { return "packs/" + hex.EncodeToString(name[:6]) }

func atInode(ino uint64) string { return fmt.Sprintf("inode %d", ino) }

// atKey shortens the key of an object that may be called anything.
func atKey(key string) string {
	const ends = 24
	if len(key) > 2*ends {
		key = key[:ends] + "…" + key[len(key)-ends:]
	}
	return fmt.Sprintf("%+q", key)
}
