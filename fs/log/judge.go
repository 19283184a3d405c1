package log

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"kist/crypto/keys"
	"kist/crypto/seal"
)

// before is the state that a commit is judged by.
type before struct {
	roster *Commit // the membership commit in force
	prev   *Commit // the commit before; nil on first contact, when only the roster is known
	voids  []Void  // the slots since prev
}

// judge is the one door for bytes from a slot. Its error is a verdict (badCommit:
// void; ErrNewer, ErrFork, ErrNotMember, ErrWithheld: stop), or says why there is
// none yet.
func (l *Log) judge(ctx context.Context, raw []byte, seq uint64, b before) (*Commit, error) {
	c, err := l.judgeNext(ctx, raw, seq, b)
	if isBad(err) {
		if stop := l.gone(ctx, raw, seq, b); stop != nil {
			return nil, stop
		}
	}
	return c, err
}

// judgeNext holds a commit against all rules, in the order of the format.
func (l *Log) judgeNext(ctx context.Context, raw []byte, seq uint64, b before) (*Commit, error) {
	o, err := parseObject(raw, l.vault, seq)
	if err != nil {
		return nil, err
	}
	if o.epoch != b.roster.Roster.Epoch || o.roster != b.roster.Seq {
		return nil, bad("another epoch or roster is in force")
	}
	bd, sig, err := l.unseal(o)
	if err != nil {
		return nil, err
	}
	if bd.genesis != nil || bd.rosterAt != b.roster.Head {
		return nil, bad("made under another roster")
	}
	if !allowed(b.roster.Roster.role(bd.author), bd.kind) {
		return nil, bad("the author's role does not allow it")
	}
	if err := b.checkPoint(bd); err != nil {
		return nil, err
	}
	if err := l.checkAuthor(ctx, o, bd, sig); err != nil {
		return nil, err
	}
	if err := b.checkChain(o, bd); err != nil {
		return nil, err
	}
	if err := b.checkState(o, bd); err != nil {
		return nil, err
	}
	if l.cfg.CheckRoot(bd.root) != nil {
		return nil, bad("the tree's state does not parse")
	}
	c := bd.commit(Head{seq, o.hash}, o.epoch, o.prev)
	if c.Roster == nil {
		c.Roster = b.roster.Roster
	}
	return c, nil
}

// judgeGenesis judges slot 0, which has no state before it.
func (l *Log) judgeGenesis(ctx context.Context, raw []byte) (*Commit, error) {
	o, err := parseObject(raw, l.vault, 0)
	if err != nil {
		return nil, err
	}
	if o.epoch != 0 || o.roster != 0 || o.prev != (Hash{}) {
		return nil, bad("a first commit with something before it")
	}
	bd, sig, err := l.unseal(o)
	if err != nil {
		return nil, err
	}
	r := bd.roster
	if bd.genesis == nil || r == nil || vaultID(bd.encode()) != l.vault {
		return nil, bad("not this vault's first commit")
	}
	alone := len(r.Members) == 1 && r.Members[0] == Member{bd.author, Owner, bd.point} &&
		r.Epoch == 0 && len(r.Past) == 0
	empty := bd.rosterAt == Head{} && len(bd.devices)+len(bd.voids)+len(bd.nodes) == 0
	if !alone || !empty || !samePoints(bd.points, r.pins()) || len(bd.identity) == 0 {
		return nil, bad("malformed first commit")
	}
	if err := l.checkAuthor(ctx, o, bd, sig); err != nil {
		return nil, err
	}
	if bd.genesis.store != l.cfg.Session.Store || bd.genesis.master != l.masterOf(bd) {
		return nil, bad("a vault of another store or founder")
	}
	if err := checkClear(o, bd, false); err != nil {
		return nil, err
	}
	if l.cfg.CheckRoot(bd.root) != nil {
		return nil, bad("the tree's state does not parse")
	}
	return bd.commit(Head{0, o.hash}, 0, Hash{}), nil
}

func vaultID(body []byte) seal.VaultID { return seal.Hash(seal.LabelGenesis, body) }

func (l *Log) masterOf(bd *body) (out [32]byte) {
	who, err := l.people.take(IdentityHead{bd.author, bd.point}, bd.identity)
	if err == nil {
		copy(out[:], who.state.Master)
	}
	return out
}

func (l *Log) unseal(o *object) (*body, []byte, error) {
	es, ok := l.secret(o.epoch)
	if !ok {
		return nil, nil, fmt.Errorf("epoch %d: %w", o.epoch, ErrNotMember)
	}
	raw, sig, err := o.open(commitKey(es, l.vault, o.epoch))
	if err != nil {
		return nil, nil, err
	}
	bd, err := parseBody(raw)
	return bd, sig, err
}

// allowed is the role table.
func allowed(r Role, k Kind) bool {
	switch k {
	case Ordinary, Numbering:
		return r == Writer || r == Owner
	case Membership:
		return r == Owner
	}
	return false
}

// checkPoint: an identity's chain only goes forward in a log, and a point new to
// the log brings its object along, so that nobody can name one that is not there.
func (b before) checkPoint(bd *body) error {
	if err := b.checkFloor(bd); err != nil {
		return err
	}
	known, _ := findPoint(b.points(), bd.author)
	if b.prev != nil && (len(bd.identity) > 0) != (bd.point != known) {
		return bad("identity object missing or superfluous")
	}
	return nil
}

func (b before) checkFloor(bd *body) error {
	known, ok := findPoint(b.points(), bd.author)
	if !ok {
		return bad("the author is not a member")
	}
	if bd.point.Seq < known.Seq || bd.point.Seq == known.Seq && bd.point != known {
		return bad("the author's identity went back")
	}
	return nil
}

// points are the identity points of the state before; on first contact those
// that the roster pins, which are not above them.
func (b before) points() []IdentityHead {
	if b.prev != nil {
		return b.prev.Identities
	}
	return b.roster.Roster.pins()
}

// checkAuthor: the device is certified at the point named, and it signed.
func (l *Log) checkAuthor(ctx context.Context, o *object, bd *body, sig []byte) (err error) {
	at := IdentityHead{bd.author, bd.point}
	var who person
	if len(bd.identity) > 0 {
		who, err = l.people.take(at, bd.identity)
	} else {
		who, err = l.people.find(ctx, at)
	}
	if err != nil {
		return err
	}
	key, ok := who.state.DeviceKey(bd.device)
	if !ok {
		return bad("the device is not certified, or was revoked")
	}
	if keys.VerifyDevice(key, seal.LabelSigCommit, transcript(o.head, bd.encode()), sig) != nil {
		return bad("the signature does not verify")
	}
	return nil
}

// checkChain compares what the commit follows with what is there. Whoever names
// the right slots as void and signs after another commit has seen another
// history: that is not junk to be skipped.
func (b before) checkChain(o *object, bd *body) error {
	if b.prev == nil {
		n := uint64(len(bd.voids))
		if n > 0 && (bd.voids[n-1].Seq+1 != o.seq || bd.voids[0].Seq == 0) {
			return bad("void slots that are not below it")
		}
		return nil
	}
	if len(bd.voids) != len(b.voids) {
		return bad("void slots named wrongly")
	}
	for i, v := range b.voids {
		if bd.voids[i] != v {
			return bad("void slots named wrongly")
		}
	}
	if o.prev != b.prev.Hash {
		return fmt.Errorf("%w: this device saw commit %s; commit %s follows another one (%s)",
			ErrFork, b.prev.Head, Head{o.seq, o.hash}, o.prev.Short())
	}
	return nil
}

// checkClear: membership commits have a clear part that belongs to the roster;
// others have none.
func checkClear(o *object, bd *body, newEpoch bool) error {
	if bd.roster == nil {
		if len(o.clear) != 0 {
			return bad("a clear part without a roster")
		}
		return nil
	}
	c, err := parseClear(o.clear)
	if err != nil {
		return err
	}
	if c.roster != bd.roster.hash(bd.author) || (c.history != nil) != newEpoch || len(c.wraps) < len(bd.roster.Members) {
		return bad("the clear part is not the roster's")
	}
	return nil
}

// isBad reports whether err is the verdict void.
func isBad(err error) bool {
	var b *badCommit
	return errors.As(err, &b)
}

// doubtful verdicts rest on bytes that nobody vouched for: damage on the way
// looks the same.
func doubtful(err error) bool { return isBad(err) || errors.Is(err, ErrNewer) }

// nameOf hashes a slot's bytes as the next commit will name them.
func nameOf(seq uint64, raw []byte) Void { return Void{seq, sha256.Sum256(raw)} }
