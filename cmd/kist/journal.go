package main

import (
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"kist/fs/drive"
)

func journalVerb() *cobra.Command {
	return group("journal", "What waits on this machine, and what was found damaged there", journalInspectVerb(), journalForgetVerb())
}

func journalInspectVerb() *cobra.Command {
	var pass passFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "inspect [--json] [STORE]",
		Short: "Show what is not yet in the store, by name, and what was put aside as damaged",
		Long: "Show what is not yet in the store, by name, and what was put aside as damaged. Nothing is changed and the\n" +
			"store is not asked: what was stored since the last commit that this machine saw is still shown as waiting.",
		Args: args(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			root, err := homes()
			if err != nil {
				return err
			}
			r, err := drive.InspectJournal(cmd.Context(), root, append(args, "")[0], pass.current(cmd.Context()))
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(r)
			}
			printJournal(r)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "for programs")
	pass.add(cmd)
	return cmd
}

func journalForgetVerb() *cobra.Command {
	return &cobra.Command{
		Use:   "forget [STORE]",
		Short: "Delete what was put aside as damaged, and hear no more of it",
		Long: "Delete what was put aside as damaged, and hear no more of it. What waits for the store is not touched.\n" +
			"The drive must not be mounted.",
		Args: args(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			root, err := homes()
			if err != nil {
				return err
			}
			n, err := drive.ForgetDamage(cmd.Context(), root, append(args, "")[0])
			if err != nil {
				return err
			}
			fmt.Printf("Deleted %d damaged files; kist status tells no more of them.\n", n)
			return nil
		},
	}
}

func printJournal(r *drive.JournalReport) {
	fmt.Printf("waiting  %d changes, as of commit %s\n", len(r.Pending), r.Seen)
	for _, o := range r.Pending {
		line := fmt.Sprintf("%8d  %s  %s", o.N, o.Time.UTC().Format(time.RFC3339), o.Kind)
		if o.Bytes > 0 {
			line += fmt.Sprintf("  %d bytes", o.Bytes)
		}
		for _, path := range []string{o.Path, o.To} {
			if path != "" {
				line += "  " + visible(path)
			}
		}
		fmt.Println(line)
	}
	for _, d := range r.Damage {
		fmt.Printf("DAMAGE   %s\n", d)
	}
	for _, a := range r.Aside {
		fmt.Printf("aside    %s, %d bytes: ", a.File, a.Bytes)
		if a.Records == 0 {
			fmt.Println("no record of it verifies")
			continue
		}
		fmt.Printf("%d records between %d and %d verify, %d of them with their content, %d bytes\n", a.Records, a.First, a.Last, a.Whole, a.Content)
	}
}

// visible keeps a name from writing on the terminal what is no name.
func visible(path string) string {
	for _, r := range path {
		if r == utf8.RuneError || !strconv.IsPrint(r) {
			return strconv.Quote(path)
		}
	}
	return path
}
