// Package open opens the store that an address names. It exists so that package
// backend, which all layers import, imports neither AWS nor the disk.
package open

import (
	"context"
	"fmt"

	"kist/backend"
	"kist/backend/dir"
	"kist/backend/s3"
)

// Open returns the store without contacting it, so a store that is away opens,
// too. A missing directory is not made; init does that with dir.Create.
func Open(ctx context.Context, spec backend.Spec) (backend.Store, error) {
	switch spec.Kind {
	case backend.KindDir:
		st, err := dir.Open(spec.Path)
		if err != nil { // not st: a nil *dir.Store would not be a nil Store
			return nil, err
		}
		return st, nil
	case backend.KindS3:
		st, err := s3.Open(ctx, spec)
		if err != nil {
			return nil, err
		}
		return st, nil
	}
	return nil, fmt.Errorf("%w: an empty address", backend.ErrInvalid)
}
