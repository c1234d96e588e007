package link

import (
	"net"
	"path/filepath"
	"syscall"
	"testing"
)

func room(t *testing.T, socket *net.UnixConn) (size int) {
	t.Helper()
	raw, err := socket.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if failed := raw.Control(func(fd uintptr) {
		size, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF)
	}); failed != nil || err != nil {
		t.Fatal(failed, err)
	}
	return size
}

func TestASocketGetsMoreRoomAndOtherStreamsStayAsTheyAre(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	socket, err := dial(path)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	before := room(t, socket)
	Enlarge(socket)
	if after := room(t, socket); after <= before {
		t.Errorf("%d bytes before, %d after", before, after)
	}
	Enlarge(nil)
}
