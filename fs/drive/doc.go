// Package drive puts a drive together: store, header, state folder, keyfile,
// log, engine and mount; and it is the conversation between the verbs of the
// command line and the daemon that serves a mount.
//
// # Promise
//
// Every verb of the command line is one call of this package. A call takes its
// passphrase as a function, so that it is asked for only when everything that
// can be refused without it has been checked.
//
// A daemon serves one store from one state folder, whose lock it holds from
// before its first request until its end. [Start] returns when the mount is
// usable, or with the daemon's own error; the passphrase reaches the daemon
// through a pipe, never through arguments, environment or disk, and the keyfile
// is stretched in a further process that ends. The daemon is found through its
// mount: an extended attribute of its top (see fs/mount) names a socket, which only its user can reach. A verb's answer is an exit code and a
// message made by the daemon; so a verb acts alike whoever carries it out.
//
// However a mount ends, what is not in the store is stored first, as long as that
// makes progress: end.go. What is left is in the journal, and the end says how
// much; a daemon that only stores gives way to the next mount.
//
// A store whose kist.json is missing is away (backend.ErrAway), never empty:
// an empty bucket of the right name may be the wrong one, or a mount that is
// missing. A mount does not need the store (see fs.Open); before its first use, and
// after each outage, the store must show the id that the folder is for.
//
// # Trust
//
// The store is not trusted; see fs/log. The socket trusts the user that owns
// the state folder, and root.
//
// # Locks
//
// The state folder's, see fs/home. A daemon's own state is guarded by
// daemon.mu; it is never held while anything is asked of the store.
package drive
