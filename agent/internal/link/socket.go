package link

import (
	"bufio"
	"net"
	"sync"

	"containerssh.io/agent/internal/wire"
)

// socketLink has one connection for control frames and one for each stream, all to the same unix socket.
type socketLink struct {
	path    string
	control *net.UnixConn
	reader  *bufio.Reader
	sending sync.Mutex
}

// Dial connects to the gateway's socket and sends the preamble.
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

// writeBuffer is the requested size of a socket's write buffer. Linux doubles it, up to net.core.wmem_max.
const writeBuffer = 512 * 1024

// Enlarge enlarges a stream's write buffer for bulk data. The kernel reports a full socket as writable only once three
// quarters of its buffer are free. With the default of 208 KiB, that is less than one spliced chunk, and the gateway
// would find the socket empty until the agent has been woken. Do not use it for terminals: unread output delays the
// echo of keystrokes.
func Enlarge(stream Stream) {
	if socket, ok := stream.(*net.UnixConn); ok {
		_ = socket.SetWriteBuffer(writeBuffer)
	}
}
