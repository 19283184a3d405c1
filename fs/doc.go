// Package fs is an open vault: inodes, open files, reads and writes, commits, and
// what others did. It is the one place where tree, journal, log, cache and store meet.
//
// # What it promises
//
//   - An operation is in the live tree and in the journal (in memory) when its call
//     returns; on this disk when Fsync returns, and within a second unasked; in the
//     store when Sync returns.
//   - After a crash the tree is the newest commit with a prefix of the operations on
//     top, and the prefix contains all that was acknowledged as durable.
//   - A commit is written in the order chunks, nodes, commit, and read in the reverse
//     order. Its exact bytes are in the journal, synced, before the first of them
//     leaves: what is sent again is what was sent before.
//   - An operation takes effect once. The log's device table says up to where this
//     device's operations are contained; replay starts behind that and nowhere else.
//   - While the store is away a vault opens all the same, on the head that this
//     machine remembers, and goes on from there when the store is back. Nothing is
//     written to a store before it has shown that head.
//   - What two machines changed at once is kept twice; docs/CONFLICTS.md is the table,
//     rebase its implementation.
//
// # Who is trusted
//
// This machine while it is unlocked. Not the store: everything that arrives is checked
// against the fingerprint that the log's signed chain leads to. Not the cache. Members
// may write what their role allows, in their own name.
//
// # Locks
//
// See Vault: turn before mu, and nothing slow under mu.
package fs
