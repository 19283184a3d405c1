package drive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"

	"kist/backend"
	"kist/crypto/keys"
)

const maxIdentity = 1 << 20

// Asker supplies a passphrase when it is certain to be needed.
type Asker func() ([]byte, error)

// stretch runs the memory-hungry part in a process that ends.
func stretch() (keys.Stretcher, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return keys.ChildStretch([]string{self, StretchVerb}), nil
}

// StretchVerb is the hidden verb of the process that stretches a passphrase.
const StretchVerb = "stretch"

func identityKey(id keys.IdentityID, seq uint64) string {
	return fmt.Sprintf("ids/%s/%016x", id, seq)
}

// readChain reads an identity's chain from the point that the keyfile vouches
// for to its end. A session without a recorded point reads from the beginning.
func readChain(ctx context.Context, st backend.Store, s *keys.Session) (*keys.IdentityState, error) {
	var state *keys.IdentityState
	for seq := s.Head.Seq; ; seq++ {
		raw, err := st.Get(ctx, identityKey(s.Identity, seq), maxIdentity)
		if errors.Is(err, backend.ErrNotExist) && state != nil {
			return state, s.Check(state)
		}
		if err != nil {
			return nil, fmt.Errorf("reading the identity's chain: %w", err)
		}
		next, err := keys.ParseIdentity(s.Identity, seq, raw)
		if err != nil {
			return nil, err
		}
		if state != nil {
			if err := next.Follows(state); err != nil {
				return nil, err
			}
		} else if seq > 0 && sha256.Sum256(raw) != s.Head.Hash {
			return nil, fmt.Errorf("%w: the store shows another history than the keyfile knows", keys.ErrIdentity)
		}
		state = next
	}
}

// certify adds a device to the identity's chain. It answers a lost race by
// following the winner.
func certify(ctx context.Context, st backend.Store, m *keys.Master, s *keys.Session) error {
	device := keys.NewDevice{Public: s.DevicePublic()} // without a name: the store can read it
	bare := *s                                         // Check would miss the device that is about to be certified
	bare.Device = keys.DeviceID{}
	for {
		prev, err := readChain(ctx, st, &bare)
		if err != nil {
			return err
		}
		if _, done := prev.DeviceKey(s.Device); done { // an answer that was lost
			s.Head = prev.Head
			return nil
		}
		raw, next, err := m.Certify(prev, keys.Change{Devices: []keys.NewDevice{device}})
		if err != nil {
			return err
		}
		won, err := createOnce(ctx, st, identityKey(s.Identity, next.Head.Seq), raw)
		if err != nil {
			return fmt.Errorf("certifying this device: %w", err)
		}
		if won {
			s.Head = next.Head
			return nil
		}
	}
}

// createOnce reports whether the object is there with these bytes: it may have
// been written by a call whose answer was lost.
func createOnce(ctx context.Context, st backend.Store, key string, body []byte) (bool, error) {
	err := st.Create(ctx, key, body)
	if err == nil || !errors.Is(err, backend.ErrExist) {
		return err == nil, err
	}
	there, err := st.Get(ctx, key, int64(len(body)))
	if errors.Is(err, backend.ErrTooLarge) {
		return false, nil
	}
	return err == nil && bytes.Equal(there, body), err
}

func hostName() string {
	name, err := os.Hostname()
	if err != nil || !keys.ValidName(name) {
		return "device"
	}
	return name
}
