package fs

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"kist/crypto/seal"
	"kist/fs/journal"
	"kist/fs/tree"
)

// DamageText says of a stretch of the journal what is missing and where its bytes are.
func DamageText(d journal.Damage) string {
	missing := "which records are missing is not known"
	switch {
	case d.First > 0 && d.Last > 0:
		missing = fmt.Sprintf("records %d to %d are missing", d.First, d.Last)
	case d.First > 0:
		missing = fmt.Sprintf("what it held from record %d on is missing", d.First)
	}
	return fmt.Sprintf("the journal is damaged: %s; %d bytes of segment %s, from byte %d on, were put aside and are kept: kist journal inspect",
		missing, d.Bytes, strings.TrimSuffix(d.File, filepath.Ext(d.File)), d.Off)
}

// JournalReport is what a journal holds, as far as it can be read without the store.
type JournalReport struct {
	Seen    string      `json:"commit"` // the newest that this device knew
	Pending []PendingOp `json:"pending"`
	Damage  []string    `json:"damage"` // the last ones are found now: the next mount puts them aside
	Aside   []AsideFile `json:"put_aside"`
}

// PendingOp is one operation that the newest commit known did not contain.
type PendingOp struct {
	N     uint64    `json:"record"`
	Kind  string    `json:"kind"`
	Time  time.Time `json:"time"`
	Bytes uint64    `json:"bytes,omitempty"` // of content
	Path  string    `json:"path,omitempty"`  // "" for what has no name, or several
	To    string    `json:"to,omitempty"`    // of a rename, an exchange or a link
}

// AsideFile is a file that was put aside, and what of it still verifies.
type AsideFile struct {
	File    string `json:"file"`
	Bytes   int64  `json:"bytes"`
	Records int    `json:"records"`
	First   uint64 `json:"first_record,omitempty"`
	Last    uint64 `json:"last_record,omitempty"`
	Whole   int    `json:"whole_records"` // with their content
	Content int64  `json:"content_bytes"` // of these
}

func asideFile(a journal.AsideInfo) AsideFile {
	f := AsideFile{File: a.File, Bytes: a.Bytes, Records: len(a.Records)}
	if f.Records > 0 {
		f.First, f.Last = a.Records[0].N, a.Records[f.Records-1].N
	}
	for _, r := range a.Records {
		if r.Whole {
			f.Whole++
			f.Content += int64(r.Payload)
		}
	}
	return f
}

var opNames = map[opKind]string{opCreate: "create", opLink: "link", opUnlink: "remove", opRename: "rename", opExchange: "exchange",
	opAttr: "attributes", opSetXattr: "set xattr", opDelXattr: "remove xattr", opWrite: "write", opPunch: "make a hole"}

// InspectJournal reads a journal and changes nothing; it may be in use.
func InspectJournal(disk journal.Disk, key seal.Key, vault seal.VaultID) (*JournalReport, error) {
	view, err := journal.Look(disk, key, journal.Options{Vault: vault})
	if err != nil {
		return nil, err
	}
	defer view.Close()
	seen, err := lastSeen(view.Replay)
	if err != nil {
		return nil, err
	}
	r := &JournalReport{Seen: seen.Head.String(), Pending: []PendingOp{}, Damage: []string{}, Aside: []AsideFile{}}
	for _, d := range slices.Concat(view.Known, view.Replay.Damage) {
		r.Damage = append(r.Damage, DamageText(d))
	}
	for _, a := range view.Aside {
		r.Aside = append(r.Aside, asideFile(a))
	}
	where := map[Ino]place{}
	return r, view.Replay.Each(0, func(rec journal.Record) error {
		switch rec.Kind {
		case recDir:
			d, err := decodeDirRecord(rec.Meta)
			if err == nil {
				where[d.Ino] = d.At
			}
			return err
		case recOp:
			o, err := decodeOp(rec.N, rec.Meta)
			if err != nil {
				return err
			}
			follow(where, o)
			if o.N > seen.Op {
				r.Pending = append(r.Pending, pendingOp(where, o))
			}
		}
		return nil
	})
}

// follow keeps the places of directories, below which names stand.
func follow(where map[Ino]place, o *op) {
	switch o.Kind {
	case opCreate:
		if len(o.Rec) > 0 && tree.Type(o.Rec[0]) == tree.TypeDir {
			where[o.Ino] = o.To
		}
	case opRename, opExchange:
		if _, dir := where[o.Ino]; dir {
			where[o.Ino] = o.To
		}
		if _, dir := where[o.ToIno]; dir && o.Kind == opExchange {
			where[o.ToIno] = o.At
		}
	}
}

func pendingOp(where map[Ino]place, o *op) PendingOp {
	p := PendingOp{N: o.N, Kind: opNames[o.Kind], Time: time.Unix(o.Time.Sec, int64(o.Time.Nsec)), Path: pathOf(where, o.At), To: pathOf(where, o.To)}
	if o.Kind == opWrite {
		p.Bytes = o.Len
	}
	if o.Kind == opCreate {
		p.Path, p.To = p.To, ""
	}
	return p
}

// pathOf is a place as a path from the top; what is not known of it is «…».
func pathOf(where map[Ino]place, at place) string {
	path := ""
	for depth := 0; at.Parent != 0; depth++ {
		path = "/" + at.Name + path
		if at.Parent == RootIno {
			return path
		}
		up, ok := where[at.Parent]
		if !ok || depth > tree.MaxName {
			return "…" + path
		}
		at = up
	}
	return path
}

// explainJournal adds to what Open says of a journal that can't be used.
func explainJournal(err error) error {
	if errors.Is(err, journal.ErrKey) {
		return fmt.Errorf("%w; «kist id device new» makes a new device, and keeps the journal as it is", err)
	}
	return err
}
