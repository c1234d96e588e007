package serve

import (
	"fmt"

	"containerssh.io/agent/internal/link"
	"containerssh.io/agent/internal/wire"
)

// open performs the handshake and returns the link to use from then on: the given one, or a direct one if the gateway
// has requested that. The caller closes both. The given link is no longer used once there is a direct one, and may end.
func open(connection link.Link) (link.Link, error) {
	welcome, err := greet(connection)
	if err != nil {
		return connection, err
	}
	chosen := connection
	if welcome.Type == wire.Direct {
		if chosen, welcome, err = move(connection, welcome); err != nil {
			return chosen, err
		}
	}
	version, err := wire.DecodeWelcome(welcome.Payload)
	if welcome.Type != wire.Welcome || err != nil || version < wire.Oldest || version > wire.Version {
		return chosen, fmt.Errorf("no usable answer to the handshake (type %d, version %d)", welcome.Type, version)
	}
	return chosen, nil
}

// move answers a Direct. If the direct connection fails, the gateway continues on the given one.
func move(connection link.Link, frame wire.Frame) (link.Link, wire.Frame, error) {
	request, err := wire.DecodeDirect(frame.Payload)
	if err != nil {
		return connection, frame, err
	}
	direct, err := link.Direct(request)
	if err != nil {
		if err = connection.Send(wire.Error, frame.ID, wire.EncodeError(0, err.Error())); err == nil {
			frame, err = connection.Receive()
		}
		return connection, frame, err
	}
	if err = connection.Send(wire.OK, frame.ID, nil); err == nil {
		frame, err = greet(direct)
	}
	return direct, frame, err
}

func greet(connection link.Link) (wire.Frame, error) {
	if err := connection.Send(wire.Hello, 0, wire.EncodeHello(Build)); err != nil {
		return wire.Frame{}, err
	}
	return connection.Receive()
}
