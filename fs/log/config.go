package log

import (
	"time"

	"kist/backend"
	"kist/crypto/keys"
	"kist/crypto/seal"
)

// Cache keeps sealed objects, as the store sent them, under their keys. It may
// lose anything; what it returns is verified again. Both calls may come from
// several goroutines.
type Cache interface {
	Get(key string) []byte // nil: not there
	Put(key string, val []byte)
}

// Config is what a Log needs. All fields but Cache, Known and CheckRoot are
// required.
type Config struct {
	Store   backend.Store
	Vault   seal.VaultID // Create fills it in
	Session *keys.Session
	Trust   *Trust
	Cache   Cache
	Now     func() time.Time

	// Known is a head that is vouched for (keyfile, invitation). The head that
	// is found must chain back to it. Genesis or zero says nothing.
	Known Head
	// CheckRoot is the strict parser of the tree's state. It must be a function
	// of the bytes alone: bytes that it refuses make a slot void for everybody.
	CheckRoot func([]byte) error
}
