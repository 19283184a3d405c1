// Command kist is an encrypted drive that lives in a bucket.
//
// One file a verb: it reads flags, asks for what must be asked, and calls one
// function of fs/drive. Answers go to standard output, everything else to
// standard error. Exit codes: 0 done, 1 failed, 2 usage, 3 damage found,
// 4 refused as stale, rolled back or forked, 5 store away or timed out, 6 wrong
// passphrase or keys, 7 in use. Under the name mount.kist it is what mount(8)
// calls; see helper.go.
package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/spf13/cobra"

	"kist/fs/drive"
	"kist/fs/home"
)

func main() { os.Exit(run()) }

func run() int {
	syscall.Umask(0o077) // what kist makes beside a mount is its user's alone
	ctx, in := listenForSignals()
	if isHelper(os.Args) {
		return runHelper(ctx, os.Args[1:])
	}
	err := root(in).ExecuteContext(ctx)
	if err != nil && !errors.Is(err, errTold) {
		fmt.Fprintln(os.Stderr, "kist:", err)
	}
	return drive.Code(err)
}

// homes finds the state folders.
func homes() (home.Root, error) { return home.Find(os.Getenv) }

// errTold joins an error that the verb has explained already.
var errTold = errors.New("told")

func root(in *interrupts) *cobra.Command {
	cmd := &cobra.Command{
		Use:           "kist",
		Short:         "An encrypted drive that lives in a bucket",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage("there is no verb %q; kist help lists them", args[0])
			}
			cmd.SetOut(cmd.ErrOrStderr())
			return errors.Join(cmd.Help(), drive.ErrUsage, errTold)
		},
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage("%v", err) })
	cmd.CompletionOptions.HiddenDefaultCmd = true
	cmd.AddCommand(initVerb(), mountVerb(in), umountVerb(), syncVerb(), statusVerb(), checkVerb(), journalVerb(),
		idVerb(), passwdVerb(), trustVerb(), versionVerb(), daemonVerb(in), stretchVerb())
	return cmd
}

func usage(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

// usageError is an ErrUsage whose text is its own.
type usageError struct{ text string }

func (u *usageError) Error() string { return u.text }
func (u *usageError) Unwrap() error { return drive.ErrUsage }

// args demands between least and most arguments.
func args(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return usage("usage: %s", cmd.UseLine())
		}
		return nil
	}
}

// group is a verb that only has verbs below it.
func group(use, short string, verbs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return usage("%s needs one of its verbs; kist help %s lists them", use, use)
		}}
	cmd.AddCommand(verbs...)
	return cmd
}
