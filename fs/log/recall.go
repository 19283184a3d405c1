package log

import (
	"context"
	"errors"
	"fmt"

	"kist/backend"
)

// Recall opens a log where Open can't, because the store is away: on the head that
// this device remembers, out of the cache. The cache is as little trusted as the
// store, and what it shows is held against the same hash. The log that comes back
// follows and appends like any other; only that the first call which asks the store
// begins with what Open would have asked: whether the store still shows that head,
// and what came after it.
func Recall(ctx context.Context, cfg Config) (*Log, error) {
	seen, ok := cfg.Trust.Vault(cfg.Vault)
	if !ok || cfg.Known.Seq > seen.Seq {
		return nil, ErrForgotten
	}
	l := newLog(cfg)
	raw, err := l.pinned(ctx, seen)
	if err != nil {
		return nil, err
	}
	if err := l.stand(ctx, seen, raw); err != nil {
		return nil, err
	}
	l.unmet = true
	return l, nil
}

// Doubt makes the next Append ask first whether the store still shows the head: after an
// outage another disk may be there, or yesterday's.
func (l *Log) Doubt() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.doubt = true
}

// reassure is the end of a doubt.
func (l *Log) reassure(ctx context.Context) error {
	l.mu.Lock()
	doubt, head := l.doubt, l.head.Head
	l.mu.Unlock()
	if !doubt {
		return nil
	}
	raw, err := l.get(ctx, head.Seq)
	if err != nil && !errors.Is(err, backend.ErrNotExist) {
		return err
	}
	if _, err := l.confirm(ctx, head, raw); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.doubt = false
	return nil
}

// Recalled reports whether the head has yet to be confirmed by the store.
func (l *Log) Recalled() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.unmet
}

// meet is the first contact of a log that was recalled.
func (l *Log) meet(ctx context.Context) error {
	if !l.Recalled() {
		return nil
	}
	head := l.Head().Head
	got, err := l.readMany(ctx, []uint64{head.Seq, l.slot()})
	if err != nil {
		return err
	}
	if _, err := l.confirm(ctx, head, got[0]); err != nil {
		return err
	}
	// What was read before an error counts, too: it may have been shown by Head.
	err = errors.Join(l.catchUp(ctx, got[1:]), l.remember(l.Head()))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unmet = err != nil
	return err
}

// Hold takes up bytes that were journalled before a crash and sends nothing: from
// here on no others are signed for their slot until Append has told their fate. The
// commit is returned as its author meant it; nobody has judged it.
func (l *Log) Hold(pending []byte) (*Pending, *Commit, error) {
	p, err := pendingFrom(pending)
	if err != nil {
		return nil, nil, err
	}
	o, err := parseObject(pending, l.vault, p.Seq)
	if err != nil {
		return nil, nil, fmt.Errorf("commit %d: %w (%w)", p.Seq, ErrBody, err)
	}
	c, err := l.recall(o)
	if err != nil {
		return nil, nil, fmt.Errorf("commit %d: %w (%w)", p.Seq, ErrBody, err)
	}
	return p, c, l.mark(p)
}
