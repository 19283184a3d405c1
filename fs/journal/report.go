package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
)

// The report of damage stands beside the files that were put aside, so that it outlives
// the mount that found it. It is no proof: what is put aside without standing in it is
// told all the same, by its name and size.
const (
	nameReport    = "damage"
	nameReportNew = "damage.tmp"
	maxReport     = 1 << 20
)

type noted struct {
	Damage
	Known bool // a person was told and wants to hear no more of it
}

// Damage lists what was found damaged, by this Open or an earlier one, until Forget.
func (j *Journal) Damage() []Damage { return slices.Clone(j.damage) }

// keepReport adds fresh damage to what is known of the disk's files. Without room for it
// only names and sizes will be told the next time.
func (j *Journal) keepReport(fresh []Damage) error {
	old, err := readReport(j.disk)
	if err != nil {
		return err
	}
	all, err := knownDamage(j.disk, append(old, asNoted(fresh)...))
	if err != nil {
		return err
	}
	j.damage = untold(all)
	if len(fresh) == 0 {
		return nil
	}
	if err := writeReport(j.disk, all); err != nil && !noSpace(err) {
		return err
	}
	return nil
}

func asNoted(ds []Damage) (all []noted) {
	for _, d := range ds {
		all = append(all, noted{Damage: d})
	}
	return all
}

func untold(all []noted) (ds []Damage) {
	for _, n := range all {
		if !n.Known {
			ds = append(ds, n.Damage)
		}
	}
	return ds
}

// knownDamage gives each file that holds damage its line in the report, or a new one.
func knownDamage(disk Disk, report []noted) ([]noted, error) {
	names, err := disk.List()
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var all []noted
	for _, name := range names {
		number, ext, ok := parseName(name)
		if !ok || ext == extLive {
			continue
		}
		found := false
		for _, n := range report {
			if of, _, ok := parseName(n.File); ok && of == number {
				n.File, found = name, true // it may have gone out of use since
				all = append(all, n)
			}
		}
		if !found {
			size, err := sizeOf(disk, name)
			if err != nil {
				return nil, err
			}
			all = append(all, noted{Damage: Damage{Segment: number, File: name, Bytes: size}})
		}
	}
	return all, nil
}

func sizeOf(disk Disk, name string) (int64, error) {
	f, err := disk.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.Size()
}

func readReport(disk Disk) ([]noted, error) {
	f, err := disk.Open(nameReport)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil || size > maxReport {
		return nil, err
	}
	raw := make([]byte, size)
	if _, err := f.ReadAt(raw, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var all []noted
	if json.Unmarshal(raw, &all) != nil {
		return nil, nil // what it told is told by the files
	}
	return all, nil
}

func writeReport(disk Disk, all []noted) error {
	raw, err := json.Marshal(all)
	if err != nil {
		return err
	}
	if err := disk.Remove(nameReportNew); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := disk.Create(nameReportNew)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(raw, 0); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := disk.Rename(nameReportNew, nameReport); err != nil {
		return err
	}
	return disk.SyncDir()
}

// Forget deletes the files in which damage was found and that are out of use, and says
// which. One that is still in use stays until a commit contains what it holds; it is not
// told any more. Forget takes the disk over.
func Forget(disk Disk) (gone []string, err error) {
	defer func() { err = errors.Join(err, disk.Close()) }()
	report, err := readReport(disk)
	if err != nil {
		return nil, err
	}
	all, err := knownDamage(disk, report)
	if err != nil {
		return nil, err
	}
	var left []noted
	for _, n := range all {
		if _, ext, _ := parseName(n.File); ext == extDamaged {
			n.Known = true
			left = append(left, n)
			continue
		}
		if err := disk.Remove(n.File); err != nil {
			return gone, fmt.Errorf("deleting what was put aside: %w", err)
		}
		gone = append(gone, n.File)
	}
	return gone, writeReport(disk, left)
}
