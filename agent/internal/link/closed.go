package link

import (
	"syscall"
	"unsafe"
)

// WaitClosed returns once the other side has given the stream up, and not merely ended its direction. Call it when
// nothing is left to read.
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
	// The end of the other direction has been seen; what wakes us next is the hang-up, or our own Close.
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
