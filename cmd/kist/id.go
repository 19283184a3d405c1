package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"kist/fs/drive"
)

func idVerb() *cobra.Command {
	return group("id", "Your identity and this machine's device",
		idShowVerb(), idExportVerb(), idImportVerb(),
		group("device", "This machine's device", idDeviceNewVerb()))
}

func idShowVerb() *cobra.Command {
	var pass passFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Who you are here",
		Args:  args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			root, err := homes()
			if err != nil {
				return err
			}
			id, err := drive.Show(cmd.Context(), root, pass.current(cmd.Context()))
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(id)
			}
			fmt.Printf("user      %s\nidentity  %s\ndevice    %s (%s)\nstore     %s\nkeyfile   %s\n",
				id.User, id.Identity, id.DeviceName, id.Device, id.Store, id.Keyfile)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "for programs; the names of the fields are fixed")
	pass.add(cmd)
	return cmd
}

func idExportVerb() *cobra.Command {
	var pass passFlags
	cmd := &cobra.Command{
		Use:   "export FILE",
		Short: "Write the keyfile to a new file, or to standard output (-)",
		Args:  args(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			root, err := homes()
			if err != nil {
				return err
			}
			if args[0] == "-" && isTerminal(os.Stdout) {
				return usage("a keyfile is not for a terminal; name a FILE or redirect standard output")
			}
			if err := drive.Export(cmd.Context(), root, args[0], os.Stdout, pass.current(cmd.Context())); err != nil {
				return err
			}
			fmt.Fprintln(os.Stderr, "kist: exported; it opens with the passphrase of now, even if that is changed later")
			return nil
		},
	}
	pass.add(cmd)
	return cmd
}

const maxImport = 1 << 20

func idImportVerb() *cobra.Command {
	var pass passFlags
	cmd := &cobra.Command{
		Use:   "import FILE [STORE]",
		Short: "Bring an exported identity to this machine, as a new device",
		Long: "Bring an exported identity to this machine, as a new device, which is certified in the store there and then.\n" +
			"FILE may be -. STORE is needed only if it is written differently here than where the keyfile was exported.",
		Args: args(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			root, err := homes()
			if err != nil {
				return err
			}
			raw, err := readImport(args[0])
			if err != nil {
				return err
			}
			made, err := drive.Import(cmd.Context(), root, raw, append(args, "")[1], pass.current(cmd.Context()))
			if err != nil {
				return err
			}
			fmt.Printf("This machine is now a device of %s\nStore: %s\nKeyfile: %s\n", made.User, made.Store, made.Keyfile)
			return nil
		},
	}
	pass.add(cmd)
	return cmd
}

func readImport(path string) ([]byte, error) {
	f := os.Stdin
	if path != "-" {
		var err error
		if f, err = os.Open(path); err != nil {
			return nil, fmt.Errorf("the keyfile to import: %w", err)
		}
		defer f.Close()
	}
	return io.ReadAll(io.LimitReader(f, maxImport))
}

func idDeviceNewVerb() *cobra.Command {
	var pass passFlags
	cmd := &cobra.Command{
		Use:   "new [STORE]",
		Short: "Make this state folder, a copy or restored, a device of its own",
		Long: "Make this state folder, which is a copy or was restored, a device of its own. What its journal holds and the\n" +
			"store does not is carried over. If the other copy is still in use, let it store everything first (kist sync).",
		Args: args(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			root, err := homes()
			if err != nil {
				return err
			}
			done, err := drive.NewDevice(cmd.Context(), root, append(args, "")[0], pass.current(cmd.Context()))
			if err != nil {
				return err
			}
			printRenewed(done)
			return nil
		},
	}
	pass.add(cmd)
	return cmd
}

func printRenewed(done *drive.Renewed) {
	if !done.Went {
		fmt.Println("This machine is now a device of its own.")
	}
	switch {
	case done.Carried > 0:
		fmt.Printf("%d changes of the former device were not yet in the store; they are now.\n", done.Carried)
	case done.Left == 0:
		fmt.Println("The former device had nothing that was not in the store.")
	}
	if done.Left > 0 {
		fmt.Println("A former journal fits nothing in the store, or another passphrase; it could not be carried over.")
	}
	fmt.Println("The old journal is kept, sealed, below former/ in the state folder.")
}
