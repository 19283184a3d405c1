package log

import "errors"

// The kinds of error. Errors of the store (backend.Err…) come through wrapped.
var (
	// ErrRollback: the store no longer shows a commit that this device has seen.
	ErrRollback = errors.New("the store went back behind what this device has seen")
	// ErrFork: the store shows another history than this device has seen.
	ErrFork = errors.New("the store shows a history other than the one this device has seen")
	// ErrNewer: a commit of a newer format or suite. Nothing is wrong with it.
	ErrNewer = errors.New("a newer version of kist wrote here; update kist on this machine")
	// ErrWithheld: the store does not show, or shows differently each time,
	// something that must exist. Asking again later is safe.
	ErrWithheld = errors.New("the store withholds or changes what it must show")
	// ErrVault: there is no vault that verifies under this id.
	ErrVault = errors.New("the store has no such vault, or its first commit does not verify")
	// ErrNotMember: no wrap opens with this identity's keys.
	ErrNotMember = errors.New("this identity has no key of the vault")
	// ErrNoTrust: the trust file is missing or damaged on a machine that had one.
	ErrNoTrust = errors.New("the memory of what this device has seen is missing or damaged")
	// ErrOldTrust: the trust file is an older one, put back.
	ErrOldTrust = errors.New("the memory of what this device has seen is not the newest it had")
	// ErrForgotten: this device remembers no head on which it could stand while the
	// store is away.
	ErrForgotten = errors.New("this device has not seen the vault before")

	// ErrLost: the slot holds something else. Follow with Next until it returns
	// nil, then prepare again.
	ErrLost = errors.New("another commit took the slot")
	// ErrUnknown: whether the commit arrived is not known. Call Append again
	// with the same Pending.
	ErrUnknown = errors.New("whether the commit arrived is not known")
	// ErrPending: bytes for this slot are on their way; no others are signed.
	ErrPending = errors.New("another commit for this slot is on its way")
	// ErrRole: the identity's role, or its device's state, forbids the commit.
	ErrRole = errors.New("this identity or device may not append that here")
	// ErrBody: the body breaks a rule of the format; a mistake of the caller.
	ErrBody = errors.New("not a body that can be committed")
)
