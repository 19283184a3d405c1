package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"kist/fs/drive"
)

func trustVerb() *cobra.Command {
	return group("trust", "What this machine remembers of the store", trustResetVerb())
}

func trustResetVerb() *cobra.Command {
	var pass passFlags
	var head string
	cmd := &cobra.Command{
		Use:   "reset [--head H] STORE",
		Short: "Accept the store as it is now, against what this machine remembers",
		Long: "Accept the store as it is now, against what this machine remembers. This is the way out of a state folder\n" +
			"that was restored or damaged, and of a store that was restored from a backup. It gives up the proof that\n" +
			"nothing was taken back since. It is recorded in the log.",
		Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			root, err := homes()
			if err != nil {
				return err
			}
			confirm := func(remembered, found string) error { return confirmHead(head, remembered, found) }
			if err := drive.ResetTrust(cmd.Context(), root, args[0], head, confirm, pass.current(cmd.Context())); err != nil {
				return err
			}
			fmt.Println("This machine accepts the store as it is; the log says so.")
			return nil
		},
	}
	cmd.Flags().StringVar(&head, "head", "", "accept this head and no other: `HASH` or its beginning, as kist status shows it elsewhere")
	pass.add(cmd)
	return cmd
}

const resetPhrase = "accept what the store shows"

// confirmHead asks for a typed phrase, unless the head was named by a flag.
func confirmHead(head, remembered, found string) error {
	fmt.Fprintf(os.Stderr, "This machine remembers  %s\nThe store shows         %s\n", remembered, found)
	if head != "" {
		return nil
	}
	if !isTerminal(os.Stdin) {
		return usage("there is no terminal to confirm on: name the head that is to be accepted with --head")
	}
	fmt.Fprintf(os.Stderr, "If that is right, type: %s\n> ", resetPhrase)
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != resetPhrase {
		return fmt.Errorf("not confirmed; nothing was changed")
	}
	return nil
}
