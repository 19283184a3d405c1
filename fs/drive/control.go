package drive

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

const maxLine = 1 << 20

// request is what a verb sends: one line of JSON.
type request struct {
	Op       string        `json:"op"` // status, sync, umount, yield, check
	NoDrain  bool          `json:"no_drain,omitempty"`
	ReadData bool          `json:"read_data,omitempty"`
	Timeout  time.Duration `json:"timeout,omitempty"`
}

// reply is what the daemon sends: any number of lines of progress, then one
// that is done.
type reply struct {
	Progress string          `json:"progress,omitempty"`
	Done     bool            `json:"done,omitempty"`
	Code     int             `json:"code,omitempty"`
	Error    string          `json:"error,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
}

// handler carries a request out. The context ends when the verb goes away.
type handler func(ctx context.Context, req request, progress func(string)) (any, error)

// server answers on a socket.
type server struct {
	l      net.Listener
	handle handler
	wg     sync.WaitGroup
}

// listen takes the place of whatever socket a dead daemon left: the caller
// holds the state folder's lock.
func listen(path string, h handler) (*server, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := listenUnix(path)
	if err != nil {
		return nil, fmt.Errorf("the daemon's socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	s := &server{l: l, handle: h}
	s.wg.Go(s.accept)
	return s, nil
}

func (s *server) accept() {
	for {
		c, err := s.l.Accept()
		if err != nil {
			return
		}
		s.wg.Go(func() { s.serve(c) })
	}
}

// close stops listening and waits until the answers that are under way have
// been given.
func (s *server) close() {
	s.l.Close()
	s.wg.Wait()
}

func (s *server) serve(c net.Conn) {
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	r := bufio.NewReader(io.LimitReader(c, maxLine))
	line, err := r.ReadBytes('\n')
	if err != nil {
		return
	}
	var req request
	if err := json.Unmarshal(line, &req); err != nil {
		return
	}
	c.SetReadDeadline(time.Time{})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { // a verb that was interrupted closes its end
		io.Copy(io.Discard, c)
		cancel()
	}()
	enc := json.NewEncoder(c)
	result, err := s.handle(ctx, req, func(p string) { enc.Encode(reply{Progress: p}) })
	enc.Encode(answer(result, err))
}

func answer(result any, err error) reply {
	rep := reply{Done: true}
	if result != nil {
		raw, merr := json.Marshal(result)
		if err == nil {
			err = merr
		}
		rep.Result = raw
	}
	if err != nil {
		rep.Code, rep.Error = Code(err), err.Error()
	}
	return rep
}

// call sends a request to the daemon behind a socket and waits for its answer,
// which is decoded into result. The connection is returned open: it ends when
// the daemon does.
func call(ctx context.Context, socket string, req request, result any, progress func(string)) (net.Conn, error) {
	c, err := dialUnix(socket)
	if err != nil {
		return nil, fmt.Errorf("%w; what it had not stored is kept: run kist umount, then kist mount", ErrDead)
	}
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Now()) })
	defer stop()
	if err := json.NewEncoder(c).Encode(req); err != nil {
		c.Close()
		return nil, fmt.Errorf("asking the daemon: %w", err)
	}
	err = receive(bufio.NewReaderSize(c, 64<<10), result, progress)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return c, err
}

func receive(r *bufio.Reader, result any, progress func(string)) error {
	dec := json.NewDecoder(r)
	for {
		var rep reply
		if err := dec.Decode(&rep); err != nil {
			return fmt.Errorf("the daemon ended before it answered; its log says why: %w", err)
		}
		if rep.Progress != "" && progress != nil {
			progress(rep.Progress)
		}
		if !rep.Done {
			continue
		}
		if len(rep.Result) > 0 && result != nil {
			if err := json.Unmarshal(rep.Result, result); err != nil {
				return err
			}
		}
		if rep.Code != CodeDone {
			return &Told{rep.Code, rep.Error}
		}
		return nil
	}
}
