package backend

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	probeRacers = 8
	probeSize   = 64
	cleanupTime = 10 * time.Second
)

// Probe finds out by experiment whether the store honours Create: a second
// Create of a key must answer ErrExist and leave the first bytes in place, and
// of eight concurrent ones exactly one must win, its bytes being those that are
// there. Where that fails it returns ErrUnsupported: without it two machines
// would overwrite each other's commits.
//
// It writes two objects under fresh random names below probe/ and deletes them,
// if the credential may delete; a good one need not. What is left behind is
// harmless. A store may still cheat later; the log notices, this does not.
func Probe(ctx context.Context, s Store) error {
	keys := []string{"probe/" + randomName(), "probe/" + randomName()}
	err := probeTwice(ctx, s, keys[0])
	if err == nil {
		err = probeRace(ctx, s, keys[1])
	}
	if ctx.Err() != nil {
		return err // no request after a cancel, not even to tidy up
	}
	clean, cancel := context.WithTimeout(ctx, cleanupTime)
	defer cancel()
	for _, key := range keys {
		derr := s.Delete(clean, key)
		if err == nil && derr != nil && !errors.Is(derr, ErrDenied) {
			err = fmt.Errorf("deleting the probe's object: %w", derr)
		}
	}
	return err
}

func probeTwice(ctx context.Context, s Store, key string) error {
	first, second := randomBytes(), randomBytes()
	if err := s.Create(ctx, key, first); errors.Is(err, ErrExist) {
		return fmt.Errorf("%w: a fresh random name is said to be taken", ErrUnsupported)
	} else if err != nil {
		return fmt.Errorf("probing conditional writes: %w", err)
	}
	switch err := s.Create(ctx, key, second); {
	case err == nil:
		return fmt.Errorf("%w: it ignores If-None-Match, a second conditional write replaced the first; use another store", ErrUnsupported)
	case !errors.Is(err, ErrExist):
		return fmt.Errorf("probing conditional writes: %w", err)
	}
	return probeRead(ctx, s, key, first)
}

func probeRead(ctx context.Context, s Store, key string, want []byte) error {
	got, err := s.Get(ctx, key, probeSize)
	if errors.Is(err, ErrNotExist) || err == nil && !bytes.Equal(got, want) {
		return fmt.Errorf("%w: it does not return what a conditional write put there; use another store", ErrUnsupported)
	}
	if err != nil {
		return fmt.Errorf("reading the probe's object back: %w", err)
	}
	return nil
}

func probeRace(ctx context.Context, s Store, key string) error {
	var bodies [probeRacers][]byte
	var outcomes [probeRacers]error
	start := make(chan struct{})
	var g errgroup.Group
	for i := range probeRacers {
		bodies[i] = randomBytes()
		g.Go(func() error {
			<-start
			outcomes[i] = s.Create(ctx, key, bodies[i])
			return nil
		})
	}
	close(start)
	_ = g.Wait() // the outcomes stand in their slice
	winner := -1
	for i, err := range outcomes {
		switch {
		case err == nil && winner >= 0:
			return fmt.Errorf("%w: two of %d concurrent conditional writes both succeeded; use another store", ErrUnsupported, probeRacers)
		case err == nil:
			winner = i
		case !errors.Is(err, ErrExist):
			return fmt.Errorf("probing concurrent conditional writes: %w", err)
		}
	}
	if winner < 0 {
		return fmt.Errorf("%w: of %d concurrent conditional writes none succeeded", ErrUnsupported, probeRacers)
	}
	return probeRead(ctx, s, key, bodies[winner])
}

func randomBytes() []byte {
	b := make([]byte, probeSize)
	rand.Read(b) // never fails: crypto/rand ends the program instead
	return b
}

func randomName() string { return hex.EncodeToString(randomBytes()[:16]) }
