package main

import (
	"errors"
	"fmt"

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
	row := func(name, format string, args ...any) { fmt.Printf("%-9s %s\n", name, fmt.Sprintf(format, args...)) }
	row("head", "%s", r.Head)
	for _, line := range r.Scope {
		row("checked", "%s", line)
	}
	row("log", "%d commits, %d void slots, %d identity objects", r.Commits, r.VoidSlots, r.Identities)
	row("tree", "%d files, %d folders, %d symlinks, %d others; %d bytes", r.Files, r.Directories, r.Symlinks, r.Specials, r.Bytes)
	row("store", "%d pages, %d pieces of content in %d packs, %d bytes", r.Nodes, r.Chunks, r.Packs, r.PackBytes)
	if r.Unreferenced+r.Strangers > 0 {
		row("store", "also %d packs that nothing refers to, %d bytes, and %d other objects, %d bytes",
			r.Unreferenced, r.UnreferencedBytes, r.Strangers, r.StrangerBytes)
	}
	for _, p := range r.Notes {
		row("note", "%s %s: %s", p.Kind, p.Where, p.What)
	}
	for _, p := range r.Problems {
		row("DAMAGE", "%s %s: %s", p.Kind, p.Where, p.What)
	}
	switch {
	case r.Damaged():
		row("result", "%d things do not verify", r.Damage)
	case err == nil:
		row("result", "no damage found")
	}
	return err
}
