package fs

import (
	"errors"
	"fmt"

	"kist/crypto/seal"
	"kist/fs/journal"
	"kist/fs/log"
)

// recSeen is how far this device has seen the log: the journal's word against a trust
// file of yesterday. The trust file is durable before it is written, so that whatever a
// crash leaves, the trust file is never behind the journal. It stands behind every base
// record, before every commit that is sent, so that no trimming takes the newest, and
// once a mount.
const recSeen uint8 = 6

// seenRecord is the head of the log, when the trust file of this generation knew it.
type seenRecord struct {
	Generation uint64
	Head       log.Head
	Op         uint64 // operations of this journal up to here are contained in the head
}

func (s seenRecord) encode() []byte {
	var e encoder
	e.u64(s.Generation)
	e.u64(s.Head.Seq)
	e.b = append(e.b, s.Head.Hash[:]...)
	e.u64(s.Op)
	return e.b
}

func decodeSeenRecord(b []byte) (seenRecord, error) {
	d := decoder{b: b}
	s := seenRecord{Generation: d.u64(), Head: log.Head{Seq: d.u64(), Hash: log.Hash(d.take(32))}, Op: d.u64()}
	if d.bad || len(d.b) != 0 {
		return s, fmt.Errorf("%w: head seen", errOpDecode)
	}
	return s, nil
}

// witness notes the head of the log. If the journal does not take it, the older note
// stands: it proves less and nothing wrong.
func (v *Vault) witness() {
	head := v.log.Head()
	s := seenRecord{Generation: v.opt.Trust.Generation(), Head: head.Head}
	if row := head.Row(v.opt.Session.Device); row != nil && row.Journal == v.jrn.ID() {
		s.Op = row.Op
	}
	_, _ = v.jrn.Append(recSeen, s.encode(), nil, journal.Urgent|journal.Promised)
}

// lastSeen is the newest note of a journal; of an old journal there may be none. Not the
// highest one: a person may have decided to go back.
func lastSeen(replay *journal.Replay) (s seenRecord, err error) {
	err = replay.Each(0, func(r journal.Record) (err error) {
		if r.Kind == recSeen {
			s, err = decodeSeenRecord(r.Meta)
		}
		return err
	})
	return s, err
}

// compareTrust refuses a trust file that is older than what the journal knows, before
// the log is followed. Where one copy of the trust file is lost, the other may be one
// step behind; the journal then makes up for the step.
func compareTrust(replay *journal.Replay, trust *log.Trust, vault seal.VaultID) error {
	seen, err := lastSeen(replay)
	if err != nil || seen.Generation == 0 {
		return err
	}
	knows, _ := trust.Vault(vault)
	if !trust.MayBeNewest(seen.Generation) {
		return fmt.Errorf("%w: it knows the log up to commit %s, the journal up to %s. The file was put back or restored; nothing was changed. "+
			"«kist trust reset» accepts what the store shows now", log.ErrOldTrust, knows, seen.Head)
	}
	if knows.Seq < seen.Head.Seq {
		return trust.Advance(vault, seen.Head, nil)
	}
	return nil
}

// AcceptTrust tells a journal of a decision about the trust file: from here on the one
// given is right, whatever the journal knew. It takes the disk over.
func AcceptTrust(disk journal.Disk, key seal.Key, vault seal.VaultID, trust *log.Trust) error {
	jrn, replay, err := journal.Open(disk, key, journal.Options{Vault: vault})
	if errors.Is(err, journal.ErrKey) {
		return nil // what does not open contradicts nothing
	}
	if err != nil {
		return err
	}
	s, err := lastSeen(replay)
	if err == nil {
		s.Generation = trust.Generation()
		s.Head, _ = trust.Vault(vault)
		_, err = jrn.Append(recSeen, s.encode(), nil, journal.Urgent)
	}
	return errors.Join(err, jrn.Close())
}
