package main

import (
	"fmt"
	"os"

	"kist/fs/drive"
)

// progress shows how far a long verb is: on a terminal in one line, else not at
// all.
func progress(line string) {
	if isTerminal(os.Stderr) {
		fmt.Fprintf(os.Stderr, "\r\x1b[K%s", line)
	}
}

func progressEnd() {
	if isTerminal(os.Stderr) {
		fmt.Fprint(os.Stderr, "\r\x1b[K")
	}
}

// ending shows how far the storing before an unmount is, which others wait for:
// without a terminal, too, in a line now and then.
func ending() func(string) {
	if isTerminal(os.Stderr) {
		return progress
	}
	return drive.Rarely(func(line string) { fmt.Fprintln(os.Stderr, "kist:", line) })
}
