// Package link carries frames and streams between the agent and the gateway.
package link

import (
	"io"

	"containerssh.io/agent/internal/wire"
)

// Stream is one byte stream, open both ways until one side says otherwise.
type Stream interface {
	io.Reader
	io.Writer
	// CloseWrite ends this side's direction; the other goes on.
	CloseWrite() error
	// Close gives the stream up, both ways.
	Close() error
}

// Opener gives the stream that a request has named.
type Opener func() (Stream, error)

// Link is the connection to the gateway.
type Link interface {
	// Receive returns the next control frame. One goroutine calls it.
	Receive() (wire.Frame, error)
	// Send sends a control frame; safe from any goroutine.
	Send(kind wire.Type, id uint32, payload []byte) error
	// Expect announces a stream. Call it before the next Receive, so that no byte of the stream comes too early.
	Expect(ref wire.StreamRef) (Opener, error)
	// Close ends everything.
	Close()
}
