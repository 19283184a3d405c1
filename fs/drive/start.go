package drive

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"kist/fs/home"
)

// DaemonVerb is the hidden verb under which this program serves in the
// background.
const DaemonVerb = "daemon"

// The pipes that a daemon inherits.
const (
	orderFD  = 3 // it reads its order
	reportFD = 4 // it says once how it went
)

// order is what the daemon is told: not by arguments or environment, which
// others can read.
type order struct {
	Mount      MountConfig
	Root       home.Root
	Passphrase []byte
}

// launch runs this program again as a daemon and waits until it serves, with what
// it has to say, or has failed.
func launch(ctx context.Context, o order, logPath string) (note string, err error) {
	cmd, orders, reports, err := prepareDaemon(logPath)
	if err != nil {
		return "", err
	}
	defer orders.Close()
	defer reports.Close()
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("starting the daemon: %w", err)
	}
	closeAll(cmd.ExtraFiles)
	closeAll([]*os.File{cmd.Stderr.(*os.File)})
	if err := json.NewEncoder(orders).Encode(o); err != nil && !errors.Is(err, syscall.EPIPE) {
		return "", fmt.Errorf("telling the daemon what to do: %w", err)
	}
	orders.Close()
	stop := context.AfterFunc(ctx, func() { cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()
	return readReport(reports)
}

func prepareDaemon(logPath string) (cmd *exec.Cmd, orders, reports *os.File, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, nil, err
	}
	log, err := appendTo(logPath)
	if err != nil {
		return nil, nil, nil, err
	}
	orderR, orderW, err := os.Pipe()
	if err != nil {
		return nil, nil, nil, err
	}
	reportR, reportW, err := os.Pipe()
	if err != nil {
		return nil, nil, nil, err
	}
	cmd = exec.Command(self, DaemonVerb)
	cmd.Dir = "/" // a daemon must not keep a folder busy
	cmd.Stderr = log
	cmd.ExtraFiles = []*os.File{orderR, reportW}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd, orderW, reportR, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func readReport(r io.Reader) (note string, err error) {
	line, err := bufio.NewReader(r).ReadBytes('\n')
	if err != nil {
		return "", errors.New("the daemon ended before the drive was mounted; the file log in the state folder says more")
	}
	var rep reply
	if err := json.Unmarshal(line, &rep); err != nil {
		return "", err
	}
	if rep.Code != CodeDone {
		return "", &Told{rep.Code, rep.Error}
	}
	return note, json.Unmarshal(rep.Result, &note)
}

// RunDaemon is the other side of launch: it serves until the drive is
// unmounted. An error after the mount was reported usable is returned; an
// earlier one has been reported. hurry is as in [Host].
func RunDaemon(ctx context.Context, hurry <-chan struct{}) error {
	syscall.CloseOnExec(orderFD)
	syscall.CloseOnExec(reportFD)
	orders, reports := os.NewFile(orderFD, "orders"), os.NewFile(reportFD, "reports")
	if orders == nil || reports == nil {
		return fmt.Errorf("%w: this verb is for kist mount alone", ErrUsage)
	}
	defer reports.Close()
	var o order
	if err := json.NewDecoder(orders).Decode(&o); err != nil {
		return fmt.Errorf("%w: this verb is for kist mount alone", ErrUsage)
	}
	orders.Close()
	ready := func(note string) error {
		defer reports.Close()
		return json.NewEncoder(reports).Encode(answer(note, nil))
	}
	err := serve(ctx, o, Host{Ready: ready, Hurry: hurry, service: new(service), background: true})
	if err != nil {
		json.NewEncoder(reports).Encode(answer(nil, err))
	}
	return err
}
