package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"kist/fs/drive"
)

// This file is mount.kist, as mount(8) calls it for a line of fstab of type kist:
//
//	mount.kist STORE DIR [-fnsv] [-t TYPE] [-o OPTION,...]
//
// Its exit codes are those of mount(8), not those of kist.
const (
	helperName    = "mount.kist"
	helperUsage   = 1
	helperFailure = 32
)

// isHelper says whether this program was called by mount(8). It calls itself by
// the same name where that is no link but a copy.
func isHelper(args []string) bool {
	ours := len(args) == 2 && (args[1] == drive.DaemonVerb || args[1] == drive.StretchVerb)
	return len(args) > 0 && filepath.Base(args[0]) == helperName && !ours
}

func runHelper(ctx context.Context, args []string) int {
	h, err := parseHelper(args)
	if err == nil && !h.fake {
		err = h.mount(ctx)
	}
	switch {
	case err == nil:
		return 0
	case errors.Is(err, drive.ErrUsage):
		fmt.Fprintln(os.Stderr, "mount.kist:", err)
		return helperUsage
	default:
		fmt.Fprintf(os.Stderr, "mount.kist: %v (kist would exit with %d)\n", err, drive.Code(err))
		return helperFailure
	}
}

// helper is what a call of mount.kist asks for.
type helper struct {
	cfg     drive.MountConfig
	pass    passFlags
	env     map[string]string // a machine that starts has none of these
	options []string
	fake    bool // all but the mount
	sloppy  bool // options that nobody knows do not matter
}

func (h *helper) mount(ctx context.Context) error {
	for name, value := range h.env {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	root, err := homes()
	if err != nil {
		return usage("%v; the option home=DIR does", err)
	}
	note, err := drive.Mount(ctx, root, h.cfg, h.pass.current(ctx))
	tell(note)
	return err
}

func parseHelper(args []string) (*helper, error) {
	if len(args) < 2 {
		return nil, usage("usage: mount.kist STORE DIR [-fnsv] [-t TYPE] [-o OPTION,...]")
	}
	h := &helper{env: map[string]string{}, options: []string{"cache_size=" + defaultCacheSize, "journal_size=" + defaultJournalSize}}
	h.cfg.Store, h.cfg.Source, h.cfg.Dir = args[0], args[0], args[1]
	for rest := args[2:]; len(rest) > 0; {
		n, err := h.flags(rest)
		if err != nil {
			return nil, err
		}
		rest = rest[n:]
	}
	for _, o := range h.options {
		if err := h.option(o); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// flags reads an argument such as -sv or -o, and says how many it has taken.
func (h *helper) flags(args []string) (int, error) {
	letters, ok := strings.CutPrefix(args[0], "-")
	for i, letter := range letters {
		switch letter {
		case 'n', 'v': // there is no mtab, and nothing more to say
		case 'f':
			h.fake = true
		case 's':
			h.sloppy = true
		case 'o', 't':
			value, taken := letters[i+1:], 1
			if value == "" && len(args) > 1 {
				value, taken = args[1], 2
			}
			if letter == 'o' {
				h.options = append(h.options, strings.Split(value, ",")...)
			}
			return taken, nil
		default:
			return 0, usage("-%c is not known", letter)
		}
	}
	if !ok || letters == "" {
		return 0, usage("there are more arguments than STORE and DIR")
	}
	return 1, nil
}

// settled are options of mount(8), fstab and systemd that mean nothing to a
// drive, or that always hold.
var settled = words("defaults auto noauto user nouser users owner group nofail _netdev exec nosuid nodev async " +
	"atime noatime relatime norelatime strictatime nostrictatime diratime nodiratime lazytime nolazytime silent loud")

func words(s string) map[string]bool {
	set := map[string]bool{}
	for _, w := range strings.Fields(s) {
		set[w] = true
	}
	return set
}

func (h *helper) option(o string) (err error) {
	name, value, _ := strings.Cut(o, "=")
	switch name {
	case "ro":
		h.cfg.ReadOnly = true
	case "rw":
		h.cfg.ReadOnly = false
	case "noexec":
		h.cfg.NoExec = true
	case "allow_other":
		h.cfg.AllowOther = true
	case "fsync":
		h.cfg.FsyncStore, err = parseFsync(value)
	case "cache_size":
		h.cfg.CacheSize, err = parseSize(name, value)
	case "journal_size":
		h.cfg.JournalSize, err = parseJournal(name, value)
	case "passphrase_file":
		h.pass.file, err = path(o, value)
	case "home":
		h.env["KIST_HOME"], err = path(o, value)
	case "credentials_file":
		h.env["AWS_SHARED_CREDENTIALS_FILE"], err = path(o, value)
	default:
		if !settled[o] && o != "" && !h.sloppy && name != "comment" && !strings.HasPrefix(o, "x-") && !strings.HasPrefix(o, "X-") {
			return usage("the option %s is not known; nothing was mounted", name)
		}
	}
	return err
}

// path demands a path that means the same wherever mount(8) is called.
func path(option, value string) (string, error) {
	if !filepath.IsAbs(value) {
		return "", usage("%s: a path from the root is needed", option)
	}
	return value, nil
}
