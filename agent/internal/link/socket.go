package link

import (
	"bufio"
	"net"
	"sync"

	"containerssh.io/agent/internal/wire"
)

// socketLink has a connection for control and another one for each stream, all to the same unix socket.
type socketLink struct {
	path    string
	control *net.UnixConn
	reader  *bufio.Reader
	sending sync.Mutex
}

// Dial connects to the gateway's socket and says what this connection is.
func Dial(path string) (Link, error) {
	control, err := dial(path)
	if err != nil {
		return nil, err
	}
	if _, err := control.Write([]byte(wire.Preamble)); err != nil {
		control.Close()
		return nil, err
	}
	return &socketLink{path: path, control: control, reader: bufio.NewReader(control)}, nil
}

func dial(path string) (*net.UnixConn, error) {
	return net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
}

func (l *socketLink) Receive() (wire.Frame, error) { return wire.Read(l.reader) }

func (l *socketLink) Send(kind wire.Type, id uint32, payload []byte) error {
	frame := wire.Append(nil, kind, id, payload)
	l.sending.Lock()
	defer l.sending.Unlock()
	_, err := l.control.Write(frame)
	return err
}

func (l *socketLink) Expect(ref wire.StreamRef) (Opener, error) {
	return func() (Stream, error) {
		stream, err := dial(l.path)
		if err != nil {
			return nil, err
		}
		if _, err := stream.Write(append([]byte(wire.StreamPreamble), ref.Token[:]...)); err != nil {
			stream.Close()
			return nil, err
		}
		return stream, nil
	}, nil
}

func (l *socketLink) Close() { l.control.Close() }
