package home

import (
	"errors"
	"io/fs"
	"os"
	"strings"
)

// machineID is the id that the system gave this machine, "" where it has none
// (many containers): then only the folder itself tells a copy.
func machineID() (string, error) {
	for _, path := range []string{"/etc/machine-id", "/var/lib/dbus/machine-id"} {
		raw, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		return strings.TrimSpace(string(raw)), nil
	}
	return "", nil
}
