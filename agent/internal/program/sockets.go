package program

import (
	"net"
	"os"

	"containerssh.io/agent/internal/link"
)

// sockets returns the streams' own sockets as the standard streams of one of the agent's own servers, which saves
// copying through pipes. Other programs get pipes, as under sshd. It returns nil if a stream has no socket of its own;
// otherwise close the streams once the program runs.
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
