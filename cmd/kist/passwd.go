package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"kist/fs/drive"
)

func passwdVerb() *cobra.Command {
	var pass passFlags
	var newFile string
	cmd := &cobra.Command{
		Use:   "passwd [--new-passphrase-file F]",
		Short: "Put the keyfile under another passphrase",
		Args:  args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			root, err := homes()
			if err != nil {
				return err
			}
			fresh := func() ([]byte, error) {
				if newFile != "" {
					return readPassphrase(newFile)
				}
				return promptNew()
			}
			if err := drive.Passwd(cmd.Context(), root, pass.current(cmd.Context()), fresh); err != nil {
				return err
			}
			fmt.Println("Changed. Exported copies of the keyfile still open with the old passphrase.")
			return nil
		},
	}
	cmd.Flags().StringVar(&newFile, "new-passphrase-file", "", "read the new passphrase from the first line of `FILE`")
	pass.add(cmd)
	return cmd
}
