// Package link carries frames and streams between the agent and the gateway.
package link

import (
	"io"

	"containerssh.io/agent/internal/wire"
)

// Stream is one bidirectional byte stream.
type Stream interface {
	io.Reader
	io.Writer
	// CloseWrite ends this side's direction; the other one stays open.
	CloseWrite() error
	// Close closes both directions.
	Close() error
}

// Opener opens the stream that a request has named.
type Opener func() (Stream, error)

// Link is the connection to the gateway.
type Link interface {
	// Receive returns the next control frame. Only one goroutine may call it.
	Receive() (wire.Frame, error)
	// Send sends a control frame. It is safe for concurrent use.
	Send(kind wire.Type, id uint32, payload []byte) error
	// Expect announces a stream. Call it before the next Receive, which may already return data of the stream.
	Expect(ref wire.StreamRef) (Opener, error)
	// Close closes the link and all its streams.
	Close()
}
