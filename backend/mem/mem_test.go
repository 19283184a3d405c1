package mem_test

import (
	"testing"

	"kist/backend"
	"kist/backend/backendtest"
	"kist/backend/mem"
)

func TestConformance(t *testing.T) {
	// The suite breaks rules on purpose, so nobody is accused.
	backendtest.Run(t, func(t *testing.T) backend.Store { return mem.New(nil) })
}
