// Package forward opens connections and listeners inside the container for the gateway's clients.
package forward

import (
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"containerssh.io/agent/internal/link"
	"containerssh.io/agent/internal/wire"
)

const (
	maxListeners = 1024
	maxConnects  = 1024
)

// Forwards are the forwarded connections and listeners of one link.
type Forwards struct {
	link   link.Link
	answer func(id uint32, err error)
	places sync.Mutex // held while a folder or a display number is chosen

	mutex      sync.Mutex
	room       *sync.Cond // for pending connections
	listeners  map[uint32]*listener
	pending    int
	connection uint32
	connects   int
	folder     string
	closed     bool
}

// New returns the Forwards of a link. It calls answer with the result of each request.
func New(connection link.Link, answer func(id uint32, err error)) *Forwards {
	f := &Forwards{link: connection, answer: answer, listeners: map[uint32]*listener{}}
	f.room = sync.NewCond(&f.mutex)
	current.Store(f)
	return f
}

var current atomic.Pointer[Forwards]

// CleanUp closes the process's Forwards. Call it before the agent exits because of a signal.
func CleanUp() {
	if f := current.Load(); f != nil {
		f.Close()
	}
}

// Handle starts a request. It returns false if the frame is no request of this package, and an error if the frame
// violates the protocol.
func (f *Forwards) Handle(frame wire.Frame) (bool, error) {
	switch frame.Type {
	case wire.ConnectTCP:
		request, err := wire.DecodeConnectTCP(frame.Payload)
		return true, f.connect(frame.ID, request, err, dialTCP)
	case wire.ConnectUnix:
		request, err := wire.DecodeConnectUnix(frame.Payload)
		return true, f.connect(frame.ID, request, err, dialUnix)
	case wire.ListenTCP, wire.ListenUnix, wire.ListenAgent, wire.ListenX11:
		return true, f.listen(frame)
	case wire.Accept:
		return true, f.accept(frame)
	case wire.Decline:
		return true, f.decline(frame)
	case wire.Unlisten:
		return true, f.unlisten(frame)
	}
	return false, nil
}

// Close closes all listeners and removes their files.
func (f *Forwards) Close() {
	f.mutex.Lock()
	f.closed = true
	listeners := f.listeners
	f.listeners = map[uint32]*listener{}
	folder := f.folder
	f.folder = ""
	f.room.Broadcast()
	f.mutex.Unlock()
	for _, one := range listeners {
		if one != nil {
			one.close()
		}
	}
	if folder != "" {
		os.RemoveAll(folder)
	}
}

func (f *Forwards) connect(
	id uint32, request wire.ConnectRequest, malformed error, dial func(wire.ConnectRequest) (net.Conn, error),
) error {
	if malformed != nil {
		return malformed
	}
	open, err := f.link.Expect(request.Stream)
	if err != nil {
		return err
	}
	f.mutex.Lock()
	full := f.connects >= maxConnects
	if !full {
		f.connects++
	}
	f.mutex.Unlock()
	if full {
		return fmt.Errorf("more than %d connections at once", maxConnects)
	}
	go func() {
		target, err := dial(request)
		f.mutex.Lock()
		f.connects--
		f.mutex.Unlock()
		f.attach(id, open, target, err)
	}()
	return nil
}

// attach answers the request id and forwards data between the stream and target. It closes both in the end.
func (f *Forwards) attach(id uint32, open link.Opener, target net.Conn, failed error) {
	stream, err := open()
	if failed != nil || err != nil {
		if stream != nil {
			stream.Close()
		}
		if target != nil {
			target.Close()
		}
		if failed == nil {
			failed = err
		}
		f.answer(id, failed)
		return
	}
	f.answer(id, nil)
	join(stream, target)
}

func (f *Forwards) accept(frame wire.Frame) error {
	request, err := wire.DecodeAccept(frame.Payload)
	if err != nil {
		return err
	}
	open, err := f.link.Expect(request.Stream)
	if err != nil {
		return err
	}
	connection := f.take(request)
	var failed error
	if connection == nil {
		failed = syscall.ECONNABORTED
	}
	go f.attach(frame.ID, open, connection, failed)
	return nil
}

func (f *Forwards) decline(frame wire.Frame) error {
	request, err := wire.DecodeDecline(frame.Payload)
	if err != nil {
		return err
	}
	if connection := f.take(request); connection != nil {
		abort(connection)
	}
	f.answer(frame.ID, nil)
	return nil
}

// take removes the connection that a request names from the pending ones and returns it, or nil.
func (f *Forwards) take(request wire.AcceptRequest) net.Conn {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	found := f.listeners[request.Listener]
	if found == nil {
		return nil
	}
	connection := found.pending[request.Connection]
	if connection != nil {
		delete(found.pending, request.Connection)
		f.pending--
		f.room.Signal()
	}
	return connection
}
