package drive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"kist/backend"
	"kist/crypto/keys"
	"kist/fs/home"
)

// An exported keyfile begins with a line that says where its store is, so that
// import needs to be told nothing; the line is a convenience and believed in
// nothing else. The keyfile without it is accepted, too.
const exportPrefix = "kist keyfile of "

// Export writes the keyfile without its device section: to w where path is "-",
// else to a new file.
func Export(ctx context.Context, root home.Root, path string, w io.Writer, ask Asker) error {
	p, err := find(ctx, root, "")
	if err != nil {
		return err
	}
	k, err := p.keyfile()
	if err != nil {
		return err
	}
	if path != "-" {
		if _, err := os.Lstat(path); err == nil {
			return fmt.Errorf("a file of that name is %w; it was left as it is", home.ErrExist)
		}
	}
	run, pass, err := unlock(ask)
	if err != nil {
		return err
	}
	defer clear(pass)
	bare, err := k.Export(run, pass)
	if err != nil {
		return err
	}
	raw := append([]byte(exportPrefix+p.spec.String()+"\n"), bare.Bytes()...)
	if path == "-" {
		_, err = w.Write(raw)
	} else {
		err = home.CreateFile(path, raw)
	}
	if err != nil {
		return err
	}
	return p.home.MarkExported()
}

func unlock(ask Asker) (keys.Stretcher, []byte, error) {
	run, err := stretch()
	if err != nil {
		return nil, nil, err
	}
	pass, err := ask()
	return run, pass, err
}

// Import brings an identity to this machine: it makes a device key, certifies
// it in the store there and then, and writes the keyfile. store may be empty
// where the export says it.
func Import(ctx context.Context, root home.Root, raw []byte, store string, ask Asker) (*Made, error) {
	said, raw := splitExport(raw)
	k, err := keys.ParseKeyfile(raw)
	if err != nil {
		return nil, err
	}
	if store == "" {
		store = said
	}
	if store == "" {
		return nil, fmt.Errorf("%w: this keyfile does not say where its store is; name the STORE after it", ErrUsage)
	}
	spec, err := parseStore(store)
	if err != nil {
		return nil, err
	}
	h, err := root.Create(k.Store().String())
	if err != nil {
		return nil, err
	}
	im := importing{place{h, spec}, k, ask}
	err = h.CreateKeyfile(func(_ []byte, mark [32]byte) ([]byte, [16]byte, error) { return im.make(ctx, mark) })
	if err != nil {
		return nil, errors.Join(err, h.Discard())
	}
	made := &Made{Store: spec.String(), StoreID: h.ID(), User: k.User(), Keyfile: h.Path("keyfile")}
	// The file that was imported is a copy in a safe place, or was.
	return made, errors.Join(h.SetStore(spec.String()), h.MarkExported())
}

func splitExport(raw []byte) (store string, keyfile []byte) {
	rest, ok := bytes.CutPrefix(raw, []byte(exportPrefix))
	if !ok {
		return "", raw
	}
	line, keyfile, _ := bytes.Cut(rest, []byte("\n"))
	return strings.TrimSuffix(string(line), "\r"), keyfile
}

type importing struct {
	place
	file *keys.Keyfile
	ask  Asker
}

func (im importing) make(ctx context.Context, mark [32]byte) ([]byte, [16]byte, error) {
	none := [16]byte{}
	st, err := im.connect(ctx)
	if err != nil {
		return nil, none, err
	}
	run, pass, err := unlock(im.ask)
	if err != nil {
		return nil, none, err
	}
	defer clear(pass)
	master, s, err := im.file.OpenMaster(run, pass)
	if err != nil {
		return nil, none, err
	}
	defer master.Wipe()
	defer s.Wipe()
	if err := enlist(ctx, st, master, s, mark); err != nil {
		return nil, none, err
	}
	if _, err := newTrust(im.home, s); err != nil {
		return nil, none, err
	}
	raw, err := sealed(run, im.file.Params(), pass, master, s)
	return raw, s.State, err
}

// enlist makes the session one of a new device of this machine, and certifies it.
func enlist(ctx context.Context, st backend.Store, master *keys.Master, s *keys.Session, mark [32]byte) error {
	if err := s.SetDevice(hostName(), mark); err != nil {
		return err
	}
	return certify(ctx, st, master, s)
}

// sealed returns the session's keyfile.
func sealed(run keys.Stretcher, cost keys.Params, pass []byte, master *keys.Master, s *keys.Session) ([]byte, error) {
	s.Version++
	k, err := keys.NewKeyfile(run, cost, pass, s, master)
	if err != nil {
		return nil, err
	}
	return k.Bytes(), nil
}

// Passwd puts the keyfile under another passphrase, as a whole or not at all.
func Passwd(ctx context.Context, root home.Root, ask, askNew Asker) error {
	p, err := find(ctx, root, "")
	if err != nil {
		return err
	}
	if _, err := p.keyfile(); err != nil {
		return err
	}
	run, pass, err := unlock(ask)
	if err != nil {
		return err
	}
	defer clear(pass)
	fresh, err := askNew()
	if err != nil {
		return err
	}
	defer clear(fresh)
	return p.home.ReplaceKeyfile(func(old []byte) ([]byte, error) {
		k, err := parseKeyfile(old, p.home.ID())
		if err != nil {
			return nil, err
		}
		if k, err = k.Reseal(run, pass, fresh, keys.LocalParams()); err != nil {
			return nil, err
		}
		return k.Bytes(), nil
	})
}

// Identity is what id show tells.
type Identity struct {
	User       string `json:"user"`
	Identity   string `json:"identity"`
	Device     string `json:"device"`
	DeviceName string `json:"device_name"`
	Store      string `json:"store"`
	StoreID    string `json:"store_id"`
	Keyfile    string `json:"keyfile"`
	Exported   bool   `json:"exported"`
}

// Show opens the keyfile and tells whose it is.
func Show(ctx context.Context, root home.Root, ask Asker) (*Identity, error) {
	p, err := find(ctx, root, "")
	if err != nil {
		return nil, err
	}
	k, err := p.keyfile()
	if err != nil {
		return nil, err
	}
	run, pass, err := unlock(ask)
	if err != nil {
		return nil, err
	}
	defer clear(pass)
	s, err := k.OpenMain(run, pass)
	if err != nil {
		return nil, err
	}
	defer s.Wipe()
	return &Identity{User: s.User, Identity: s.Identity.String(), Device: s.Device.String(), DeviceName: s.DeviceName,
		Store: p.spec.String(), StoreID: p.home.ID(), Keyfile: p.home.Path("keyfile"), Exported: p.home.Exported()}, nil
}
