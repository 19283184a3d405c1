package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"kist/fs/drive"
)

func umountVerb() *cobra.Command {
	var noDrain bool
	cmd := &cobra.Command{
		Use:   "umount [--no-drain] DIR",
		Short: "Bring everything into the store and unmount",
		Args:  args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			left, err := drive.Umount(cmd.Context(), args[0], noDrain, ending())
			progressEnd()
			if err == nil && left.Ops > 0 {
				fmt.Fprintln(os.Stderr, "kist:", left)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&noDrain, "no-drain", false, "leave in the journal what is not yet in the store; the next mount goes on")
	return cmd
}
