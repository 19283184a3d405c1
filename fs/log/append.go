package log

import (
	"bytes"
	"context"
	"fmt"
)

// Append puts p into its slot. nil: it is in the log, and was read back. ErrLost:
// the slot holds something else; call Next, once at least, then prepare
// again. Any other error: unknown; Append the same Pending again (after a
// restart: Resume), for no other bytes will be signed for this slot.
func (l *Log) Append(ctx context.Context, p *Pending) error {
	if err := l.begin(ctx); err != nil {
		return err
	}
	defer l.end()
	err := l.meet(ctx)
	if err == nil {
		err = l.reassure(ctx)
	}
	if err != nil {
		return fmt.Errorf("commit %d: %w: %w", p.Seq, ErrUnknown, err)
	}
	return l.append(ctx, p)
}

// Resume takes up bytes that were journalled before a crash, with the same
// answers as Append. Call it before Prepare.
func (l *Log) Resume(ctx context.Context, pending []byte) error {
	p, err := pendingFrom(pending)
	if err != nil {
		return err
	}
	return l.Append(ctx, p)
}

func pendingFrom(raw []byte) (*Pending, error) {
	if len(raw) < headerLen {
		return nil, fmt.Errorf("%w: the pending commit is damaged", ErrBody)
	}
	r := reader{rest: raw[len(magic)+2+32:]}
	return &Pending{Head: Head{r.u64(), hashObject(raw)}, Bytes: raw}, nil
}

func (l *Log) append(ctx context.Context, p *Pending) error {
	slot := l.slot()
	if p.Seq < slot {
		return l.settled(ctx, p)
	}
	if p.Seq > slot {
		return fmt.Errorf("%w: this device prepared commit %s, the store's newest is %s", ErrRollback, p.Head, l.Head().Head)
	}
	if l.ahead != nil {
		return l.classify(ctx, p, l.ahead)
	}
	mine, err := l.judgeOwn(ctx, p)
	if err != nil {
		return err
	}
	if err := l.mark(p); err != nil {
		return err
	}
	err = l.cfg.Store.Create(ctx, l.key(p.Seq), p.Bytes)
	if ctx.Err() != nil {
		return fmt.Errorf("commit %d: %w: %w", p.Seq, ErrUnknown, ctx.Err())
	}
	return l.readBack(ctx, p, mine, err)
}

// judgeOwn holds one's own bytes against the rules before they are sent: a slot
// is never given away for bytes that others would call void.
func (l *Log) judgeOwn(ctx context.Context, p *Pending) (*Commit, error) {
	c, err := l.judge(ctx, p.Bytes, p.Seq, l.state())
	if isBad(err) {
		return nil, fmt.Errorf("commit %d: %w (%w)", p.Seq, ErrBody, err)
	}
	return c, err
}

// mark notes what is on its way for a slot. From here on nothing else is signed
// for it, in this process by mark, after a crash by the caller's journal.
func (l *Log) mark(p *Pending) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sent != nil && l.sent.Seq == p.Seq && l.sent.Hash != p.Hash {
		return fmt.Errorf("commit %d: %w", p.Seq, ErrPending)
	}
	l.sent = p
	return nil
}

// readBack decides what became of a Create. Its answer is not asked: a success
// may have been granted twice, and a refusal may be about one's own bytes.
func (l *Log) readBack(ctx context.Context, p *Pending, mine *Commit, created error) error {
	raw, err := l.get(ctx, p.Seq)
	if err != nil {
		if created != nil {
			err = fmt.Errorf("%w; reading back: %w", created, err)
		}
		return fmt.Errorf("commit %d: %w: %w", p.Seq, ErrUnknown, err)
	}
	if bytes.Equal(raw, p.Bytes) {
		return l.take(ctx, &read{mine, raw}, true)
	}
	found, err := l.step(ctx, p.Seq, raw)
	if err != nil {
		return err
	}
	if found == nil {
		return fmt.Errorf("commit %d: junk: %w", p.Seq, ErrLost)
	}
	return l.classify(ctx, p, found)
}

// classify: a valid commit stands in the slot. It is one's own, or it is kept so
// that Next need not read it again.
func (l *Log) classify(ctx context.Context, p *Pending, found *read) error {
	if found.c.Hash == p.Hash {
		return l.take(ctx, found, true)
	}
	l.ahead = found
	l.mu.Lock()
	l.sent = nil
	l.mu.Unlock()
	return fmt.Errorf("commit %d: %w", p.Seq, ErrLost)
}
