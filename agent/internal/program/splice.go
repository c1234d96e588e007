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
	// pipeSize is large enough that the program and the agent seldom wait for one another.
	pipeSize = 256 * 1024
)

// enlarge raises a pipe's capacity above the default 64 KiB. If the kernel refuses because of the user's limit, only
// speed is lost.
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

// newSplicer returns nil if one of the two has no file descriptor.
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

// step waits for data and moves what is there. It returns io.EOF at the end, and respects the source's read deadline.
// An error for which unsupported is true means that nothing was moved and splicing these two never works.
func (s *splicer) step() (count int64, err error) {
	var full bool
	failed := s.source.Read(func(from uintptr) bool {
		// Control prevents that the descriptor is closed, and its number reused, during the call.
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

// unsupported reports whether the kernel, or a seccomp filter, does not permit splicing these two.
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

// waiting returns the number of bytes in the pipe fd.
func waiting(fd uintptr) int {
	var count int32
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCINQ, uintptr(unsafe.Pointer(&count))); errno != 0 {
		return 0
	}
	return int(count)
}
