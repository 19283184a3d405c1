package drive

import (
	"context"
	"errors"
	"os"

	"kist/backend"
	"kist/crypto/keys"
	"kist/crypto/seal"
	"kist/fs"
	"kist/fs/home"
	"kist/fs/journal"
	"kist/fs/log"
)

// The exit codes. Scripts rely on them.
const (
	CodeDone       = 0
	CodeFailed     = 1
	CodeUsage      = 2
	CodeDamage     = 3 // something that is or was in the store does not verify
	CodeRefused    = 4 // stale, rolled back, forked, or a copy of another device
	CodeAway       = 5 // the store is away, refuses access or took too long; also where a signal ended the waiting
	CodePassphrase = 6 // wrong passphrase, or keys that do not fit
	CodeInUse      = 7
)

var (
	// ErrUsage: the call can't succeed as it was put; nothing was tried.
	ErrUsage = errors.New("usage")
	// ErrDamage: what a check has found.
	ErrDamage = errors.New("damage found")
	// ErrNotMounted: there is no drive of kist at that folder.
	ErrNotMounted = errors.New("no kist drive is mounted there")
	// ErrDead: a drive is mounted there whose daemon is gone.
	ErrDead = errors.New("the daemon of the drive mounted there is gone")
	// ErrLeft: the storing was ended before everything was in the store.
	ErrLeft = errors.New("not everything is in the store")
	// ErrBusy: files of the drive are open.
	ErrBusy = errors.New("the drive is in use")
)

// codes is the one table from kinds of error to exit codes; the first row that
// fits counts. What is in no row is CodeFailed.
var codes = []struct {
	code int
	kind error
}{
	{CodeUsage, ErrUsage},
	{CodeUsage, keys.ErrInput},
	{CodeRefused, log.ErrRollback},
	{CodeRefused, log.ErrFork},
	{CodeRefused, log.ErrNoTrust},
	{CodeRefused, log.ErrOldTrust},
	{CodeRefused, home.ErrCloned},
	{CodeRefused, fs.ErrCloned},
	{CodeInUse, home.ErrInUse},
	{CodeInUse, journal.ErrLocked},
	{CodeInUse, ErrBusy},
	{CodePassphrase, keys.ErrPassphrase},
	{CodePassphrase, keys.ErrKeyfile},
	{CodePassphrase, log.ErrNotMember},
	{CodeDamage, ErrDamage},
	{CodeDamage, seal.ErrUnseal},
	{CodeDamage, keys.ErrIdentity},
	{CodeDamage, keys.ErrSignature},
	{CodeDamage, keys.ErrHeader},
	{CodeDamage, log.ErrWithheld},
	{CodeDamage, log.ErrVault},
	{CodeDamage, backend.ErrShort},
	{CodeDamage, backend.ErrNotExist},
	{CodeDamage, backend.ErrTooLarge},
	{CodeAway, backend.ErrAway},
	{CodeAway, backend.ErrDenied},
	{CodeAway, ErrLeft},
	{CodeAway, context.DeadlineExceeded},
	{CodeAway, os.ErrDeadlineExceeded},
	{CodeUsage, backend.ErrInvalid},
}

// Code is the exit code of an error.
func Code(err error) int {
	if err == nil {
		return CodeDone
	}
	var told *Told
	if errors.As(err, &told) {
		return told.Code
	}
	for _, row := range codes {
		if errors.Is(err, row.kind) {
			return row.code
		}
	}
	return CodeFailed
}

// Told is an error that another process has met, with that process's code.
type Told struct {
	Code    int
	Message string
}

func (t *Told) Error() string { return t.Message }
