package cache

import (
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"

	"kist/crypto/seal"
)

// rows is the Badger database, or nothing where it does not open.
type rows struct {
	dir string
	key seal.Key
	log *slog.Logger
	vet *vet

	mu      sync.RWMutex // held for reading while db is used
	started bool         // guarded by mu, as is what follows
	db      *badger.DB   // nil: no database
	bytes   int64        // an estimate
	check   int64        // measure again when bytes exceeds it
}

// maxRows bounds the database: it is hashed when it is opened.
const maxRows = 512 << 20

func newRows(dir string, key seal.Key, mac func([]byte) name, log *slog.Logger) *rows {
	return &rows{dir: dir, key: key, log: log, vet: &vet{dir, mac, map[string]seen{}}}
}

// start opens the database, once. Until then nothing is in it.
func (r *rows) start() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.started {
		r.started = true
		r.vet.admit()
		r.open()
	}
}

// open tries what is there, then an empty directory. r.mu is held.
func (r *rows) open() {
	db, err := openBadger(r.dir, r.log)
	if err != nil {
		r.log.Info("the cache database does not open and is made anew")
		r.log.Debug("cache database", "error", err)
		_ = os.RemoveAll(r.dir)
		if db, err = openBadger(r.dir, r.log); err != nil {
			r.log.Warn("there is no cache database: everything is fetched; see the disk")
		}
	}
	r.db = db
	r.measure()
}

// openBadger turns a panic over garbage into an error.
func openBadger(dir string, log *slog.Logger) (db *badger.DB, err error) {
	defer func() {
		if p := recover(); p != nil {
			db, err = nil, fmt.Errorf("opening the database: %v", p)
		}
	}()
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	return badger.Open(badger.DefaultOptions(dir).
		WithMemTableSize(8 << 20).WithNumMemtables(2).
		WithNumLevelZeroTables(3).WithNumLevelZeroTablesStall(8).
		WithNumCompactors(2).WithBaseTableSize(4 << 20).WithBaseLevelSize(16 << 20).
		WithValueLogFileSize(16 << 20).WithValueThreshold(1 << 20).
		WithCompression(options.None).WithBlockCacheSize(0).WithIndexCacheSize(16 << 20).
		WithChecksumVerificationMode(options.OnBlockRead).
		WithDetectConflicts(false).WithNumVersionsToKeep(1).WithSyncWrites(false).
		WithMetricsEnabled(false).WithCompactL0OnClose(false).WithLogger(quiet{log}))
}

// seal and open are the only places where values pass.
func (r *rows) seal(n name, plain []byte) []byte {
	return seal.SealK(r.key, seal.LabelCacheRow, n[:], plain)
}

func (r *rows) unseal(n name, sealed []byte) ([]byte, bool) {
	plain, err := seal.OpenK(r.key, seal.LabelCacheRow, n[:], sealed)
	return plain, err == nil
}

func (r *rows) get(n name) (plain []byte, ok bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.db == nil {
		return nil, false
	}
	defer func() {
		if p := recover(); p != nil { // Badger over damaged tables
			plain, ok = nil, false
		}
	}()
	err := r.db.View(func(txn *badger.Txn) error {
		item, err := txn.Get(n[:])
		if err != nil {
			return err
		}
		return item.Value(func(sealed []byte) error {
			plain, ok = r.unseal(n, sealed)
			return nil
		})
	})
	return plain, ok && err == nil
}

// put writes a batch. What fails is forgotten: it is a cache.
func (r *rows) put(jobs []*job) {
	if len(jobs) == 0 {
		return
	}
	if _, err := os.Stat(filepath.Join(r.dir, badger.ManifestFilename)); err != nil {
		r.reset() // the files were deleted under it
	}
	r.mu.RLock()
	size, err := r.write(jobs)
	r.mu.RUnlock()
	if err != nil {
		r.log.Debug("cache database", "error", err)
		r.reset()
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bytes += size; r.bytes > r.check {
		r.measure()
	}
}

func (r *rows) write(jobs []*job) (size int64, err error) {
	if r.db == nil {
		return 0, nil
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("writing to the database: %v", p)
		}
	}()
	batch := r.db.NewWriteBatch()
	defer batch.Cancel()
	for _, j := range jobs {
		sealed := r.seal(j.name, j.plain)
		if err := batch.Set(append([]byte{}, j.name[:]...), sealed); err != nil {
			return size, err
		}
		size += int64(len(sealed)) + 64
	}
	return size, batch.Flush()
}

func (r *rows) size() int64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.bytes
}

// measure asks the disk. r.mu is held.
func (r *rows) measure() {
	r.bytes = 0
	_ = filepath.WalkDir(r.dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil // Badger removes files while we look
		}
		if info, err := e.Info(); err == nil && !e.IsDir() {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				r.bytes += st.Blocks * 512
			}
		}
		return nil
	})
	r.check = r.bytes + 8<<20
}

// reset makes the database anew and empty.
func (r *rows) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.started = true
	r.shut()
	_ = os.RemoveAll(r.dir)
	r.open()
}

// shut closes the database. A directory that was deleted is made again first:
// Badger retries without end to write its memory out. r.mu is held.
func (r *rows) shut() (err error) {
	if r.db == nil {
		return nil
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("closing the database: %v", p)
		}
	}()
	db := r.db
	r.db = nil
	_ = os.MkdirAll(r.dir, 0o700)
	return db.Close()
}

// close closes the database; without room on the disk it is left as it is,
// since Badger would die writing.
func (r *rows) close(room bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !room {
		if r.db != nil {
			r.log.Info("the disk is full: the cache database is left unfinished")
		}
		r.db = nil
		return
	}
	if r.db == nil {
		return
	}
	if err := r.shut(); err != nil {
		r.log.Debug("cache database", "error", err)
		return // without the mark it is made anew next time
	}
	r.vet.leave()
}

// quiet passes Badger's talk on as debug messages: it holds paths.
type quiet struct{ log *slog.Logger }

func (q quiet) Errorf(f string, a ...any) { q.log.Debug("badger error", "text", fmt.Sprintf(f, a...)) }
func (q quiet) Warningf(f string, a ...any) {
	q.log.Debug("badger warning", "text", fmt.Sprintf(f, a...))
}
func (q quiet) Infof(string, ...any)  {}
func (q quiet) Debugf(string, ...any) {}
