package log

import (
	"bytes"
	"slices"

	"kist/crypto/keys"
)

// checkState holds what a commit of each kind may change. What needs the commit
// before is skipped on first contact, when that is not known.
func (b before) checkState(o *object, bd *body) error {
	newEpoch := bd.roster != nil && bd.roster.Epoch != b.roster.Roster.Epoch
	if err := checkClear(o, bd, newEpoch); err != nil {
		return err
	}
	if bd.kind == Membership {
		return b.checkRoster(bd)
	}
	if !b.pointsFollow(bd) {
		return bad("identity points that do not follow")
	}
	if b.prev == nil {
		return nil
	}
	if bd.kind == Numbering {
		return checkNumbering(b.prev, bd)
	}
	return checkRows(b.prev.Devices, bd)
}

// checkRows: an ordinary commit moves its author's own row, forward.
func checkRows(old []DeviceRow, bd *body) error {
	if len(old) != len(bd.devices) {
		return bad("rows appeared or went")
	}
	mine := false
	for i, was := range old {
		now := bd.devices[i]
		switch {
		case now.Device != was.Device || now.Number != was.Number:
			return bad("a device's number changed")
		case was.Device != bd.device && now != was:
			return bad("another device's row changed")
		case now.HighIno < was.HighIno:
			return bad("inode numbers would be given twice")
		case now.Journal == was.Journal && (now.Op < was.Op || now.Op == was.Op && now.Run != was.Run):
			return bad("the journal's position went back")
		}
		mine = mine || was.Device == bd.device
	}
	if !mine {
		return bad("the device has no number")
	}
	return nil
}

// checkNumbering: one row more, of the author's device, and nothing else.
func checkNumbering(prev *Commit, bd *body) error {
	at := slices.IndexFunc(bd.devices, func(d DeviceRow) bool { return d.Device == bd.device })
	if at < 0 || prev.Row(bd.device) != nil {
		return bad("no new row for the author's device")
	}
	if !slices.Equal(slices.Delete(slices.Clone(bd.devices), at, at+1), prev.Devices) {
		return bad("more than the author's row changed")
	}
	return checkSameTree(prev, bd)
}

func checkSameTree(prev *Commit, bd *body) error {
	if !bytes.Equal(prev.Root, bd.root) || len(bd.nodes) > 0 {
		return bad("the tree changed")
	}
	return nil
}

// checkRoster: a membership commit continues the roster before it.
func (b before) checkRoster(bd *body) error {
	old, now := b.roster.Roster, bd.roster
	past := append(slices.Clone(old.Past), b.roster.Head)
	if !slices.Equal(now.Past, past) {
		return bad("the membership commits before it are not these")
	}
	if !samePoints(bd.points, now.pins()) {
		return bad("identity points that are not the roster's")
	}
	switch {
	case now.Epoch == old.Epoch && now.ESCommit == old.ESCommit && !leaves(old, now):
	case now.Epoch == old.Epoch+1 && now.ESCommit != old.ESCommit:
	default:
		return bad("the epoch does not follow")
	}
	floor := b.points()
	for _, m := range now.Members {
		seen, ok := findPoint(floor, m.Identity)
		if m.Identity == bd.author {
			seen, ok = bd.point, true
		}
		if ok && (m.Pin.Seq < seen.Seq || m.Pin.Seq == seen.Seq && m.Pin != seen) {
			return bad("a member's identity went back")
		}
	}
	if b.prev == nil {
		return nil
	}
	if !slices.Equal(b.prev.Devices, bd.devices) {
		return bad("the device table changed")
	}
	return checkSameTree(b.prev, bd)
}

// leaves reports whether somebody is no member any more.
func leaves(old, now *Roster) bool {
	return slices.ContainsFunc(old.Members, func(m Member) bool { return now.role(m.Identity) == 0 })
}

func (r *Roster) pins() []IdentityHead {
	out := make([]IdentityHead, len(r.Members))
	for i, m := range r.Members {
		out[i] = IdentityHead{m.Identity, m.Pin}
	}
	return out
}

// pointsFollow: the points after an ordinary or numbering commit are those
// before it, the author's raised.
func (b before) pointsFollow(bd *body) bool {
	if b.prev != nil {
		return samePoints(bd.points, raise(b.prev.Identities, bd.author, bd.point))
	}
	pins := b.roster.Roster.pins()
	if len(pins) != len(bd.points) {
		return false
	}
	for i, p := range bd.points {
		if p.Identity != pins[i].Identity || p.Seq < pins[i].Seq || p.Seq == pins[i].Seq && p != pins[i] {
			return false
		}
	}
	at, _ := findPoint(bd.points, bd.author)
	return at == bd.point
}

func raise(points []IdentityHead, id keys.IdentityID, to Head) []IdentityHead {
	out := slices.Clone(points)
	for i := range out {
		if out[i].Identity == id {
			out[i].Head = to
		}
	}
	return out
}

func findPoint(points []IdentityHead, id keys.IdentityID) (Head, bool) {
	for _, p := range points {
		if p.Identity == id {
			return p.Head, true
		}
	}
	return Head{}, false
}

func samePoints(a, b []IdentityHead) bool { return slices.Equal(a, b) }
