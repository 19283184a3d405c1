// Package integration holds the black-box tests: real mounts of the built
// program, on a plain directory and on a real S3 server, with the clients in
// other processes and with as many machines as a story needs.
//
// # Promise
//
// Every test builds a [World] of its own and ends the same way, whatever it
// did: all drives are unmounted, `kist check --read-data` finds the store
// sound (or damaged in the way the test says), no mount, process or temporary
// file is left, and no daemon reported a data race or a panic. A test that
// changes the store or the state on purpose says so; nothing is skipped, and
// what is missing on the machine fails the run with the name of the target
// that installs it.
//
// Nothing in this process ever touches a mount: a drive that hangs would take
// the tests with it. Whatever looks at files below a mount runs in a child
// with a deadline. When a deadline passes, the daemon is made to print its
// stacks, the mount is detached and the connection cut, and the test fails.
//
// Functions that compare are themselves tested: each is shown to notice every
// difference it is there to notice.
//
// # Knobs
//
// KIST_CAMPAIGN, a duration like 30m, lets the randomised tests and TestTorture run
// that long; without it they run briefly, and always. KIST_SEED repeats one run of them.
// KIST_KEEP=1 leaves the folders of failed tests in place.
package integration
