package mount

import (
	"fmt"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// fsType is the type of our mounts in the kernel's table.
const fsType = "fuse." + fsName

const fsName = "kist"

// Owner is whom files are shown to belong to.
type Owner struct{ Uid, Gid uint32 }

// Options of a mount. The zero value is a mount for its user alone that shows
// owners as they are.
type Options struct {
	AllowOther bool             // let other users in, as far as the modes allow
	ReadOnly   bool             // the kernel refuses every change
	NoExec     bool             // and to run what is in it
	Source     string           // what the kernel's table of mounts shows, where root mounts; empty: kist
	AsUser     *Owner           // show everything as this user's
	Control    string           // value of ControlXattr; empty: no such attribute
	Log        *slog.Logger     // nil: slog.Default()
	Now        func() time.Time // nil: time.Now
}

// Server is a mounted FS.
type Server struct {
	dir    string
	server *fuse.Server
	news   *notifier // what can be told at once
	pages  *notifier // pages of open files, which may be in use
	done   chan struct{}
	mu     sync.Mutex // one unmount at a time
}

// Mount mounts fsys on dir and serves it in the background. When it returns,
// the mount is there.
func Mount(fsys FS, dir string, opt Options) (*Server, error) {
	if opt.Log == nil {
		opt.Log = slog.Default()
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	dir, err := resolve(dir)
	if err != nil {
		return nil, err
	}
	a := newAdapter(fsys, opt)
	server, err := attach(a, dir, opt)
	if err != nil {
		return nil, fmt.Errorf("could not mount: %w", err)
	}
	s := &Server{dir: dir, server: server, done: make(chan struct{})}
	s.pages = newNotifier(server, notifierOptions{hold: func(uint64) bool { return false }})
	s.news = newNotifier(server, notifierOptions{hold: a.hold, later: s.pages.Content})
	fsys.SetNotifier(s.news)
	go s.serve()
	tune(dir, opt.Log)
	return s, nil
}

func (s *Server) serve() {
	s.server.Serve()
	s.news.close()
	s.pages.close()
	s.news.done.Wait()
	s.pages.done.Wait()
	close(s.done)
}

// Dir returns the mountpoint, absolute and free of symbolic links.
func (s *Server) Dir() string { return s.dir }

// WaitMount returns when requests are answered.
func (s *Server) WaitMount() error { return waitMount(s.server) }

// Wait returns when the mount is gone, by Unmount or by other hands, and no
// request is being served any more.
func (s *Server) Wait() { <-s.done }

// Unmount takes the mount away and waits for its end. A mount in use stays as
// it is: the error is then syscall.EBUSY, and Busy tells by whom.
func (s *Server) Unmount() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.done:
		return nil
	default:
	}
	err := s.pages.quietly(func() error {
		return s.news.quietly(func() error {
			if err := detach(s.dir); err != nil {
				return err
			}
			s.news.close()
			s.pages.close()
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("could not unmount: %w", err)
	}
	s.Wait()
	return nil
}

// mountOptions are those of go-fuse that do not depend on how we mount.
func mountOptions(a *adapter, opt Options) *fuse.MountOptions {
	o := &fuse.MountOptions{
		Name: fsName, FsName: fsName,
		AllowOther:               opt.AllowOther,
		Options:                  []string{"default_permissions"},
		MaxWrite:                 1 << 20,
		MaxBackground:            64,
		CongestionThreshold:      48,
		MaxInflightRequestBytes:  64 << 20,
		DisableSplice:            true, // otherwise every read pays for an attempt at it
		EnableSymlinkCaching:     true,
		ExplicitDataCacheControl: true,
		ExtraCapabilities:        capabilities,
		PanicHandler:             a.panicked,
		Logger:                   log.New(logWriter{opt.Log}, "", 0),
	}
	if opt.ReadOnly {
		o.Options = append(o.Options, "ro")
	}
	if opt.NoExec {
		o.Options = append(o.Options, "noexec")
	}
	return o
}

// logWriter carries what go-fuse has to say to our log.
type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(p []byte) (int, error) {
	w.log.Debug("fuse", "msg", strings.TrimSpace(string(p)))
	return len(p), nil
}

// maxLinks bounds the symbolic links that resolve follows.
const maxLinks = 40

// resolve makes dir absolute and free of symbolic links without looking at
// what is mounted there, which may be dead.
func resolve(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for range maxLinks {
		parent, err := filepath.EvalSymlinks(filepath.Dir(dir))
		if err != nil {
			return "", err
		}
		dir = filepath.Join(parent, filepath.Base(dir))
		target, err := os.Readlink(dir)
		if err != nil {
			return dir, nil // not a link
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(parent, target)
		}
		dir = filepath.Clean(target)
	}
	return "", fmt.Errorf("too many symbolic links")
}
