//go:build linux

package integration

import (
	"fmt"
	"os"
)

// childVar names the function that a copy of this binary is started for.
const childVar = "KIST_TEST_CHILD"

// children are the clients of the mounts: each runs in a process of its own.
// What one prints is its answer; an error makes it exit 1.
var children map[string]func(args []string) error

func init() {
	children = map[string]func([]string) error{
		"posix":     posixChild,
		"make-tree": func(args []string) error { return makeTree(args[0]) },
		"compare":   compareChild,
		"twin":      twinChild,
		"hold":      holdChild,
		"append":    appendChild,
		"ack":       ackChild,
		"acked":     ackedChild,
		"prefix":    prefixChild,
		"many":      manyChild,
		"entries":   entriesChild,
		"try-lock":  tryLockChild,
	}
}

func beChild(name string, args []string) int {
	f, ok := children[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "no child is called %q\n", name)
		return 2
	}
	if err := f(args); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
