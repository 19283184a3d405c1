package log

import (
	"context"

	"kist/crypto/keys"
	"kist/crypto/seal"
)

// Log is one vault's chain, open on this device.
type Log struct{}

// Create makes a new vault with this identity as its only owner: genesis in
// slot 0 with root as the tree's state. The store must be known to honour
// conditional writes. The vault's id is random, so an error leaves at most a
// stranger behind; calling again makes another vault.
func Create(ctx context.Context, cfg Config, root []byte) (*Log, error) { panic("shape") }

// Open finds and verifies the head. The trust file is durable before it returns.
func Open(ctx context.Context, cfg Config) (*Log, error) { panic("shape") }

func (l *Log) Vault() seal.VaultID { panic("shape") }

// Head is the newest commit seen.
func (l *Log) Head() *Commit { panic("shape") }

// Role is this identity's role after the head.
func (l *Log) Role() Role { panic("shape") }

// Next asks for the next slot and returns the commit that stands there, nil if
// there is none yet.
func (l *Log) Next(ctx context.Context) (*Commit, error) { panic("shape") }

// Check reads the head's slot again, and the slots behind it: does the store
// still show what it showed?
func (l *Log) Check(ctx context.Context) error { panic("shape") }

// Prepare signs and seals a commit for the next slot. It asks nothing of the
// network. The caller makes Pending.Bytes durable before Append.
func (l *Log) Prepare(b Body) (*Pending, error) { panic("shape") }

// Append puts p into its slot. nil: it is the head now, and was read back.
// ErrLost: the slot holds something else; Next, then prepare again. Any other
// error: unknown; Append the same Pending again (after a restart: Resume).
func (l *Log) Append(ctx context.Context, p *Pending) error { panic("shape") }

// Resume takes up bytes that were journalled before a crash, with the same
// answers as Append. Call it before Prepare.
func (l *Log) Resume(ctx context.Context, pending []byte) error { panic("shape") }

// At returns the commit in a slot at or below the head. nil without error: the
// slot is void.
func (l *Log) At(ctx context.Context, seq uint64) (*Commit, error) { panic("shape") }

// WriteHint tells other machines where the head is. Call it at unmount and
// after commits whose sequence is a multiple of 64.
func (l *Log) WriteHint(ctx context.Context) error { panic("shape") }

// EpochKey derives a key of the vault from the secret of an epoch. For epochs
// up to that of the head; older ones may ask the store.
func (l *Log) EpochKey(ctx context.Context, epoch uint32, label seal.Label) (seal.Key, error) { panic("shape") }

// Trust is the memory of this device.
type Trust struct{}

// Files keeps the two copies. ReadFile's error for a missing one is
// fs.ErrNotExist. WriteFileDurable replaces a file as a whole and returns when
// file and folder are synced.
type Files interface {
	ReadFile(name string) ([]byte, error)
	WriteFileDurable(name string, data []byte) error
}

// NewTrust starts the memory of a fresh device; it refuses where one exists.
func NewTrust(files Files, key seal.Key, store [32]byte) (*Trust, error) { panic("shape") }

// OpenTrust reads the newer copy that verifies; ErrNoTrust if there is none.
func OpenTrust(files Files, key seal.Key, store [32]byte) (*Trust, error) { panic("shape") }

func (t *Trust) Vault(v seal.VaultID) (Head, bool)        { panic("shape") }
func (t *Trust) Identity(id keys.IdentityID) (Head, bool) { panic("shape") }
func (t *Trust) Slots() map[seal.VaultID]uint8            { panic("shape") }
func (t *Trust) SetSlot(v seal.VaultID, slot uint8) error { panic("shape") }
func (t *Trust) Reset(v seal.VaultID, to Head) error      { panic("shape") }
