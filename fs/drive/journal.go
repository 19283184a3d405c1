package drive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	engine "kist/fs"
	"kist/fs/home"
	"kist/fs/journal"
)

// JournalReport is what a journal holds.
type JournalReport = engine.JournalReport

var errNoJournal = fmt.Errorf("%w: this store has no journal here; it never was mounted", ErrUsage)

// InspectJournal reads the journal of a store and changes nothing. It may be
// mounted. The store is not asked.
func InspectJournal(ctx context.Context, root home.Root, store string, ask Asker) (*JournalReport, error) {
	p, err := find(ctx, root, store)
	if err != nil {
		return nil, err
	}
	s, err := p.reader(ask)
	if err != nil {
		return nil, err
	}
	defer s.Wipe()
	dir := p.journalDir(s)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, errNoJournal
	}
	r, err := engine.InspectJournal(journal.LookDisk(dir), s.JournalKey(), s.TopVault)
	return r, withoutPath(err)
}

// ForgetDamage deletes what was put aside from the journals of a store, and
// says how many files that were. The drive must not be mounted.
func ForgetDamage(ctx context.Context, root home.Root, store string) (int, error) {
	p, err := find(ctx, root, store)
	if err != nil {
		return 0, err
	}
	lock, err := p.home.Lock()
	if err != nil {
		return 0, err
	}
	defer lock.Release()
	vaults, err := os.ReadDir(p.home.JournalDir())
	if err != nil {
		return 0, withoutPath(err)
	}
	n := 0
	for _, v := range vaults {
		disk, err := journal.OpenDisk(p.home.JournalDir() + "/" + v.Name())
		if err != nil {
			return n, withoutPath(err)
		}
		gone, err := journal.Forget(disk)
		n += len(gone)
		if err != nil {
			return n, withoutPath(err)
		}
	}
	return n, nil
}
