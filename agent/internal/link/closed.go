package link

import (
	"syscall"
	"unsafe"
)

// WaitClosed returns once the other side has closed the stream, not only its own direction. Call it after the end of
// the stream has been read.
func WaitClosed(stream Stream) {
	if framed, ok := stream.(*framedStream); ok {
		framed.waitClosed()
		return
	}
	connection, ok := stream.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := connection.SyscallConn()
	if err != nil {
		return
	}
	// The end of the stream has been read, so only the hang-up or our own Close can wake the poller.
	_ = raw.Read(hungUp)
}

func (s *framedStream) waitClosed() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for s.failure == nil {
		s.changed.Wait()
	}
}

const pollHangUp = 0x10

func hungUp(descriptor uintptr) bool {
	poll := struct {
		descriptor int32
		events     int16
		happened   int16
	}{descriptor: int32(descriptor)}
	var now syscall.Timespec
	_, _, errno := syscall.Syscall6(
		syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&poll)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0,
	)
	return errno == 0 && poll.happened&pollHangUp != 0
}
