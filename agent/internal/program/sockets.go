package program

import (
	"net"
	"os"

	"containerssh.io/agent/internal/link"
)

// sockets gives the streams themselves as a program's standard streams, where each has a connection of its own. Our own
// servers know what to do with a socket, and what they move crosses one process less; other programs get pipes, as under
// sshd. Nil where it cannot be; else close the streams once the program runs.
func sockets(main, errors link.Stream) []*os.File {
	first, ok := main.(*net.UnixConn)
	second, okay := errors.(*net.UnixConn)
	if !ok || !okay {
		return nil
	}
	both, err := first.File()
	if err != nil {
		return nil
	}
	failures, err := second.File()
	if err != nil {
		both.Close()
		return nil
	}
	return []*os.File{both, both, failures}
}
