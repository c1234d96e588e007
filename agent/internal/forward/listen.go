package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"containerssh.io/agent/internal/wire"
)

const (
	// portTries limits the search for a port that is free for both address families.
	portTries = 20
	// acceptPause is the pause after Accept has failed for lack of descriptors or memory.
	acceptPause = 100 * time.Millisecond
	// resolveTimeout limits the lookup of a host name to listen on.
	resolveTimeout = 10 * time.Second
)

// listener serves one request. It may have several sockets.
type listener struct {
	sockets     []net.Listener
	port        uint16
	environment []string
	files       []string
	once        bool

	taken   sync.Once
	pending map[uint32]net.Conn // guarded by Forwards.mutex
}

func (l *listener) close() {
	for _, socket := range l.sockets {
		socket.Close()
	}
	for _, file := range l.files {
		os.Remove(file)
	}
	for _, connection := range l.pending {
		abort(connection)
	}
}

func (f *Forwards) listen(frame wire.Frame) error {
	request, err := wire.DecodeListen(frame.Type, frame.Payload)
	if err != nil {
		return err
	}
	f.mutex.Lock()
	_, known := f.listeners[frame.ID]
	full := len(f.listeners) >= maxListeners
	if !known && !full {
		f.listeners[frame.ID] = nil
	}
	f.mutex.Unlock()
	if known || full {
		return fmt.Errorf("listener %d cannot be opened", frame.ID)
	}
	go func() {
		opened, err := f.open(frame.Type, request)
		if err != nil {
			f.mutex.Lock()
			delete(f.listeners, frame.ID)
			f.mutex.Unlock()
			f.answer(frame.ID, explainListen(err))
			return
		}
		f.serve(frame.ID, opened)
	}()
	return nil
}

func (f *Forwards) open(kind wire.Type, request wire.ListenRequest) (*listener, error) {
	switch kind {
	case wire.ListenTCP:
		return listenTCP(request.Host, request.Port)
	case wire.ListenUnix:
		return listenUnix(request.Path)
	case wire.ListenAgent:
		return f.listenAgent()
	default:
		return f.listenX11(request)
	}
}

// serve reports the listener to the gateway, and then its connections, until it is closed.
func (f *Forwards) serve(id uint32, opened *listener) {
	opened.pending = map[uint32]net.Conn{}
	f.mutex.Lock()
	_, wanted := f.listeners[id]
	wanted = wanted && !f.closed
	if wanted {
		f.listeners[id] = opened
	}
	f.mutex.Unlock()
	if !wanted {
		opened.close()
		f.answer(id, syscall.ECANCELED)
		return
	}
	_ = f.link.Send(wire.Listening, id, wire.EncodeListening(opened.port, opened.environment...))
	for _, socket := range opened.sockets {
		go f.acceptAll(id, opened, socket)
	}
}

func (f *Forwards) acceptAll(id uint32, opened *listener, socket net.Listener) {
	for {
		connection, err := socket.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(acceptPause)
			continue
		}
		if opened.once {
			first := false
			opened.taken.Do(func() { first = true })
			if !first {
				abort(connection)
				return
			}
			for _, other := range opened.sockets {
				other.Close()
			}
		}
		f.announce(id, opened, connection)
	}
}

// announce reports a connection. It waits while too many others are pending; meanwhile, further ones stay in the
// kernel's queue.
func (f *Forwards) announce(id uint32, opened *listener, connection net.Conn) {
	f.mutex.Lock()
	for f.pending >= wire.MaxPending && f.listeners[id] == opened {
		f.room.Wait()
	}
	if f.listeners[id] != opened {
		f.mutex.Unlock()
		abort(connection)
		return
	}
	f.pending++
	f.connection++
	number := f.connection
	opened.pending[number] = connection
	f.mutex.Unlock()
	var host string
	var port uint16
	if remote, ok := connection.RemoteAddr().(*net.TCPAddr); ok {
		address := remote.AddrPort()
		host, port = address.Addr().Unmap().String(), address.Port()
	}
	_ = f.link.Send(wire.Accepted, id, wire.EncodeAccepted(number, host, port))
}

func (f *Forwards) unlisten(frame wire.Frame) error {
	id, err := wire.DecodeUnlisten(frame.Payload)
	if err != nil {
		return err
	}
	f.mutex.Lock()
	found := f.listeners[id]
	delete(f.listeners, id)
	if found != nil {
		f.pending -= len(found.pending)
	}
	f.room.Broadcast()
	f.mutex.Unlock()
	if found != nil {
		found.close()
	}
	f.answer(frame.ID, nil)
	return nil
}

// listenTCP binds the addresses that host stands for (RFC 4254 section 7.1): all, loopback, one, or those of a name.
func listenTCP(host string, port uint16) (*listener, error) {
	addresses, err := bindAddresses(host)
	if err != nil {
		return nil, err
	}
	for try := 0; ; try++ {
		opened, err := bindAll(addresses, port)
		if err == nil {
			return opened, nil
		}
		if port != 0 || try == portTries || !errors.Is(err, syscall.EADDRINUSE) {
			return nil, err
		}
	}
}

func bindAddresses(host string) ([]netip.Addr, error) {
	switch host {
	case "", "*":
		return []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}, nil
	case "localhost":
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, nil
	}
	if address, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{address}, nil
	}
	if strings.ContainsRune(host, 0) {
		return nil, syscall.EINVAL
	}
	ctx, cancel := context.WithTimeout(context.Background(), resolveTimeout)
	defer cancel()
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// bindAll binds those of the addresses that exist here to the same port. It fails if there is none.
func bindAll(addresses []netip.Addr, port uint16) (*listener, error) {
	opened := &listener{port: port}
	var missing error
	for _, address := range addresses {
		address = address.Unmap()
		network := "tcp4"
		if address.Is6() {
			network = "tcp6"
		}
		socket, err := net.Listen(network, net.JoinHostPort(address.String(), strconv.Itoa(int(opened.port))))
		if err != nil {
			if absent(err) {
				missing = err
				continue
			}
			opened.close()
			return nil, err
		}
		opened.sockets = append(opened.sockets, socket)
		opened.port = uint16(socket.Addr().(*net.TCPAddr).Port)
	}
	if len(opened.sockets) == 0 {
		if missing == nil {
			missing = syscall.EADDRNOTAVAIL
		}
		return nil, missing
	}
	return opened, nil
}

// absent reports whether the container lacks the address or its address family.
func absent(err error) bool {
	return errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT) ||
		errors.Is(err, syscall.EPROTONOSUPPORT)
}

func listenUnix(path string) (*listener, error) {
	path, err := socketPath(path)
	if err != nil {
		return nil, err
	}
	socket, err := bindUnix(path)
	if err != nil {
		return nil, err
	}
	return &listener{sockets: []net.Listener{socket}}, nil
}

// bindUnix creates a socket that only the agent's user and root can connect to.
func bindUnix(path string) (net.Listener, error) {
	settings := net.ListenConfig{Control: func(_, _ string, connection syscall.RawConn) error {
		var failed error
		// Before bind, so that the file never has another mode.
		if err := connection.Control(func(fd uintptr) { failed = syscall.Fchmod(int(fd), 0o600) }); err != nil {
			return err
		}
		return failed
	}}
	return settings.Listen(context.Background(), "unix", path)
}

func explainListen(err error) error {
	var number syscall.Errno
	var name *net.DNSError
	switch {
	case errors.As(err, &number):
		return refusal{number, number.Error()}
	case errors.As(err, &name):
		return refusal{syscall.EADDRNOTAVAIL, "the container has no such address"}
	}
	var ours refusal
	if errors.As(err, &ours) {
		return ours
	}
	return refusal{syscall.EIO, "cannot listen on this address"}
}
