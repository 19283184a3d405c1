package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"kist/fs/drive"
)

func mountVerb(in *interrupts) *cobra.Command {
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
			if cfg.JournalSize, err = parseJournal("--journal-size", journalSize); err != nil {
				return err
			}
			if cfg.FsyncStore, err = parseFsync(fsync); err != nil {
				return err
			}
			root, err := homes()
			if err != nil {
				return err
			}
			if foreground {
				defer progressEnd()
				return drive.Serve(cmd.Context(), root, cfg, pass.current(cmd.Context()), drive.Host{
					Ready: func(note string) error {
						in.serving.Store(true)
						fmt.Fprintln(os.Stderr, "kist: mounted")
						tell(note)
						return nil
					},
					Progress: ending(), Hurry: in.hurry,
				})
			}
			note, err := drive.Mount(cmd.Context(), root, cfg, pass.current(cmd.Context()))
			tell(note)
			return err
		},
	}
	cmd.Flags().BoolVar(&foreground, "foreground", false, "serve in this very process; SIGTERM stores everything and unmounts, a second one unmounts at once")
	cmd.Flags().BoolVar(&cfg.ReadOnly, "read-only", false, "change nothing")
	cmd.Flags().BoolVar(&cfg.AllowOther, "allow-other", false, "let other users of this machine in")
	cmd.Flags().StringVar(&cacheSize, "cache-size", defaultCacheSize, "`SIZE` of the cache on disk, with K, M, G or T")
	cmd.Flags().StringVar(&journalSize, "journal-size", defaultJournalSize, "most `SIZE` of what waits on disk to be stored, with K, M, G or T")
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

const (
	defaultCacheSize   = "10G"
	defaultJournalSize = "4G"
)

func parseJournal(name, s string) (int64, error) {
	n, err := parseSize(name, s)
	if err == nil && n < drive.MinJournal {
		err = usage("%s is at least %dM", name, drive.MinJournal>>20)
	}
	return n, err
}

// parseSize reads 512M and the like, in powers of 1024.
func parseSize(name, s string) (int64, error) {
	digits, shift := strings.ToUpper(s), 0
	digits = strings.TrimSuffix(strings.TrimSuffix(digits, "B"), "I")
	if n := len(digits); n > 0 {
		if i := strings.IndexByte("KMGT", digits[n-1]); i >= 0 {
			digits, shift = digits[:n-1], 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > 1<<62>>shift {
		return 0, usage("%s is a number with K, M, G or T, such as 512M", name)
	}
	return n << shift, nil
}

func parseFsync(s string) (store bool, err error) {
	if s != "journal" && s != "store" {
		return false, usage("fsync is journal or store")
	}
	return s == "store", nil
}

func daemonVerb(in *interrupts) *cobra.Command {
	return &cobra.Command{Use: drive.DaemonVerb, Hidden: true, Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			in.serving.Store(true)
			return drive.RunDaemon(cmd.Context(), in.hurry)
		}}
}
