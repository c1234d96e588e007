package forward

import (
	"errors"
	"io"
	"net"

	"containerssh.io/agent/internal/link"
)

// join copies both ways until both directions have ended, or one side is gone, and closes both.
func join(stream link.Stream, target net.Conn) {
	link.Enlarge(stream)
	inwards := make(chan bool, 1)
	go func() {
		alive := carry(target, stream)
		if alive {
			closeWrite(target)
		}
		inwards <- alive
		// A client that has gone does not wait for a program that goes on sending, or does nothing.
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

// carry copies until the source ends; false: one of the two is broken.
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

// abort tells the other side that nobody has served it.
func abort(connection net.Conn) {
	if tcp, ok := connection.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	connection.Close()
}
