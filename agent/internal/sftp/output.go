package sftp

import (
	"syscall"
	"unsafe"
)

const (
	spliceMove     = 1
	spliceNonblock = 2
)

// output is where replies go. As with input, Go is told of a call only where it waits longer than a moment.
type output struct {
	descriptor int
	quick      bool
}

func newOutput(descriptor int) *output {
	limit := syscall.Timeval{Usec: soon}
	err := syscall.SetsockoptTimeval(descriptor, syscall.SOL_SOCKET, syscall.SO_SNDTIMEO, &limit)
	// Room for some answers of the usual greatest size: with less, each of them is waited for before the next one is read
	// from the disk. The system may allow less, and a pipe stays as it is.
	_ = syscall.SetsockoptInt(descriptor, syscall.SOL_SOCKET, syscall.SO_SNDBUF, outputSize)
	return &output{descriptor, err == nil}
}

// write returns when all of data was taken.
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

// take passes on count bytes of what a pipe holds.
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

// call makes a system call that waits for room.
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
