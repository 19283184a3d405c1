package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"kist/fs/drive"
)

func initVerb() *cobra.Command {
	var pass passFlags
	var user string
	cmd := &cobra.Command{
		Use:   "init [--user NAME] STORE",
		Short: "Make an identity, a store and its first vault",
		Long: "Make an identity, the header of the store and its first vault.\n\n" +
			"STORE is dir:PATH or s3://bucket/prefix?endpoint=URL&region=R&profile=P&path_style=1.\n" +
			"A folder is made if need be; a bucket must exist.",
		Args: args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			root, err := homes()
			if err != nil {
				return err
			}
			made, err := drive.Init(cmd.Context(), root, args[0], user, pass.fresh(cmd.Context()))
			if err != nil {
				return err
			}
			fmt.Printf("Made the drive of %s in %s\nKeyfile: %s\n\n", made.User, made.Store, made.Keyfile)
			fmt.Print("Nobody can open this drive without the keyfile and the passphrase: lose either and\n" +
				"everything in the drive is lost. Put a copy of the keyfile somewhere safe:\n\n" +
				"    kist id export FILE\n\n" +
				"Then mount the drive:\n\n    kist mount DIR\n")
			return nil
		},
	}
	cmd.Flags().StringVar(&user, "user", "", "the `NAME` by which others see you (default: your login name)")
	pass.add(cmd)
	return cmd
}
