// Package log is the chain of commits of one vault: it signs and seals them,
// finds the newest, follows, appends, and judges everything the store answers.
//
// # What it promises
//
//   - A commit is returned only after every check of the format has passed and
//     after its sequence and hash are durable in the trust file. What was shown
//     once can't be taken back unnoticed: a store that rolls back, forks, swaps
//     or withholds is an error that names both sides.
//   - One sequence is signed for once. From the moment that bytes for a slot
//     were handed to Append, the log sends these bytes and no others until the
//     slot is known to hold something else.
//   - Append returns nil only when the commit was read back from its slot.
//   - A slot has one of three verdicts: valid, stop, void. The verdict is a
//     function of the slot's bytes and of the state before it, the same for
//     every member, and no bytes are void before they were read three times.
//     Void slots are not stepped over where a writer signed that one held a commit.
//   - While the store is away, Recall stands on the head that is remembered. Before
//     anything is appended, the store is asked all that Open would have asked it.
//   - Nothing is healed in place. A log writes to the next slot, to the hint
//     and to nothing else; it never deletes, and it never lists.
//
// # Who is trusted
//
// The store is not, nor is its order of answers. Members are trusted within
// their role: a reader may write nothing, a writer may not touch membership,
// and nobody may speak for another. The cache is not trusted either: what it
// returns is verified as if the store had sent it. The trust file is trusted
// because it is authenticated under a key of this device, and durable because
// the caller's Files say so.
//
// # Locks
//
// A Log may be used from any goroutine. Calls that ask the store (Next, Append,
// Resume, Check, At, and EpochKey for an old epoch) take turns and wait for each
// other under their context; Head, Role, Prepare and Voids never wait for the
// network. Trust has a lock of its own and may serve several Logs.
package log
