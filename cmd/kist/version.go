package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"kist/crypto/keys"
	"kist/fs/drive"
)

func versionVerb() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version of the program and of the store's format", Args: args(0, 0),
		Run: func(*cobra.Command, []string) {
			fmt.Printf("kist %s, format %d\n", drive.Version(), keys.StoreFormat)
		}}
}

func stretchVerb() *cobra.Command {
	return &cobra.Command{Use: drive.StretchVerb, Hidden: true, Args: args(0, 0),
		RunE: func(*cobra.Command, []string) error {
			drive.Harden()
			return keys.ServeStretch(os.Stdin, os.Stdout)
		}}
}
