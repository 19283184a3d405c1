// Package journal is the durable local record of what is not yet in the store:
// an ordered list of numbered records in append-only, sealed segment files.
//
// Promises. What Sync acknowledged is there after kill -9 and power loss. What
// Open gives back is a prefix of what was appended, each record as it was
// appended or not at all, with a running hash that any two views of one
// history share. A disk that fails is answered by a fresh segment, then by
// refusal, never by silence. A full disk is reported before anything is
// promised, and deletions still fit. What cannot be understood is put aside and
// reported, and deleted only by Forget.
//
// Trust. The directory is hostile ground: whoever reads it learns sizes and
// times, and whoever writes to it can destroy, and can put back an older whole
// copy (which the positions in the log reveal), but can plant nothing. The
// caller is trusted with the meaning of kinds and meta.
//
// Locks. Journal.io is held by the one goroutine that writes, syncs, starts or
// removes segments; Journal.mu guards the fields. io is taken before mu; mu is
// held over disk calls only to allocate space and to start a segment. Nothing
// is called back under a lock. The package starts no goroutine.
//
// Callers of Append hand over a raw payload for good; other bytes are copied.
// What Payload returns must not be changed.
package journal
