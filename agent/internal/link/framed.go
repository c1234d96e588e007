package link

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"containerssh.io/agent/internal/wire"
)

// maxStreams limits the memory that a faulty gateway can have the agent use.
const maxStreams = 4096

var errClosed = errors.New("the stream is closed")

// framedLink multiplexes control frames and streams over one pair of byte streams. Credits limit the data in flight of
// each stream, so a slow reader delays neither other streams nor control frames.
type framedLink struct {
	reader  *bufio.Reader
	writer  io.WriteCloser
	sending sync.Mutex

	mutex   sync.Mutex
	streams map[uint32]*framedStream
	broken  error
}

// Frame sends the preamble and returns the link over reader and writer.
func Frame(reader io.Reader, writer io.WriteCloser) (Link, error) {
	if _, err := writer.Write([]byte(wire.Preamble)); err != nil {
		return nil, err
	}
	return &framedLink{
		reader: bufio.NewReaderSize(reader, wire.MaxData), writer: writer, streams: map[uint32]*framedStream{},
	}, nil
}

func (l *framedLink) Receive() (wire.Frame, error) {
	for {
		frame, err := wire.Read(l.reader)
		if err == nil && frame.Type >= wire.Data {
			err = l.deliver(frame)
			if err == nil {
				continue
			}
		}
		if err != nil {
			l.fail(err)
		}
		return frame, err
	}
}

func (l *framedLink) Send(kind wire.Type, id uint32, payload []byte) error {
	frame := wire.Append(make([]byte, 0, 8+len(payload)), kind, id, payload)
	l.sending.Lock()
	defer l.sending.Unlock()
	_, err := l.writer.Write(frame)
	return err
}

func (l *framedLink) Expect(ref wire.StreamRef) (Opener, error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if _, known := l.streams[ref.ID]; known || ref.ID == 0 || len(l.streams) >= maxStreams {
		return nil, fmt.Errorf("stream %d cannot be opened", ref.ID)
	}
	stream := &framedStream{link: l, id: ref.ID, credit: wire.Window, failure: l.broken}
	stream.changed = sync.NewCond(&stream.mutex)
	l.streams[ref.ID] = stream
	return func() (Stream, error) { return stream, nil }, nil
}

func (l *framedLink) Close() {
	l.fail(io.ErrClosedPipe)
	l.writer.Close()
}

func (l *framedLink) fail(err error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if l.broken == nil {
		l.broken = err
	}
	for id, stream := range l.streams {
		stream.fail(l.broken)
		delete(l.streams, id)
	}
}

func (l *framedLink) forget(id uint32) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	delete(l.streams, id)
}

func (l *framedLink) deliver(frame wire.Frame) error {
	l.mutex.Lock()
	stream := l.streams[frame.ID]
	l.mutex.Unlock()
	if stream == nil {
		return fmt.Errorf("frame of type %d for the unknown stream %d", frame.Type, frame.ID)
	}
	switch frame.Type {
	case wire.Data:
		return stream.receive(frame.Payload)
	case wire.Credit:
		if len(frame.Payload) != 4 {
			return wire.ErrMalformed
		}
		return stream.grant(binary.BigEndian.Uint32(frame.Payload))
	case wire.EOF:
		return stream.receiveEOF()
	case wire.Close:
		stream.receiveClose()
		return nil
	default:
		return fmt.Errorf("frame of the unknown type %d", frame.Type)
	}
}

// framedStream stays in its link's table until both sides have sent Close, the last frame of each direction.
type framedStream struct {
	link *framedLink
	id   uint32

	// sending is held while a frame of this stream is sent, so that none follows Close. Lock it before mutex.
	sending sync.Mutex
	mutex   sync.Mutex
	changed *sync.Cond

	received  []byte
	credit    uint32
	consumed  uint32
	sentEOF   bool
	sentClose bool
	gotEOF    bool
	gotClose  bool
	failure   error
}

func (s *framedStream) receive(data []byte) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.gotEOF || len(data) > wire.MaxData || len(s.received)+len(data) > wire.Window {
		return fmt.Errorf("stream %d received data beyond its window or its end", s.id)
	}
	if !s.sentClose {
		s.received = append(s.received, data...)
		s.changed.Broadcast()
	}
	return nil
}

func (s *framedStream) grant(credit uint32) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if credit > wire.Window || s.credit+credit > wire.Window {
		return fmt.Errorf("stream %d was granted more than its window", s.id)
	}
	s.credit += credit
	s.changed.Broadcast()
	return nil
}

func (s *framedStream) receiveEOF() error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.gotEOF {
		return fmt.Errorf("stream %d ended twice", s.id)
	}
	s.gotEOF = true
	s.changed.Broadcast()
	return nil
}

func (s *framedStream) receiveClose() {
	s.mutex.Lock()
	s.gotClose = true
	if s.failure == nil {
		s.failure = errClosed
	}
	if !s.gotEOF {
		s.received = nil
	}
	s.changed.Broadcast()
	s.mutex.Unlock()
	s.Close()
	s.link.forget(s.id)
}

func (s *framedStream) fail(err error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.failure == nil {
		s.failure = err
	}
	s.changed.Broadcast()
}

func (s *framedStream) Read(buffer []byte) (int, error) {
	s.mutex.Lock()
	for len(s.received) == 0 && !s.gotEOF && s.failure == nil {
		s.changed.Wait()
	}
	if len(s.received) == 0 {
		defer s.mutex.Unlock()
		if s.gotEOF {
			return 0, io.EOF
		}
		return 0, s.failure
	}
	count := copy(buffer, s.received)
	s.received = s.received[count:]
	if len(s.received) == 0 {
		s.received = nil
	}
	s.consumed += uint32(count)
	var credit uint32
	// Half a window at a time: a frame for each read would double the traffic of small reads.
	if s.consumed >= wire.Window/2 && !s.gotEOF && s.failure == nil {
		credit, s.consumed = s.consumed, 0
	}
	s.mutex.Unlock()
	if credit > 0 {
		// If sending fails, Receive reports the broken link; the bytes that were read are valid.
		_ = s.send(wire.Credit, binary.BigEndian.AppendUint32(nil, credit))
	}
	return count, nil
}

func (s *framedStream) Write(data []byte) (int, error) {
	written := 0
	for written < len(data) {
		s.mutex.Lock()
		for s.credit == 0 && !s.sentEOF && s.failure == nil {
			s.changed.Wait()
		}
		if err := s.failure; err != nil || s.sentEOF {
			s.mutex.Unlock()
			if err == nil {
				err = errClosed
			}
			return written, err
		}
		count := min(len(data)-written, int(s.credit), wire.MaxData)
		s.credit -= uint32(count)
		s.mutex.Unlock()
		if err := s.send(wire.Data, data[written:written+count]); err != nil {
			return written, err
		}
		written += count
	}
	return written, nil
}

func (s *framedStream) CloseWrite() error {
	err := s.send(wire.EOF, nil)
	if errors.Is(err, errClosed) {
		return nil
	}
	return err
}

func (s *framedStream) Close() error {
	err := s.send(wire.Close, nil)
	s.mutex.Lock()
	if s.failure == nil {
		s.failure = errClosed
	}
	forget := s.gotClose
	s.changed.Broadcast()
	s.mutex.Unlock()
	if forget {
		s.link.forget(s.id)
	}
	if errors.Is(err, errClosed) {
		return nil
	}
	return err
}

func (s *framedStream) send(kind wire.Type, payload []byte) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	s.mutex.Lock()
	stopped := s.sentClose || (s.sentEOF && (kind == wire.Data || kind == wire.EOF))
	if !stopped {
		s.sentEOF = s.sentEOF || kind == wire.EOF
		s.sentClose = kind == wire.Close
	}
	s.mutex.Unlock()
	if stopped {
		return errClosed
	}
	return s.link.Send(kind, s.id, payload)
}
