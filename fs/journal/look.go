package journal

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"kist/crypto/seal"
)

// View is a journal as Look finds it.
type View struct {
	Replay *Replay     // its Damage is what the next Open will put aside
	Known  []Damage    // what was put aside before
	Aside  []AsideInfo // what can be read in these files

	found []*candidate
}

// Close frees the files. The replay can't be used any more.
func (v *View) Close() {
	for _, c := range v.found {
		c.file.Close() // only read
	}
}

// Look reads a journal and changes nothing; it may be in use. Like Open it stops at the
// first damage.
func Look(disk Disk, key seal.Key, opt Options) (*View, error) {
	for try := 0; ; try++ {
		v := &View{}
		err := v.look(&Journal{disk: disk, key: key, opt: opt.withDefaults(), moved: map[uint64]Loc{}})
		if err == nil {
			return v, nil
		}
		v.Close()
		// A segment may be trimmed between two calls.
		if try == 2 || !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
}

func (v *View) look(j *Journal) (err error) {
	if v.found, err = j.load(); err != nil {
		return err
	}
	good, bad := j.sort(v.found)
	if len(good) == 0 && len(v.found) > 0 {
		return ErrKey
	}
	v.Replay = &Replay{j: j}
	kept, err := j.replay(v.Replay, good)
	if err != nil {
		return err
	}
	if len(v.Replay.Damage) > 0 {
		v.Replay.Damage[0].File = kept[len(kept)-1].name
	}
	for _, c := range slices.Concat(bad, good[len(kept):]) {
		v.Replay.Damage = append(v.Replay.Damage, j.unused(c, v.Replay, kept, c.name))
	}
	report, err := readReport(j.disk)
	if err != nil {
		return err
	}
	all, err := knownDamage(j.disk, report)
	if err != nil {
		return err
	}
	v.Known = untold(all)
	v.Aside, err = j.asides()
	return err
}

// lookDisk is a directory that is only read, also while another process has it open.
type lookDisk struct{ dir string }

// LookDisk opens a directory for Look.
func LookDisk(dir string) Disk { return lookDisk{dir} }

func (d lookDisk) Open(name string) (File, error) {
	f, err := os.OpenFile(filepath.Join(d.dir, name), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return &osFile{f}, nil
}

func (d lookDisk) List() ([]string, error)   { return (&osDisk{dir: d.dir}).List() }
func (lookDisk) Create(string) (File, error) { return nil, syscall.EROFS }
func (lookDisk) Remove(string) error         { return syscall.EROFS }
func (lookDisk) Rename(string, string) error { return syscall.EROFS }
func (lookDisk) SyncDir() error              { return syscall.EROFS }
func (lookDisk) Free() (int64, error)        { return 0, nil }
func (lookDisk) Close() error                { return nil }
