package drive

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"kist/backend"
	"kist/backend/open"
	"kist/crypto/keys"
	"kist/fs/home"
)

const headerKey = "kist.json"

// parseStore reads a STORE as the user wrote it. A relative folder becomes
// absolute: the daemon stands elsewhere.
func parseStore(store string) (backend.Spec, error) {
	spec, err := backend.Parse(store)
	if err != nil {
		return spec, fmt.Errorf("%w: %w", ErrUsage, err)
	}
	if spec.Kind == backend.KindDir {
		if spec.Path, err = filepath.Abs(spec.Path); err != nil {
			return spec, err
		}
	}
	return spec, nil
}

// place is a state folder with the store it belongs to; the store has not been
// asked for anything unless the folder could not be found without it.
type place struct {
	home *home.Home
	spec backend.Spec
}

// find finds the state folder of a STORE, or of the only store known.
func find(ctx context.Context, root home.Root, store string) (place, error) {
	known, err := root.List()
	if err != nil {
		return place{}, err
	}
	if store == "" {
		switch len(known) {
		case 0:
			return place{}, fmt.Errorf("%w: this machine knows no store yet; kist init makes one, kist id import brings an identity here", ErrUsage)
		case 1:
			store = known[0].Store
		default:
			return place{}, fmt.Errorf("%w: this machine knows %d stores; name the one that is meant", ErrUsage, len(known))
		}
	}
	spec, err := parseStore(store)
	if err != nil {
		return place{}, err
	}
	for _, k := range known {
		if k.Store == spec.String() {
			h, err := root.Open(k.ID)
			return place{h, spec}, err
		}
	}
	h, err := findByHeader(ctx, root, spec)
	return place{h, spec}, err
}

// findByHeader asks the store itself who it is: it may be known under another
// address, or its folder was not finished.
func findByHeader(ctx context.Context, root home.Root, spec backend.Spec) (*home.Home, error) {
	id, err := header(ctx, spec)
	if err != nil {
		return nil, err
	}
	h, err := root.Open(id.String())
	if errors.Is(err, home.ErrUnknown) {
		return nil, fmt.Errorf("%w; bring your identity here with kist id import", err)
	}
	if err != nil {
		return nil, err
	}
	if _, err := h.Store(); err != nil { // the last step of a making that was cut short
		return h, h.SetStore(spec.String())
	}
	return h, nil
}

// header asks a store who it is.
func header(ctx context.Context, spec backend.Spec) (keys.StoreID, error) {
	st, err := open.Open(ctx, spec)
	if err != nil {
		return keys.StoreID{}, err
	}
	return readHeader(ctx, st)
}

// readHeader reads kist.json. Where it is missing the store is away.
func readHeader(ctx context.Context, st backend.Store) (keys.StoreID, error) {
	raw, err := st.Get(ctx, headerKey, keys.MaxStoreHeader)
	if errors.Is(err, backend.ErrNotExist) {
		return keys.StoreID{}, fmt.Errorf("%w: there is no %s in it; it may be the wrong folder or bucket, or one that is not mounted; nothing was changed",
			backend.ErrAway, headerKey)
	}
	if err != nil {
		return keys.StoreID{}, fmt.Errorf("reading the store's header: %w", err)
	}
	h, err := keys.ParseStoreHeader(raw)
	return h.StoreID, err
}

// connect opens the store and makes sure that it is the one the folder is for.
func (p place) connect(ctx context.Context) (backend.Store, error) {
	st, err := open.Open(ctx, p.spec)
	if err != nil {
		return nil, err
	}
	id, err := readHeader(ctx, st)
	if err != nil {
		return nil, err
	}
	if id.String() != p.home.ID() {
		return nil, fmt.Errorf("%w: the store at this address is another one than before", keys.ErrKeyfile)
	}
	return st, nil
}

// keyfile reads and parses the keyfile of a place.
func (p place) keyfile() (*keys.Keyfile, error) {
	raw, err := p.home.Keyfile()
	if err != nil {
		return nil, fmt.Errorf("%w: the state folder has none that can be read", keys.ErrKeyfile)
	}
	return parseKeyfile(raw, p.home.ID())
}

func parseKeyfile(raw []byte, id string) (*keys.Keyfile, error) {
	k, err := keys.ParseKeyfile(raw)
	if err != nil {
		return nil, err
	}
	if k.Store().String() != id {
		return nil, fmt.Errorf("%w: it belongs to another store", keys.ErrKeyfile)
	}
	return k, nil
}
