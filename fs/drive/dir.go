package drive

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"kist/fs/home"
	"kist/fs/mount"
)

// prepareDir makes sure that a drive can be mounted on dir. A mount of ours
// whose daemon has died is taken away first.
func prepareDir(dir string) error {
	if _, err := mount.CleanDead(dir); err != nil {
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	mounted, err := mount.IsMounted(dir)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: there is no such folder to mount on", ErrUsage)
	}
	if err != nil {
		return err
	}
	if mounted {
		return fmt.Errorf("%w: a drive is mounted there already; nothing was changed", home.ErrInUse)
	}
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%w: there is no such folder to mount on", ErrUsage)
	case err != nil:
		return withoutPath(err)
	case len(entries) > 0:
		return fmt.Errorf("%w: the folder to mount on is not empty; what is in it would be hidden", ErrUsage)
	}
	return nil
}

// withoutPath drops the path that an error of package os carries.
func withoutPath(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return fmt.Errorf("%s: %w", p.Op, p.Err)
	}
	return err
}

// checkBusy names the processes that use the drive.
func (d *daemon) checkBusy() error {
	users, err := mount.Busy(d.cfg.Dir)
	if err != nil || len(users) == 0 {
		return err
	}
	var list []string
	for _, u := range users {
		list = append(list, fmt.Sprintf("%s (process %d: %s)", u.Name, u.PID, u.How))
	}
	return fmt.Errorf("%w: %w: %s; nothing was changed", ErrBusy, syscall.EBUSY, strings.Join(list, ", "))
}

// owner is whom the files of a mount are shown to belong to: root sees them as
// they are, anybody else as their own.
func owner() *mount.Owner {
	if os.Getuid() == 0 {
		return nil
	}
	return &mount.Owner{Uid: uint32(os.Getuid()), Gid: uint32(os.Getgid())}
}

// clearDead takes away a mount whose daemon has died.
func clearDead(dir string) error {
	cleaned, err := mount.CleanDead(dir)
	if err == nil && !cleaned {
		return ErrNotMounted
	}
	return err
}

func absolute(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", withoutPath(err)
	}
	return abs, nil
}
