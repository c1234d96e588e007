package program

import (
	"errors"
	"io"
	"os"
	"syscall"
	"unsafe"
)

const (
	spliceMove     = 1
	spliceNonblock = 2
	spliceMost     = 1 << 20
	setPipeSize    = 1031
	// pipeSize lets a program and the agent each do a good piece of work before they wait for one another.
	pipeSize = 256 * 1024
)

// enlarge gives a pipe more room than the usual 64 KiB. A kernel that refuses (users have a limit) loses speed only.
func enlarge(pipe *os.File) {
	connection, err := pipe.SyscallConn()
	if err != nil {
		return
	}
	_ = connection.Control(func(fd uintptr) {
		_, _, _ = syscall.Syscall(syscall.SYS_FCNTL, fd, setPipeSize, pipeSize)
	})
}

// splicer moves bytes between a pipe and a socket inside the kernel.
type splicer struct{ source, target syscall.RawConn }

// newSplicer returns nil where one of the two has no descriptor of its own.
func newSplicer(target, source any) *splicer {
	from, fromOK := source.(syscall.Conn)
	to, toOK := target.(syscall.Conn)
	if !fromOK || !toOK {
		return nil
	}
	raw, err := from.SyscallConn()
	if err != nil {
		return nil
	}
	rawTarget, err := to.SyscallConn()
	if err != nil {
		return nil
	}
	return &splicer{raw, rawTarget}
}

// step moves what is there, waiting for some. The error is io.EOF at the end; with unsupported nothing was moved, and
// nothing ever will be. A read deadline of the source holds.
func (s *splicer) step() (count int64, err error) {
	var full bool
	failed := s.source.Read(func(from uintptr) bool {
		// Control keeps the descriptor from being closed, and its number from being used again, meanwhile.
		if closed := s.target.Control(func(to uintptr) { count, err = splice(from, to) }); closed != nil {
			err = closed
			return true
		}
		if err != syscall.EAGAIN {
			return true
		}
		full = waiting(from) > 0
		return full
	})
	if failed != nil {
		return 0, failed
	}
	if full {
		failed = s.target.Write(func(to uintptr) bool {
			closed := s.source.Control(func(from uintptr) {
				count, err = splice(from, to)
				full = err == syscall.EAGAIN && waiting(from) > 0
			})
			if closed != nil {
				err, full = closed, false
			}
			return !full
		})
		if failed != nil {
			return 0, failed
		}
	}
	switch {
	case err == syscall.EAGAIN:
		return 0, nil
	case err != nil:
		return 0, err
	case count == 0:
		return 0, io.EOF
	}
	return count, nil
}

// unsupported tells whether the kernel, or what watches over its calls, does not splice these two.
func unsupported(err error) bool {
	return errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EPERM)
}

func splice(from, to uintptr) (int64, error) {
	for {
		count, err := syscall.Splice(int(from), nil, int(to), nil, spliceMost, spliceMove|spliceNonblock)
		if err != syscall.EINTR {
			return int64(count), err
		}
	}
}

// waiting returns how many bytes can be read at once.
func waiting(fd uintptr) int {
	var count int32
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCINQ, uintptr(unsafe.Pointer(&count))); errno != 0 {
		return 0
	}
	return int(count)
}
