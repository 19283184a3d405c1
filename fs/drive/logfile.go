package drive

import (
	"os"
	"sync"
)

// maxLog is where a log file is set aside for a new one. One that was set aside
// is kept, so the log takes twice as much at most.
const maxLog = 4 << 20

// logFile is the log of a daemon. Where standard error is the same file, it
// moves along: the last words of a process that panics go there.
type logFile struct {
	path   string
	stderr bool

	mu sync.Mutex
	f  *os.File
}

func openLog(path string, stderr bool) (*logFile, error) {
	f, err := appendTo(path)
	return &logFile{path: path, stderr: stderr, f: f}, err
}

func appendTo(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
}

// Write is for whole lines.
func (l *logFile) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// The size is asked for, not kept: standard error writes there, too.
	if fi, err := l.f.Stat(); err == nil && fi.Size() > 0 && fi.Size()+int64(len(line)) > maxLog {
		l.renew()
	}
	return l.f.Write(line)
}

// renew goes on in a new file, or in the old one if that is not to be had.
func (l *logFile) renew() {
	if err := os.Rename(l.path, l.path+".old"); err != nil {
		return
	}
	f, err := appendTo(l.path)
	if err != nil {
		return
	}
	if l.stderr && becomeStderr(f) != nil {
		f.Close()
		return
	}
	l.f.Close()
	l.f = f
}

func (l *logFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Close()
}
