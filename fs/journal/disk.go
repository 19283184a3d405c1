package journal

import "errors"

// Disk is one flat directory that belongs to one journal. Names are short
// and made by the journal. Open takes the disk over and Close closes it.
//
// What a disk promises: bytes written before a File.Sync that returned nil
// survive a power cut, and so do names made, changed or removed before a
// SyncDir that returned nil. Nothing else survives for certain.
type Disk interface {
	Create(name string) (File, error) // fails if the name is there
	Open(name string) (File, error)
	Remove(name string) error
	Rename(from, to string) error // replaces to
	List() ([]string, error)
	SyncDir() error
	Free() (int64, error) // bytes that can still be written on the volume
	Close() error
}

// File is an open file. Its methods may be called from several goroutines.
type File interface {
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	// Allocate makes sure that the file can grow to end bytes without
	// running out of space; its size stays. Without space the error is
	// syscall.ENOSPC.
	Allocate(end int64) error
	// Truncate sets the size and gives back what was allocated beyond it.
	Truncate(size int64) error
	Sync() error
	Size() (int64, error)
	Close() error
}

// ErrLocked: another process has this journal open.
var ErrLocked = errors.New("the journal is in use by another process")
