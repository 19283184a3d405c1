package drive

import (
	"context"
	"fmt"
	"os"
	"time"

	"kist/fs/home"
)

// Status is what is known of one drive. The JSON names are fixed.
type Status struct {
	Mounted    bool   `json:"mounted"`
	Dir        string `json:"dir"`
	Store      string `json:"store"`
	StoreID    string `json:"store_id"`
	Exported   bool   `json:"keyfile_exported"`
	Keyfile    string `json:"keyfile"`
	StateDir   string `json:"state_dir"`
	User       string `json:"user,omitempty"`
	Identity   string `json:"identity,omitempty"`
	Device     string `json:"device,omitempty"`
	DeviceName string `json:"device_name,omitempty"`
	Vault      string `json:"vault,omitempty"`
	ReadOnly   bool   `json:"read_only"`
	FsyncStore bool   `json:"fsync_store"`
	PID        int    `json:"pid,omitempty"`
	Version    string `json:"version,omitempty"`
	Since      string `json:"mounted_since,omitempty"`

	// What the daemon knows, zero without one.
	Head         string   `json:"head,omitempty"` // "sequence (hash)"
	PendingOps   int      `json:"pending_ops"`
	PendingBytes int64    `json:"pending_bytes"`
	Unsynced     int64    `json:"unsynced_bytes"`       // written, not yet on this disk
	Away         string   `json:"store_away,omitempty"` // why the store does not answer
	AwaySince    string   `json:"store_away_since,omitempty"`
	LastCommit   string   `json:"last_commit,omitempty"`
	Problems     []string `json:"problems"`
	CacheBytes   int64    `json:"cache_bytes"`
	CacheBudget  int64    `json:"cache_budget"`

	Connected      bool   `json:"connected"`
	ConnectedSince string `json:"connected_since,omitempty"`
	AwayKind       string `json:"store_away_kind,omitempty"` // outage, denied or full
	PendingFiles   int    `json:"pending_files"`
	Oldest         string `json:"oldest_pending,omitempty"` // when the oldest change not in the store was made
	Uploading      int64  `json:"uploading_bytes"`          // of packs on their way
	LastError      string `json:"last_error,omitempty"`     // of what failed last, until it succeeds
	LastErrorAt    string `json:"last_error_at,omitempty"`

	JournalBytes  int64 `json:"journal_bytes"`
	JournalBudget int64 `json:"journal_budget"`
	MemoryBytes   int64 `json:"memory_bytes"` // in buffers
	MemoryBudget  int64 `json:"memory_budget"`

	FormerBytes int64 `json:"former_journal_bytes"` // of journals that device new has set aside
	FormerWait  int   `json:"former_waiting"`       // of these journals, so many are not yet carried over
	FormerLeft  int   `json:"former_left"`          // and so many can't be
	Reclaims    bool  `json:"space_reclaimed"`      // not yet: what is deleted keeps its room in the store
}

// GetStatus asks the daemon of the drive at dir; without dir, of the only drive
// that is mounted, or else the only one known.
func GetStatus(ctx context.Context, root home.Root, dir string) (*Status, error) {
	s := new(Status)
	if dir != "" {
		return s, ask(ctx, dir, request{Op: "status"}, s, nil)
	}
	known, err := root.List()
	if err != nil {
		return nil, err
	}
	var all, mounted []*Status
	for _, k := range known {
		h, err := root.Open(k.ID)
		if err != nil {
			return nil, err
		}
		s, err := statusOf(ctx, h, k.Store)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
		if s.Mounted {
			mounted = append(mounted, s)
		}
	}
	if len(mounted) == 1 {
		return mounted[0], nil
	}
	if len(all) == 1 {
		return all[0], nil
	}
	return nil, fmt.Errorf("%w: this machine knows %d stores and %d are mounted; name the folder of the one that is meant", ErrUsage, len(all), len(mounted))
}

// statusOf asks the daemon that serves a state folder, if there is one.
func statusOf(ctx context.Context, h *home.Home, store string) (*Status, error) {
	s := &Status{Store: store}
	held, err := h.Locked()
	if err != nil {
		return nil, err
	}
	if held {
		if c, err := call(ctx, h.ControlPath(), request{Op: "status"}, s, nil); err == nil {
			c.Close()
			return s, nil
		}
	}
	s.fill(h)
	return s, nil
}

// status is the daemon's own answer, from memory.
func (d *daemon) status() *Status {
	v, s := d.vault.Status(), d.session
	st := &Status{
		Mounted: true, Dir: d.mount.Dir(), Store: d.place.spec.String(), User: s.User, Identity: s.Identity.String(),
		Device: s.Device.String(), DeviceName: s.DeviceName, Vault: fmt.Sprintf("%x", s.TopVault),
		ReadOnly: d.cfg.ReadOnly, FsyncStore: d.cfg.FsyncStore, PID: os.Getpid(), Version: Version(), Since: timeString(d.began),
		Head: v.Head.String(), PendingOps: v.PendingOps, PendingBytes: v.PendingBytes, Unsynced: v.Unsynced,
		Away: v.AwayReason, AwaySince: timeString(v.AwaySince), LastCommit: timeString(v.LastCommit), Problems: v.Errors,
		AwayKind: v.AwayKind, Connected: v.Connected, ConnectedSince: timeString(v.Since), PendingFiles: v.PendingFiles,
		Oldest: timeString(v.Oldest), Uploading: v.Uploading, LastError: v.LastError, LastErrorAt: timeString(v.LastErrorAt),
	}
	if v.Failed != "" {
		st.Problems = append(st.Problems, v.Failed)
	}
	c := d.cache.Stats()
	st.CacheBytes, st.CacheBudget = c.Bytes, c.Budget
	st.fill(d.place.home)
	st.JournalBytes, st.JournalBudget = v.Journal, v.JournalMost
	st.MemoryBytes, st.MemoryBudget = v.Memory, v.MemoryMost
	return st
}

// fill adds what the state folder knows.
func (s *Status) fill(h *home.Home) {
	s.StoreID, s.StateDir, s.Exported = h.ID(), h.Dir(), h.Exported()
	s.Keyfile = h.Path("keyfile")
	s.JournalBytes = treeSize(h.JournalDir())
	if all, err := h.Formers(); err == nil {
		for _, f := range all {
			s.FormerBytes += treeSize(f.JournalDir())
			switch f.End() {
			case "":
				s.FormerWait++
			case home.Left:
				s.FormerLeft++
			}
		}
	}
	if s.Problems == nil {
		s.Problems = []string{}
	}
}

func treeSize(dir string) int64 {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	var n int64
	for _, e := range entries {
		if e.IsDir() {
			n += treeSize(dir + "/" + e.Name())
		} else if fi, err := e.Info(); err == nil {
			n += fi.Size()
		}
	}
	return n
}

func timeString(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
