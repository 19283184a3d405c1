package main

import (
	"time"

	"github.com/spf13/cobra"

	"kist/fs/drive"
)

func syncVerb() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "sync [--timeout D] DIR",
		Short: "Return when everything written before is in the store",
		Args:  args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if timeout < 0 {
				return usage("--timeout is a duration such as 90s or 1h")
			}
			defer progressEnd()
			return drive.Sync(cmd.Context(), args[0], timeout, progress)
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "give up after this `DURATION`, such as 90s or 1h (default: never)")
	return cmd
}
