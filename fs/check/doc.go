// Package check reads a vault in its store from one end to the other and says
// what does not verify. It is the oracle that integration tests end with, and
// the «check» command.
//
// # What it promises
//
//   - It reads the store and nothing else: no cache, no journal. It writes
//     nothing, neither to the store nor to the trust file, of which it uses a copy
//     in memory.
//   - A clean report means that the log was walked from genesis to its head, each
//     slot judged by all rules and by the state before it; that every identity
//     object named there verifies and continues the one before; that every page
//     of the head's tree was fetched, verified and decoded strictly; and that the
//     tree keeps the rules that no single page can show: inode numbers once, names
//     and link counts equal, extents within their file, numbers below their
//     device's mark.
//   - Of content, without ReadData, it verifies only that each pack exists and
//     reaches as far as it is referred to (one request a pack). With ReadData,
//     every pack is read whole and compared with its name and footer, every piece
//     of content is opened, and this for the trees of all commits; identity
//     objects of strangers are read, too. Report.Scope says which it was.
//   - One run lists everything: after a problem it goes on with what can still be
//     reached, also behind a page that is gone.
//   - What nobody refers to (packs of interrupted commits, junk in slots) is
//     counted and noted, and is damage only if it contradicts its own name, or if
//     a member has signed it as a commit.
//   - An error of a store that is away is returned as it is, never told as
//     damage. What contradicts the memory of this device is returned as the error
//     of package log that says so, after everything else was looked at.
//   - No name of a file is in a report unless Config.Names asks for it.
//
// # Who is trusted
//
// The session and the copied memory are. The store is not: a listing is used to
// find what nobody refers to and to save requests, and is believed in nothing.
// Nor are the members: a tree that a hostile writer has made costs time in
// proportion to what is stored, pages that many parents share included.
//
// # Memory
//
// One page path, one batch of log slots, a few packs. What grows with the vault
// is a set of numbers and fingerprints: 32 bytes and map overhead for each page,
// 16 for each piece of content (ReadData), a few bits for each inode, a row for
// each file with several names and each pack.
//
// # Locks
//
// A run has one goroutine but for reads ahead and the packs nobody has read yet;
// the report has a lock because of those.
package check
