package fs

import (
	"context"

	"kist/crypto/seal"
	"kist/fs/log"
)

// FooterKey derives the key that seals the footers of an epoch's packs.
func FooterKey(ctx context.Context, l *log.Log, epoch uint32) (seal.Key, error) {
	return l.EpochKey(ctx, epoch, seal.LabelFooterKey)
}
