package sftp

import (
	"syscall"
	"unsafe"
)

// soon is for how long the next request is waited for in a way that Go does not see.
const soon = 5_000 // microseconds

// input is where requests come from.
//
// Go watches each call that may wait: a thread of its own looks every 20 microseconds whether it still does, has to be
// woken for that, and what was taken away meanwhile has to be fetched back. A client that waits for each answer before it
// asks for the next thing, as all do with small files, pays for it with every request. So on a socket Go is told of
// nothing for a moment, after which the client is busy elsewhere and there is time.
type input struct {
	descriptor int
	quick      bool
}

func newInput(descriptor int) *input {
	limit := syscall.Timeval{Usec: soon}
	err := syscall.SetsockoptTimeval(descriptor, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &limit)
	return &input{descriptor, err == nil}
}

// read gives what is there, and waits if that is nothing; 0 at the end.
func (i *input) read(buffer []byte) (int, error) {
	for i.quick {
		count, _, errno := syscall.RawSyscall(syscall.SYS_READ, uintptr(i.descriptor),
			uintptr(unsafe.Pointer(unsafe.SliceData(buffer))), uintptr(len(buffer)))
		switch errno {
		case 0:
			return int(count), nil
		case syscall.EAGAIN, syscall.EINTR:
			// Interrupted is who Go wants to have a rest, for which it asks again and again until it is told of a call.
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

// wait returns when there is something to read or room to write, or for no reason.
func wait(descriptor int, events int16) {
	poll := struct {
		descriptor int32
		events     int16
		happened   int16
	}{descriptor: int32(descriptor), events: events}
	_, _, _ = syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&poll)), 1, 0, 0, 0, 0)
}
