package dir_test

import (
	"path/filepath"
	"testing"

	"kist/backend"
	"kist/backend/backendtest"
	"kist/backend/dir"
)

func TestConformance(t *testing.T) {
	backendtest.Run(t, func(t *testing.T) backend.Store {
		s, err := dir.Create(filepath.Join(t.TempDir(), "store"))
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}
