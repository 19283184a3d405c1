package drive

import (
	"context"
	"errors"

	"kist/fs/home"
)

// Report is what a check has found.
type Report struct{}

var errNoCheck = errors.New("this build has no check yet")

// Check verifies what is in the store.
func Check(ctx context.Context, root home.Root, target string, readData bool, ask Asker, progress func(string)) (*Report, error) {
	_, err := find(ctx, root, target)
	return nil, errors.Join(err, errNoCheck)
}

func (d *daemon) check(context.Context, bool, func(string)) (*Report, error) { return nil, errNoCheck }
