package forward

import (
	"errors"
	"io"
	"net"

	"containerssh.io/agent/internal/link"
)

// join forwards data in both directions until both have ended or one side is gone, and closes both sides.
func join(stream link.Stream, target net.Conn) {
	link.Enlarge(stream)
	inwards := make(chan bool, 1)
	go func() {
		alive := carry(target, stream)
		if alive {
			closeWrite(target)
		}
		inwards <- alive
		// If the client has gone, the target may never notice by itself, because it is idle or only sends.
		link.WaitClosed(stream)
		target.Close()
	}()
	if carry(stream, target) {
		_ = stream.CloseWrite()
		<-inwards
	}
	target.Close()
	stream.Close()
}

// carry copies until the source ends. It returns false if either side has failed.
func carry(target io.Writer, source io.Reader) bool {
	if through, err := newConduit(target, source); err == nil {
		defer through.close()
		if err := through.run(); err != errors.ErrUnsupported {
			return err == nil
		}
	}
	_, err := io.Copy(target, source)
	return err == nil
}

func closeWrite(connection net.Conn) {
	if half, ok := connection.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

// abort closes a connection that was never served; over TCP, the other side sees a reset.
func abort(connection net.Conn) {
	if tcp, ok := connection.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	connection.Close()
}
