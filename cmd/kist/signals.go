package main

import (
	"context"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
)

// interrupts is what SIGINT and SIGTERM do. The first ends the context of the
// verb. A second ends the process at once, unless it serves a mount: then it
// closes hurry, and the third ends the process. The journal keeps what is there
// in any case.
type interrupts struct {
	serving atomic.Bool
	hurry   chan struct{}
}

func listenForSignals() (context.Context, *interrupts) {
	in := &interrupts{hurry: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	c := make(chan os.Signal, 2)
	signal.Notify(c, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-c
		if in.serving.Load() {
			cancel()
			<-c
			close(in.hurry)
		}
		signal.Stop(c)
		cancel()
	}()
	return ctx, in
}
