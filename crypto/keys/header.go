package keys

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// StoreHeader is the public object kist.json. Nothing signs it: the store id is
// authenticated by use, for it stands in every keyfile and every genesis.
type StoreHeader struct {
	Format  int
	StoreID StoreID
}

const (
	// StoreFormat is the format this program reads and writes.
	StoreFormat = 1
	// MaxStoreHeader is the largest kist.json.
	MaxStoreHeader = 256

	storePrefix = `{"format":`
	storeMiddle = `,"store":"`
	storeSuffix = "\"}\n"
)

// Encode returns the exact bytes of kist.json.
func (h StoreHeader) Encode() []byte {
	return fmt.Appendf(nil, "%s%d%s%s%s", storePrefix, h.Format, storeMiddle, h.StoreID, storeSuffix)
}

// ParseStoreHeader accepts exactly what Encode writes in this format. The only
// error is [ErrHeader].
func ParseStoreHeader(raw []byte) (StoreHeader, error) {
	h := StoreHeader{Format: StoreFormat}
	if len(raw) > MaxStoreHeader {
		return StoreHeader{}, fmt.Errorf("%w: it is too long", ErrHeader)
	}
	rest, ok := strings.CutPrefix(string(raw), fmt.Sprintf("%s%d%s", storePrefix, StoreFormat, storeMiddle))
	if !ok {
		return StoreHeader{}, fmt.Errorf("%w: it is not one, or of another version of the format", ErrHeader)
	}
	id, ok := strings.CutSuffix(rest, storeSuffix)
	if n, err := hex.Decode(h.StoreID[:], []byte(id[:min(len(id), 64)])); !ok || err != nil || n != 32 || string(h.Encode()) != string(raw) {
		return StoreHeader{}, fmt.Errorf("%w: its store id is damaged", ErrHeader)
	}
	return h, nil
}
