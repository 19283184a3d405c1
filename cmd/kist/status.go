package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"kist/fs/drive"
)

func statusVerb() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status [--json] [DIR]",
		Short: "What is mounted, and what is not yet in the store",
		Args:  args(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			root, err := homes()
			if err != nil {
				return err
			}
			s, err := drive.GetStatus(cmd.Context(), root, append(args, "")[0])
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(s)
			}
			printStatus(s)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "for programs; the names of the fields are fixed")
	return cmd
}

// share says how much of a budget is in use, in MiB.
func share(used, budget int64) string {
	const mib = 1 << 20
	return fmt.Sprintf("%d of %d MiB", (used+mib-1)/mib, budget/mib)
}

func printJSON(v any) error {
	enc := json.NewEncoder(os.Stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func printStatus(s *drive.Status) {
	row := func(name, format string, args ...any) { fmt.Printf("%-9s %s\n", name, fmt.Sprintf(format, args...)) }
	row("store", "%s", s.Store)
	if s.Mounted {
		how := ""
		if s.ReadOnly {
			how = ", read-only"
		}
		row("mounted", "%s (process %d%s)", s.Dir, s.PID, how)
		row("identity", "%s on %s", s.User, s.DeviceName)
		row("head", "%s", s.Head)
		printTraffic(s, row)
	} else {
		row("mounted", "no")
		row("journal", "%d bytes", s.JournalBytes)
	}
	if s.Mounted {
		row("uses", "%s journal, %s cache, %s memory", share(s.JournalBytes, s.JournalBudget), share(s.CacheBytes, s.CacheBudget), share(s.MemoryBytes, s.MemoryBudget))
	}
	for _, p := range s.Problems {
		row("problem", "%s", p)
	}
	if s.FormerWait > 0 {
		row("problem", "what a former device here had not stored waits to be carried over: kist id device new")
	}
	if s.FormerLeft > 0 {
		row("note", "%d former journals could not be carried over and are kept", s.FormerLeft)
	}
	if s.FormerBytes > 0 {
		row("note", "%d bytes of former journals are kept in %s/former", s.FormerBytes, s.StateDir)
	}
	row("note", "space of deleted files is not reclaimed yet")
	if !s.Exported {
		row("note", "the keyfile has no copy yet; without it the drive is lost: kist id export FILE")
	}
}

// awayWords say why a store is away.
var awayWords = map[string]string{"outage": "it is not reached", "denied": "it refuses our credentials", "full": "it is full"}

// printTraffic tells what a mounted drive and its store have to do with each other.
func printTraffic(s *drive.Status, row func(name, format string, args ...any)) {
	if s.Connected {
		row("connected", "since %s", s.ConnectedSince)
	} else {
		row("away", "since %s, %s: %s", s.AwaySince, awayWords[s.AwayKind], s.Away)
	}
	row("waiting", "%d changes, %d bytes not yet in the store", s.PendingOps, s.PendingBytes)
	if s.PendingOps > 0 {
		row("", "in %d files, the oldest of %s", s.PendingFiles, s.Oldest)
	}
	if s.Uploading > 0 {
		row("uploading", "%d bytes", s.Uploading)
	}
	if s.LastCommit != "" {
		row("committed", "%s", s.LastCommit)
	}
	if s.LastError != "" && s.Connected {
		row("problem", "%s %s", s.LastErrorAt, s.LastError)
	}
}
