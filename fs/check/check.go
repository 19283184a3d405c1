package check

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"kist/backend"
	"kist/crypto/keys"
	"kist/crypto/seal"
	"kist/fs/log"
	"kist/fs/pack"
	"kist/fs/tree"
)

// Config is what a run needs. All fields but Trust, ReadData, Names and Progress
// are required.
type Config struct {
	Store   backend.Store
	Vault   seal.VaultID
	Session *keys.Session
	// Trust is what this device remembers. It is asked and never changed; nil
	// means that nothing is remembered.
	Trust *log.Trust
	// FooterKey derives the key of pack footers of an epoch; fs knows how.
	FooterKey func(ctx context.Context, l *log.Log, epoch uint32) (seal.Key, error)
	Now       func() time.Time

	ReadData bool // every octet, of all commits
	Names    bool // say paths
	Progress func(string)
}

// headerKey is the object that makes a store one.
const headerKey = "kist.json"

// readerBudget is how much sealed data, read along with what was asked for,
// stays in memory.
const readerBudget = 16 << 20

// checker is one run.
type checker struct {
	cfg     Config
	store   backend.Store // cfg.Store, for reading
	report  *Report
	log     *log.Log // at the head
	packs   *packs
	reader  *pack.Reader
	pages   pages
	points  points
	refused error
	listing listing

	// What was verified and need not be again.
	dirs    map[seal.Fingerprint]struct{} // directories, by their root page, with all below (history)
	extents map[seal.Fingerprint]mapped   // extent maps, by their root page
	chunks  map[[16]byte]struct{}         // content, by a hash of its pointer
	bad     map[[16]byte]string           // content that does not open, and why
	past    map[uint64]Problem            // files damaged in an earlier commit

	prev     *tree.State // of the commit before, in the walk through history
	prevRoot []byte
	cut      bool // history is not walked any further

	waiting sync.Mutex // guards steps, and is held while Progress is called
	steps   uint64
}

// Run checks one vault. The report is there even with an error, as far as it got.
// The error says why the run could not be finished (the store is away, the keys
// do not fit, a newer version wrote) or that the store contradicts what this
// device remembers. Damage is in the report alone, except where it leaves
// nothing to begin with.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	c := &checker{
		cfg: cfg, store: readOnly{cfg.Store}, points: points{},
		report:  &Report{ReadData: cfg.ReadData, Scope: []string{}, Problems: []Problem{}, Notes: []Problem{}},
		dirs:    map[seal.Fingerprint]struct{}{},
		extents: map[seal.Fingerprint]mapped{},
		chunks:  map[[16]byte]struct{}{},
		bad:     map[[16]byte]string{},
		past:    map[uint64]Problem{},
		pages:   pages{seen: map[seal.Fingerprint]mark{}},
	}
	c.packs = newPacks(c)
	c.reader = pack.NewReader(c.packs, cfg.Vault, readerBudget, readerBudget)
	for _, step := range []func(context.Context) error{
		c.header, c.list, c.openLog, c.chain, c.identities, c.tree, c.packs.finish, c.strangers,
	} {
		if err := step(ctx); err != nil {
			return c.report, err
		}
	}
	c.scope()
	return c.report, c.refused
}

// header checks kist.json. Where it is missing the store is away, not empty.
func (c *checker) header(ctx context.Context) error {
	raw, err := c.store.Get(ctx, headerKey, keys.MaxStoreHeader)
	if errors.Is(err, backend.ErrNotExist) {
		return fmt.Errorf("%w: there is no %s in it", backend.ErrAway, headerKey)
	}
	if err != nil && !errors.Is(err, backend.ErrTooLarge) {
		return fmt.Errorf("reading the store's header: %w", err)
	}
	h, bad := keys.ParseStoreHeader(raw)
	switch {
	case err != nil || bad != nil:
		c.problem(KindHeader, headerKey, "damaged")
	case h.StoreID != c.cfg.Session.Store:
		c.problem(KindHeader, headerKey, "names another store than the keyfile")
	}
	return nil
}

func (c *checker) problem(kind Kind, where, what string) {
	c.report.problem(Problem{Kind: kind, Where: where, What: what})
}

func (c *checker) note(kind Kind, where, what string) {
	c.report.note(Problem{Kind: kind, Where: where, What: what})
}

// step tells somebody who waits where the run is, now and then.
func (c *checker) step(format string, args ...any) {
	c.waiting.Lock()
	defer c.waiting.Unlock()
	c.steps++
	if c.cfg.Progress != nil && c.steps%64 == 1 {
		c.cfg.Progress(fmt.Sprintf(format, args...))
	}
}

// scope says in words what the run was worth.
func (c *checker) scope() {
	add := func(format string, args ...any) {
		c.report.Scope = append(c.report.Scope, fmt.Sprintf(format, args...))
	}
	add("the log up to commit %s, by all rules", c.report.Head)
	switch {
	case !c.cfg.ReadData:
		add("the tree of the newest commit; not those of earlier commits")
		add("of content, that its packs exist and are long enough; not the content itself")
		add("unreferenced packs by the listing alone; earlier commits may refer to them")
	case c.cut:
		add("the trees of %d commits, the newest among them; not those of the others", c.report.Trees)
	default:
		add("the trees of all commits, and every piece of their content")
	}
	if c.cfg.ReadData {
		add("every pack whole, against its name and its footer")
	}
}

// away reports whether an error says nothing about what is in the store.
func away(err error) bool {
	for _, kind := range []error{backend.ErrAway, backend.ErrDenied, backend.ErrUnsupported, backend.ErrInvalid,
		context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// reason is an error in the words of a report.
func reason(err error) string {
	for _, row := range []struct {
		kind error
		what string
	}{
		{seal.ErrUnseal, "does not verify"},
		{tree.ErrMalformed, "does not follow the format"},
		{backend.ErrNotExist, "missing"},
		{backend.ErrShort, "shorter than what refers to it"},
		{backend.ErrTooLarge, "larger than it may be"},
	} {
		if errors.Is(err, row.kind) {
			return row.what
		}
	}
	return err.Error()
}
