//go:build !linux

package fs

import "syscall"

const errNoAttr = syscall.ENOATTR
