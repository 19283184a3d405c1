// Package tree is the shape of a vault as values: directories, extent maps and
// the inode table, each a persistent copy-on-write paged map. It does no I/O,
// starts no goroutine and takes no lock.
//
// # What it promises
//
//   - A Map is a small value. Copying it takes a snapshot, which stays as it is
//     once the Edit under which it was made is no longer used: pages are changed
//     in place only under the Edit that made them, and copied otherwise.
//   - Maps nest: a record in one Map holds another. Whoever changes the inner one
//     sets the record again before the state is frozen. Sealing refuses what was
//     changed behind the outer one's back rather than write a page of wrong size.
//   - What is not in memory is never waited for. An operation that needs such a
//     page returns *Miss and has changed nothing; the caller fetches Miss.Ptr,
//     calls Fill and asks again. After an operation (or a Scan of the same keys)
//     succeeded, a Set or Delete of these keys finds its pages, unless Evict ran
//     in between.
//   - Decoding is strict. What Fill, ParseState and ParsePointer accept, they
//     would write again byte for byte; all else is ErrMalformed and leaves
//     nothing behind. A page is not trusted for having been opened: names, order,
//     lengths, levels and the first key its parent claims are all checked.
//   - A frozen State can be sealed while the next one is edited. Sealing only
//     reads pages; Install, the one thing that writes, does so with atomics.
//
// # Who owns what
//
// Readers (Get, Floor, Scan, Diff) of one Map may run at once, and together with
// Fill, Install, KeepChunks, Blob.Store and Blob.Move. Set and Delete need the
// Map, and everything else made under the same Edit, for themselves. Evict may
// run beside readers and a Sealing, but not beside Set or Delete.
// *Inode, and the slices in it, are immutable once they have been Set.
package tree
