// Package mount shows a vault to the kernel: it translates FUSE requests into
// calls of FS, and what others changed into invalidations. It decides nothing
// about files; what it does decide is what the kernel may remember, and which
// errno an error becomes.
//
// # What the kernel may remember
//
// Names, absent names and attributes for an hour, content and directory
// listings as long as it likes. That is sound because whatever changes behind
// the kernel's back is told to it: every FS calls the Notifier that
// SetNotifier gave it, after the change can be read. What a process on this
// machine changes through the mount, the kernel knows by itself.
//
// Content that others changed while a file was closed is dropped at once.
// While it is open its attributes are refreshed at once, its pages are dropped
// by a second worker, which may have to wait for a read in flight, and the
// next open drops them in any case.
//
// # Who holds what
//
// The kernel holds references to inodes: one for each answer that names one
// (lookup, create, mkdir, mknod, symlink, link, tmpfile, each entry of a
// readdirplus except "." and ".."). FS counts them: each of its methods that
// returns Attr for a name adds one, so does Ref, and Forget subtracts. This
// package passes every forget on and gives back, by Forget, a reference whose
// answer it could not deliver. After the unmount no forget comes any more: FS
// drops what is left when it is closed.
//
// Contexts given to FS are valid until the method returns, and are done some
// time after the caller was interrupted; see request.
//
// # Locks
//
// adapter.mu guards the tables of open files and of directory offsets, and
// dirTable.mu one directory's offsets; no FS method is called under either.
// notifier.mu guards its queue. notifier.gate is held while the kernel is
// told something, and by Unmount, and nothing is taken under it: the kernel
// may keep the notifier waiting for a request that another goroutine serves.
//
// # Rules for the process that serves a mount
//
// It must never open, stat, chdir into, map or execute anything below its own
// mountpoint: it would wait for itself. Nothing in this package does; whether
// a directory is mounted, and by whom it is used, is read from /proc.
//
// # Trust
//
// Stored modes come from other people: every mount is nosuid and nodev, and
// only the user who mounted gets in unless AllowOther says otherwise. The
// kernel enforces modes and POSIX access lists (see acl.go); a list that does
// not parse is shown to nobody and grants nothing beyond the mode.
package mount
