package pack

import (
	"encoding/binary"

	"kist/crypto/seal"
)

// Epoch is the epoch under whose key the footer of a pack is sealed, as the pack
// says itself; Parse proves it.
func Epoch(b []byte) (uint32, error) {
	if len(b) < fixedSize || string(b[len(b)-len(magic):]) != magic {
		return 0, ErrMalformed
	}
	return binary.BigEndian.Uint32(b[len(b)-trailerSize:]), nil
}

// Parse checks every byte of a whole pack and returns what is in it. It does not
// compare the pack with a name, nor open its blobs.
func (f Footer) Parse(b []byte) ([]Row, error) {
	epoch, err := Epoch(b)
	if err != nil || epoch != f.Epoch {
		return nil, ErrMalformed
	}
	sealedLen := int64(binary.BigEndian.Uint32(b[len(b)-trailerSize+4:]))
	end := int64(len(b) - trailerSize)
	if sealedLen > end {
		return nil, ErrMalformed
	}
	blobs := b[:end-sealedLen]
	pt, err := seal.OpenK(f.Key, seal.LabelFooter, f.context(), b[len(blobs):end])
	if err != nil {
		return nil, ErrMalformed
	}
	rows, err := parseRows(pt, len(blobs))
	if err != nil || packSize(len(blobs), len(rows)) != len(b) {
		return nil, ErrMalformed
	}
	for _, r := range rows {
		if seal.FingerprintOf(blobs[r.Offset:r.Offset+r.Len]) != r.Fingerprint {
			return nil, ErrMalformed
		}
	}
	return rows, nil
}

// parseRows decodes the plaintext of a footer behind so many bytes of blobs.
func parseRows(pt []byte, blobs int) ([]Row, error) {
	if len(pt) < 4 {
		return nil, ErrMalformed
	}
	count := int64(binary.BigEndian.Uint32(pt))
	pt = pt[4:]
	if count == 0 || count > int64(len(pt)/rowSize) {
		return nil, ErrMalformed
	}
	rows := make([]Row, count)
	off := 0
	for i := range rows {
		raw := pt[i*rowSize : (i+1)*rowSize]
		n := int(binary.BigEndian.Uint32(raw[33:]))
		rows[i] = Row{Kind: raw[32], Offset: uint32(off), Len: uint32(n), Fingerprint: seal.Fingerprint(raw[:32])}
		if !kindOK(raw[32]) || n < seal.MinBlob || n > seal.MaxBlob || n > blobs-off || !zero(raw[37:]) {
			return nil, ErrMalformed
		}
		off += n
	}
	if off != blobs || !zero(pt[count*rowSize:]) {
		return nil, ErrMalformed
	}
	return rows, nil
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
