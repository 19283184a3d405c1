package drive

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/user"
	"time"

	"kist/backend"
	"kist/backend/dir"
	"kist/backend/open"
	"kist/crypto/keys"
	"kist/fs/home"
	"kist/fs/log"
	"kist/fs/tree"
)

// Made is what Init has made.
type Made struct {
	Store   string
	StoreID string
	User    string
	Keyfile string // its path
}

// Init makes an identity, the store's header and the first vault. The header
// comes last: a store has one only if it can be mounted, and the keyfile is
// durable before. Nothing that is in a store is ever overwritten.
func Init(ctx context.Context, root home.Root, store, name string, ask Asker) (*Made, error) {
	spec, err := parseStore(store)
	if err != nil {
		return nil, err
	}
	if name, err = userName(name); err != nil {
		return nil, err
	}
	st, err := openEmpty(ctx, spec)
	if err != nil {
		return nil, err
	}
	pass, err := ask()
	if err != nil {
		return nil, err
	}
	defer clear(pass)
	if err := backend.Probe(ctx, st); err != nil {
		return nil, fmt.Errorf("%w; no drive was made", err)
	}
	var id keys.StoreID
	rand.Read(id[:])
	h, err := root.Create(id.String())
	if err != nil {
		return nil, err
	}
	f := founding{st: st, home: h, id: id, user: name, pass: pass}
	if err := h.CreateKeyfile(func(_ []byte, mark [32]byte) ([]byte, [16]byte, error) { return f.make(ctx, mark) }); err != nil {
		return nil, errors.Join(err, h.Discard())
	}
	if err := f.publish(ctx); err != nil {
		return nil, err
	}
	return &Made{Store: spec.String(), StoreID: id.String(), User: name, Keyfile: h.Path("keyfile")}, h.SetStore(spec.String())
}

func userName(name string) (string, error) {
	if name == "" {
		name = "user"
		if u, err := user.Current(); err == nil && keys.ValidName(u.Username) {
			name = u.Username
		}
	}
	if !keys.ValidName(name) {
		return "", fmt.Errorf("%w: a user name has 1 to %d bytes of printable text", ErrUsage, keys.MaxName)
	}
	return name, nil
}

// openEmpty opens a store that holds no drive; a folder is made if need be, a
// bucket must exist.
func openEmpty(ctx context.Context, spec backend.Spec) (backend.Store, error) {
	if spec.Kind == backend.KindDir {
		if _, err := dir.Create(spec.Path); err != nil {
			return nil, err
		}
	}
	st, err := open.Open(ctx, spec)
	if err != nil {
		return nil, err
	}
	_, err = st.Get(ctx, headerKey, keys.MaxStoreHeader)
	if errors.Is(err, backend.ErrNotExist) {
		return st, nil
	}
	if err != nil && !errors.Is(err, backend.ErrTooLarge) {
		return nil, err
	}
	return nil, errTaken
}

var errTaken = fmt.Errorf("the store %w: it holds a drive already; nothing was changed", os.ErrExist)

// founding is an Init that is under way.
type founding struct {
	st   backend.Store
	home *home.Home
	id   keys.StoreID
	user string
	pass []byte
}

// make makes the identity and the vault, and returns the keyfile that opens
// them.
func (f *founding) make(ctx context.Context, mark [32]byte) ([]byte, [16]byte, error) {
	none := [16]byte{}
	master := keys.NewMaster()
	defer master.Wipe()
	s := keys.NewSession(f.id, f.user, master)
	defer s.Wipe()
	if err := s.SetDevice(hostName(), mark); err != nil {
		return nil, none, err
	}
	if err := f.makeIdentity(ctx, master, s); err != nil {
		return nil, none, err
	}
	trust, err := log.NewTrust(f.home.Files(), s.TrustKey(), f.id)
	if err != nil {
		return nil, none, err
	}
	root, err := emptyRoot(time.Now())
	if err != nil {
		return nil, none, err
	}
	l, err := log.Create(ctx, log.Config{Store: f.st, Session: s, Trust: trust, Now: time.Now, CheckRoot: checkRoot}, root)
	if err != nil {
		return nil, none, fmt.Errorf("making the first vault: %w", err)
	}
	s.TopVault = l.Vault()
	run, err := stretch()
	if err != nil {
		return nil, none, err
	}
	k, err := keys.NewKeyfile(run, keys.LocalParams(), f.pass, s, master)
	if err != nil {
		return nil, none, err
	}
	return k.Bytes(), s.State, nil
}

func (f *founding) makeIdentity(ctx context.Context, master *keys.Master, s *keys.Session) error {
	_, userKey := s.UserPublic()
	raw, state, err := master.Certify(nil, keys.Change{UserKey: userKey,
		Devices: []keys.NewDevice{{Public: s.DevicePublic()}}})
	if err != nil {
		return err
	}
	if _, err := createOnce(ctx, f.st, identityKey(s.Identity, state.Head.Seq), raw); err != nil {
		return fmt.Errorf("publishing the identity: %w", err)
	}
	s.Head = state.Head
	return nil
}

// publish makes the store a drive. If another init was faster, its drive
// stands, and what was made here is of no use to anybody.
func (f *founding) publish(ctx context.Context) error {
	won, err := createOnce(ctx, f.st, headerKey, keys.StoreHeader{Format: keys.StoreFormat, StoreID: f.id}.Encode())
	if err != nil {
		return fmt.Errorf("writing the store's header: %w; the keyfile is kept: if the header did arrive, kist mount goes on", err)
	}
	if !won {
		return errors.Join(errTaken, f.home.Discard())
	}
	return nil
}

func checkRoot(raw []byte) error {
	_, err := tree.ParseState(raw)
	return err
}

// emptyRoot is the state of a tree that has only its top folder, which belongs
// to whoever makes the drive.
func emptyRoot(now time.Time) ([]byte, error) {
	t := tree.Time{Sec: now.Unix(), Nsec: uint32(now.Nanosecond())}
	root := &tree.Inode{Ino: 1, Type: tree.TypeDir, Mode: 0o755, Uid: uint32(os.Getuid()), Gid: uint32(os.Getgid()),
		Atime: t, Mtime: t, Ctime: t, Nlink: 1}
	return tree.AppendState(nil, tree.State{Root: root})
}
