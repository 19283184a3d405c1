package main

import (
	"errors"

	"github.com/spf13/cobra"

	"kist/fs/drive"
)

func checkVerb() *cobra.Command {
	var pass passFlags
	var readData, asJSON bool
	cmd := &cobra.Command{
		Use:   "check [--read-data] [--json] STORE|DIR",
		Short: "Verify what is in the store",
		Long: "Verify what is in the store, never the cache: the log, every folder, every pointer; with --read-data\n" +
			"every octet of every object. Of a mounted drive, its daemon does it and no passphrase is needed.",
		Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			root, err := homes()
			if err != nil {
				return err
			}
			report, err := drive.Check(cmd.Context(), root, args[0], readData, pass.current(cmd.Context()), progress)
			progressEnd()
			if report == nil {
				return err
			}
			return printReport(report, asJSON, err)
		},
	}
	cmd.Flags().BoolVar(&readData, "read-data", false, "read every octet of every object")
	cmd.Flags().BoolVar(&asJSON, "json", false, "for programs; the names of the fields are fixed")
	pass.add(cmd)
	return cmd
}

func printReport(r *drive.Report, asJSON bool, err error) error {
	if asJSON {
		return errors.Join(printJSON(r), err)
	}
	return err
}
