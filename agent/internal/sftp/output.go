package sftp

import (
	"syscall"
	"unsafe"
)

const (
	spliceMove     = 1
	spliceNonblock = 2
)

// output is the descriptor that replies are written to. As with input, Go's scheduler is told only of calls that wait
// for longer.
type output struct {
	descriptor int
	quick      bool
}

func newOutput(descriptor int) *output {
	limit := syscall.Timeval{Usec: soon}
	err := syscall.SetsockoptTimeval(descriptor, syscall.SOL_SOCKET, syscall.SO_SNDTIMEO, &limit)
	// Room for several replies of the largest usual size: with less, each has to be received before the next one is
	// read from the disk. The system may permit less; for a pipe this has no effect.
	_ = syscall.SetsockoptInt(descriptor, syscall.SOL_SOCKET, syscall.SO_SNDBUF, outputSize)
	return &output{descriptor, err == nil}
}

// write writes all of data.
func (o *output) write(data []byte) error {
	for len(data) > 0 {
		count, err := o.call(syscall.SYS_WRITE, uintptr(o.descriptor), uintptr(unsafe.Pointer(unsafe.SliceData(data))),
			uintptr(len(data)), 0, 0, 0)
		if err != nil {
			return err
		}
		data = data[count:]
	}
	return nil
}

// take forwards count bytes from a pipe.
func (o *output) take(pipe, count int) error {
	for count > 0 {
		moved, err := o.call(syscall.SYS_SPLICE, uintptr(pipe), 0, uintptr(o.descriptor), 0, uintptr(count), spliceMove)
		if err != nil {
			return err
		}
		count -= moved
	}
	return nil
}

// call makes a system call that waits until the output is writable.
//
//go:uintptrescapes
func (o *output) call(trap, a1, a2, a3, a4, a5, a6 uintptr) (int, error) {
	for {
		call := syscall.Syscall6
		if o.quick {
			call = syscall.RawSyscall6
		}
		count, _, errno := call(trap, a1, a2, a3, a4, a5, a6)
		switch {
		case errno == 0:
			return int(count), nil
		case o.quick && (errno == syscall.EAGAIN || errno == syscall.EINTR):
			wait(o.descriptor, pollOut)
		case errno != syscall.EINTR:
			return 0, errno
		}
	}
}
