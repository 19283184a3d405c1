package log

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"kist/crypto/keys"
	"kist/crypto/seal"
)

// Limits of the format.
const (
	MaxCommit  = 3 << 20
	MaxDevice  = 8191 // also the highest device number
	MaxMembers = 512
	MaxState   = 64 << 10 // bytes of tree state
	MaxRanges  = 256
	MaxVoids   = 1024
	MaxHeads   = 256

	maxPast   = 4096
	maxRange  = 64 << 20
	magic     = "kist/log"
	version   = 1
	suite     = 1
	headerLen = len(magic) + 1 + 1 + 32 + 8 + 4 + 8 + 32 + 32
	sigEd     = 1
	sigsLen   = 1 + 1 + 64
	maxClear  = 32 + 4 + historyLen + 4 + MaxMembers*keys.WrapSize
)

// header is the public, authenticated beginning of a commit object.
type header struct {
	vault  seal.VaultID
	seq    uint64
	epoch  uint32
	roster uint64
	prev   Hash
	clear  Hash
}

func (h header) encode() []byte {
	w := make(writer, 0, headerLen)
	w.bytes([]byte(magic))
	w.u8(version)
	w.u8(suite)
	w.bytes(h.vault[:])
	w.u64(h.seq)
	w.u32(h.epoch)
	w.u64(h.roster)
	w.bytes(h.prev[:])
	w.bytes(h.clear[:])
	return w
}

// object is a commit as it stands in its slot, taken apart but not yet believed.
type object struct {
	header
	head   []byte // the header's bytes
	clear  []byte
	sealed []byte
	hash   Hash
}

// parseObject checks the layout of a slot's bytes and that they are for this
// slot. Its errors are verdicts: bad (void) or ErrNewer.
func parseObject(raw []byte, vault seal.VaultID, seq uint64) (*object, error) {
	if len(raw) > MaxCommit {
		return nil, bad("larger than a commit may be")
	}
	if len(raw) < len(magic)+2 || string(raw[:len(magic)]) != magic {
		return nil, bad("not a commit")
	}
	if v, s := raw[len(magic)], raw[len(magic)+1]; v > version || v == version && s > suite {
		return nil, fmt.Errorf("commit %d: %w", seq, ErrNewer)
	}
	r := reader{rest: raw}
	head := r.take(headerLen)
	clear := r.field(maxClear)
	if r.bad {
		return nil, bad("truncated")
	}
	h := reader{rest: head}
	h.take(len(magic))
	h.require(h.u8() == version && h.u8() == suite)
	o := &object{head: head, clear: clear, sealed: r.rest, hash: hashObject(raw)}
	o.header = header{
		vault: h.b32(), seq: h.u64(), epoch: h.u32(), roster: h.u64(),
		prev: h.b32(), clear: h.b32(),
	}
	switch {
	case !h.end():
		return nil, bad("malformed header")
	case o.vault != vault || o.seq != seq:
		return nil, bad("another slot's commit")
	case sha256.Sum256(clear) != o.header.clear:
		return nil, bad("the clear part is not the header's")
	}
	return o, nil
}

// hashObject is the hash of a commit: header ‖ H(rest).
func hashObject(raw []byte) Hash {
	rest := sha256.Sum256(raw[headerLen:])
	h := sha256.New()
	h.Write(raw[:headerLen])
	h.Write(rest[:])
	return Hash(h.Sum(nil))
}

// transcript is what a commit's signature is over.
func transcript(head, body []byte) []byte {
	sum := sha256.Sum256(body)
	return append(head[:len(head):len(head)], sum[:]...)
}

// sealCommit signs and seals a body under a header.
func sealCommit(s *keys.Session, key seal.Key, h header, clear, body []byte) []byte {
	head := h.encode()
	sig := s.Sign(seal.LabelSigCommit, transcript(head, body))
	return assemble(key, head, clear, body, sig)
}

func assemble(key seal.Key, head, clear, body, sig []byte) []byte {
	var pt writer
	pt.field(body)
	pt.u8(1)
	pt.u8(sigEd)
	pt.bytes(sig)
	pt = append(pt, make([]byte, seal.Padded(len(pt))-len(pt))...)
	out := writer(head[:len(head):len(head)])
	out.field(clear)
	out.bytes(seal.SealK(key, seal.LabelCommit, head, pt))
	return out
}

// open unseals the object and returns body and signature.
func (o *object) open(key seal.Key) (body, sig []byte, err error) {
	pt, err := seal.OpenK(key, seal.LabelCommit, o.head, o.sealed)
	if err != nil {
		return nil, nil, bad("does not open")
	}
	if len(pt) < 4+sigsLen {
		return nil, nil, bad("too short")
	}
	used := 4 + int64(binary.BigEndian.Uint32(pt)) + sigsLen
	if used > int64(len(pt)) || seal.Padded(int(used)) != len(pt) {
		return nil, nil, bad("malformed padding")
	}
	r := reader{rest: pt}
	body = r.field(MaxCommit)
	r.require(r.u8() == 1 && r.u8() == sigEd)
	sig = r.take(64)
	for _, b := range r.rest {
		r.require(b == 0)
	}
	if r.bad {
		return nil, nil, bad("malformed signature or padding")
	}
	return body, sig, nil
}

// badCommit is the verdict void with its reason, which is for people.
type badCommit struct{ why string }

func (b *badCommit) Error() string { return "not a valid commit: " + b.why }

func bad(format string, args ...any) error { return &badCommit{fmt.Sprintf(format, args...)} }
