package sftp

import (
	"syscall"
	"unsafe"
)

// soon is how long a call may wait without Go's scheduler being told.
const soon = 5_000 // microseconds

// input is the descriptor that requests are read from.
//
// For each system call that may block, Go wakes a thread that checks every 20 microseconds whether it still blocks, and
// takes the processor from it if so. Clients that wait for each reply before they send the next request, as all do with
// small files, pay for this with every request. On a socket, Go is therefore not told of the first milliseconds of
// waiting. After that, the client is busy with something else, and the cost does not matter.
type input struct {
	descriptor int
	quick      bool
}

func newInput(descriptor int) *input {
	limit := syscall.Timeval{Usec: soon}
	err := syscall.SetsockoptTimeval(descriptor, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &limit)
	return &input{descriptor, err == nil}
}

// read waits for data and returns their size, 0 at the end.
func (i *input) read(buffer []byte) (int, error) {
	for i.quick {
		count, _, errno := syscall.RawSyscall(syscall.SYS_READ, uintptr(i.descriptor),
			uintptr(unsafe.Pointer(unsafe.SliceData(buffer))), uintptr(len(buffer)))
		switch errno {
		case 0:
			return int(count), nil
		case syscall.EAGAIN, syscall.EINTR:
			// EINTR may come from Go's preemption signals, which it repeats until it is told of a call.
			wait(i.descriptor, pollIn)
		default:
			return 0, errno
		}
	}
	return restart(func() (int, error) { return syscall.Read(i.descriptor, buffer) })
}

const (
	pollIn  = 1
	pollOut = 4
)

// wait returns when the descriptor is ready; it may return early.
func wait(descriptor int, events int16) {
	poll := struct {
		descriptor int32
		events     int16
		happened   int16
	}{descriptor: int32(descriptor), events: events}
	_, _, _ = syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&poll)), 1, 0, 0, 0, 0)
}
