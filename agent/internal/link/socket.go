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

// roomy is what Linux makes twice as much of, if it allows so much.
const roomy = 512 * 1024

// Enlarge makes room in a stream for what follows one another quickly. A socket that is full counts as writable again only
// when three quarters of it are free. With the usual 208 KiB that is less than one piece of what is spliced, so that the
// gateway would find nothing to read until we have been woken. What is unread holds up a key that is typed, so
// terminals do without.
func Enlarge(stream Stream) {
	if socket, ok := stream.(*net.UnixConn); ok {
		_ = socket.SetWriteBuffer(roomy)
	}
}
