package keys

import (
	"crypto/ed25519"
	"fmt"
	"io"
	"log/slog"
	"slices"

	"kist/crypto/seal"
)

// Master holds the master signing key. Keep it for the time of one command.
type Master struct {
	seed   seal.Key
	public ed25519.PublicKey
}

// NewMaster makes a new person.
func NewMaster() *Master { return masterFrom(seal.NewKey()) }

func masterFrom(seed seal.Key) *Master {
	return &Master{seed: seed, public: publicOf(seed)}
}

// Identity returns the person's id.
func (m *Master) Identity() IdentityID { return identityOf(m.public) }

// PublicKey returns the public half.
func (m *Master) PublicKey() ed25519.PublicKey { return slices.Clone(m.public) }

// Wipe overwrites the key; the Master is of no use afterwards.
func (m *Master) Wipe() { m.seed.Wipe() }

func (Master) Format(f fmt.State, _ rune)   { io.WriteString(f, redacted) }
func (Master) MarshalText() ([]byte, error) { return []byte(redacted), nil }
func (Master) LogValue() slog.Value         { return slog.StringValue(redacted) }

func (m *Master) sign(statement []byte) []byte {
	return append(statement, signWith(m.seed, statementMessage(statement))...)
}

func statementMessage(statement []byte) []byte {
	return seal.SigMessage(seal.LabelSigIdentity, statement)
}

const redacted = "[redacted]"

func publicOf(seed seal.Key) ed25519.PublicKey {
	return ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey)
}

func signWith(seed seal.Key, msg []byte) []byte {
	private := ed25519.NewKeyFromSeed(seed[:])
	defer clear(private)
	return ed25519.Sign(private, msg)
}
