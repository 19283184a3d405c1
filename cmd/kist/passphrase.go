package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"kist/crypto/keys"
)

const maxPassphrase = keys.MaxPassphrase

// passFlags are the sources that a call can name. After them come
// $KIST_PASSPHRASE_FILE, the systemd credential kist.passphrase and, on a
// terminal, a prompt. No variable holds a passphrase itself: variables are seen
// by every child.
type passFlags struct{ file, command string }

func (p *passFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.file, "passphrase-file", "", "read the passphrase from the first line of `FILE`")
	cmd.Flags().StringVar(&p.command, "passphrase-command", "", "read the passphrase from the first line that `COMMAND` prints")
}

// current asks for the passphrase of a keyfile.
func (p *passFlags) current(ctx context.Context) func() ([]byte, error) {
	return func() ([]byte, error) {
		return p.get(ctx, func() ([]byte, error) { return prompt("Passphrase: ") })
	}
}

// fresh asks for a new passphrase, twice where a person types it.
func (p *passFlags) fresh(ctx context.Context) func() ([]byte, error) {
	return func() ([]byte, error) { return p.get(ctx, promptNew) }
}

func (p *passFlags) get(ctx context.Context, ask func() ([]byte, error)) ([]byte, error) {
	if p.file != "" && p.command != "" {
		return nil, usage("--passphrase-file and --passphrase-command exclude each other")
	}
	if p.file != "" {
		return readPassphrase(p.file)
	}
	if p.command != "" {
		return runPassphrase(ctx, p.command)
	}
	if path := os.Getenv("KIST_PASSPHRASE_FILE"); path != "" {
		return readPassphrase(path)
	}
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); dir != "" {
		path := filepath.Join(dir, "kist.passphrase")
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			return readPassphrase(path)
		}
	}
	return ask()
}

var errNoTerminal = usage("a passphrase is needed and there is no terminal to ask for it: use --passphrase-file, " +
	"--passphrase-command, $KIST_PASSPHRASE_FILE or the credential kist.passphrase")

func readPassphrase(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("the passphrase file: %w", err)
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && fi.Mode().IsRegular() && fi.Mode().Perm()&0o044 != 0 {
		fmt.Fprintln(os.Stderr, "kist: warning: others can read the passphrase file; chmod 600 would end that")
	}
	pass, err := firstLine(f)
	if err != nil {
		return nil, fmt.Errorf("the passphrase file: %w", err)
	}
	return pass, nil
}

func runPassphrase(ctx context.Context, command string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("the passphrase command: %w", err)
	}
	pass, err := firstLine(bytes.NewReader(out))
	if err != nil {
		return nil, fmt.Errorf("the passphrase command: %w", err)
	}
	return pass, nil
}

// firstLine returns the bytes before the first newline, whatever they are.
func firstLine(r io.Reader) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxPassphrase+1))
	if err != nil {
		return nil, err
	}
	line, _, _ := bytes.Cut(raw, []byte{'\n'})
	switch {
	case len(line) == 0:
		return nil, errors.New("its first line is empty")
	case len(line) > maxPassphrase:
		return nil, fmt.Errorf("its first line has more than %d bytes", maxPassphrase)
	}
	return line, nil
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

func prompt(text string) ([]byte, error) {
	if !isTerminal(os.Stdin) {
		return nil, errNoTerminal
	}
	fmt.Fprint(os.Stderr, text)
	pass, err := term.ReadPassword(int(os.Stdin.Fd()))
	fmt.Fprintln(os.Stderr)
	if err != nil {
		return nil, fmt.Errorf("reading the passphrase: %w", err)
	}
	return pass, nil
}

func promptNew() ([]byte, error) {
	pass, err := prompt("New passphrase (empty: make one for me): ")
	if err != nil {
		return nil, err
	}
	if len(pass) == 0 {
		made := keys.GeneratePassphrase()
		fmt.Fprintf(os.Stderr, "The passphrase is\n\n    %s\n\nWrite it down now: it is shown this once and kept nowhere.\n", made)
		pass = []byte(made)
	}
	again, err := prompt("The same again: ")
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(pass, again) {
		return nil, errors.New("the two passphrases differ; nothing was changed")
	}
	return pass, nil
}
