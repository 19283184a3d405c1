//go:build !linux

package home

// machineID is empty here: the system's own id is not to be had without its
// frameworks. The folder's place on the disk and the log's device table tell a
// copy.
func machineID() (string, error) { return "", nil }
