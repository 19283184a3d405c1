package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"kist/fs/drive"
)

func mountVerb() *cobra.Command {
	var pass passFlags
	var cfg drive.MountConfig
	var foreground bool
	var cacheSize, journalSize, fsync string
	cmd := &cobra.Command{
		Use:   "mount [--foreground] [--read-only] [--allow-other] [--cache-size N] [--journal-size N] [--fsync=store] [STORE] DIR",
		Short: "Mount a drive; returns when it is usable",
		Args:  args(1, 2),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			cfg.Dir = args[len(args)-1]
			if len(args) == 2 {
				cfg.Store = args[0]
			}
			if cfg.CacheSize, err = parseSize("--cache-size", cacheSize); err != nil {
				return err
			}
			if cfg.JournalSize, err = parseSize("--journal-size", journalSize); err != nil {
				return err
			}
			if cfg.JournalSize < drive.MinJournal {
				return usage("--journal-size is at least %dM", drive.MinJournal>>20)
			}
			if fsync != "journal" && fsync != "store" {
				return usage("--fsync is journal or store")
			}
			cfg.FsyncStore = fsync == "store"
			root, err := homes()
			if err != nil {
				return err
			}
			if foreground {
				return drive.Serve(cmd.Context(), root, cfg, pass.current(cmd.Context()), func(note string) error {
					fmt.Fprintln(os.Stderr, "kist: mounted")
					tell(note)
					return nil
				})
			}
			note, err := drive.Mount(cmd.Context(), root, cfg, pass.current(cmd.Context()))
			tell(note)
			return err
		},
	}
	cmd.Flags().BoolVar(&foreground, "foreground", false, "serve in this very process; SIGTERM stores everything and unmounts")
	cmd.Flags().BoolVar(&cfg.ReadOnly, "read-only", false, "change nothing")
	cmd.Flags().BoolVar(&cfg.AllowOther, "allow-other", false, "let other users of this machine in")
	cmd.Flags().StringVar(&cacheSize, "cache-size", "10G", "`SIZE` of the cache on disk, with K, M, G or T")
	cmd.Flags().StringVar(&journalSize, "journal-size", "4G", "most `SIZE` of what waits on disk to be stored, with K, M, G or T")
	cmd.Flags().StringVar(&fsync, "fsync", "journal", "`WHERE` fsync brings data: the journal on this disk, or the store")
	pass.add(cmd)
	return cmd
}

// tell shows what is worth knowing of a mount that succeeded.
func tell(note string) {
	if note != "" {
		fmt.Fprintln(os.Stderr, "kist:", note)
	}
}

// parseSize reads 512M and the like, in powers of 1024.
func parseSize(flag, s string) (int64, error) {
	digits, shift := strings.ToUpper(s), 0
	digits = strings.TrimSuffix(strings.TrimSuffix(digits, "B"), "I")
	if n := len(digits); n > 0 {
		if i := strings.IndexByte("KMGT", digits[n-1]); i >= 0 {
			digits, shift = digits[:n-1], 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > 1<<62>>shift {
		return 0, usage("%s is a number with K, M, G or T, such as 512M", flag)
	}
	return n << shift, nil
}

func daemonVerb() *cobra.Command {
	return &cobra.Command{Use: drive.DaemonVerb, Hidden: true, Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return drive.RunDaemon(cmd.Context()) }}
}
