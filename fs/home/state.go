package home

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"kist/crypto/seal"
)

const (
	stateName  = "state"
	stateMagic = "kist state 1"
)

// State is the identity of a state folder. The keyfile's device section holds
// the same two values under its seal.
type State struct {
	ID   [16]byte // random, made with the device
	Mark [32]byte // of the machine's id and the place of this file on its disk
}

// Check returns the folder's state: ErrCloned if the folder was not made here,
// on this machine and in this place. A copy of the folder is another file on
// the disk, a copy of the disk is in another machine, and a restored folder is
// both new and old.
func (h *Home) Check() (State, error) {
	state, err := h.readState()
	if errors.Is(err, fs.ErrNotExist) {
		return State{}, cloned("it does not say where it was made")
	}
	if err != nil {
		return State{}, err
	}
	here, err := mark(h.Path(stateName))
	if err != nil {
		return State{}, err
	}
	if here != state.Mark {
		return State{}, cloned("it was made on another machine or has been restored")
	}
	return state, nil
}

// CheckAgainst also compares with what the keyfile says of its folder.
func (h *Home) CheckAgainst(id [16]byte, mark [32]byte) error {
	state, err := h.Check()
	if err != nil {
		return err
	}
	if state.ID != id || state.Mark != mark {
		return cloned("its keyfile belongs to another state folder")
	}
	return nil
}

func cloned(why string) error {
	return fmt.Errorf("%w: %s; two machines must not share one device; to go on here as a new device "+
		"and keep what is not yet in the store, run: kist id device new", ErrCloned, why)
}

// Maker makes a keyfile for a folder with the given mark, and says which id its
// device section gives the folder.
type Maker func(old []byte, mark [32]byte) (raw []byte, id [16]byte, err error)

// CreateKeyfile writes the first keyfile and the state with it: ErrExist if
// there is a keyfile.
func (h *Home) CreateKeyfile(make Maker) error {
	return h.locked(func() error {
		if _, err := os.Lstat(h.Path(keyfileName)); err == nil {
			return fmt.Errorf("a keyfile is %w; it was left as it is", ErrExist)
		}
		return h.install(nil, make)
	})
}

// Renew gives the folder a new identity, for a new device, together with the
// keyfile that names it. An error from make leaves everything as it was.
func (h *Home) Renew(make Maker) error {
	return h.locked(func() error {
		old, err := h.Keyfile()
		if err != nil {
			return err
		}
		return h.install(old, make)
	})
}

// install writes the new state beside the old one, since the mark covers the
// inode of the very file that is renamed into place. The state is replaced
// before the keyfile: a crash between the two leaves a folder that counts as a
// copy.
func (h *Home) install(old []byte, make Maker) error {
	f, err := os.CreateTemp(h.dir, ".new-*")
	if err != nil {
		return err
	}
	defer f.Close()
	defer os.Remove(f.Name()) // does nothing after the rename
	var state State
	if state.Mark, err = mark(f.Name()); err != nil {
		return err
	}
	raw, id, err := make(old, state.Mark)
	if err != nil {
		return err
	}
	state.ID = id
	if err := fill(f, encodeState(state)); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), h.Path(stateName)); err != nil {
		return err
	}
	return WriteFile(h.Path(keyfileName), raw) // syncs the folder
}

func mark(path string) ([32]byte, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return [32]byte{}, err
	}
	machine, err := machineID()
	if err != nil {
		return [32]byte{}, err
	}
	return seal.Hash(seal.LabelStateMark, binary.BigEndian.AppendUint64(nil, st.Ino), []byte(machine)), nil
}

func encodeState(s State) []byte {
	return fmt.Appendf(nil, "%s\n%x\n%x\n", stateMagic, s.ID, s.Mark)
}

func (h *Home) readState() (State, error) {
	raw, err := os.ReadFile(h.Path(stateName))
	if err != nil {
		return State{}, err
	}
	return parseState(string(raw))
}

func parseState(raw string) (State, error) {
	var s State
	bad := cloned("its file state is damaged")
	lines := strings.Split(raw, "\n")
	if len(lines) != 4 || len(lines[1]) != 32 || len(lines[2]) != 64 {
		return s, bad
	}
	if _, err := hex.Decode(s.ID[:], []byte(lines[1])); err != nil {
		return s, bad
	}
	if _, err := hex.Decode(s.Mark[:], []byte(lines[2])); err != nil {
		return s, bad
	}
	if string(encodeState(s)) != raw {
		return s, bad
	}
	return s, nil
}
