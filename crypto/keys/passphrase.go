package keys

import (
	"crypto/rand"
	"encoding/binary"
)

const (
	consonants = "bdfghjklmnprstvz" // 4 bits
	vowels     = "aiou"             // 2 bits
	words      = 7
)

// GeneratePassphrase returns seven pronounceable words of 16 random bits each:
// 112 bits, more than any stretching could add.
func GeneratePassphrase() string {
	var bits [2 * words]byte
	rand.Read(bits[:])
	defer clear(bits[:])
	out := make([]byte, 0, 6*words)
	for i := range words {
		if i > 0 {
			out = append(out, '-')
		}
		n := binary.BigEndian.Uint16(bits[2*i:])
		out = append(out, consonants[n>>12], vowels[n>>10&3], consonants[n>>6&15], vowels[n>>4&3], consonants[n&15])
	}
	return string(out)
}
