// Package wire encodes and decodes the protocol between the gateway and the agent; docs/agent.md describes it.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Version is the newest protocol version that this agent supports, Oldest the oldest.
const (
	Version = 2
	Oldest  = 1
)

// Preamble precedes the first frame of a control connection. The gateway searches for it, since an image's entrypoint
// may print something first.
const Preamble = "\x00\x89containerssh\r\n"

// StreamPreamble, followed by a token, begins a connection that carries the bytes of one stream.
const StreamPreamble = "\x00\x89stream"

// DirectPreamble, followed by a ticket, begins a direct connection, which continues with TLS.
const DirectPreamble = "\x00\x89direct"

// TokenSize is the length of the secret that assigns a connection to a stream.
const TokenSize = 16

// TicketSize is the length of the secret that assigns a direct connection to a login.
const TicketSize = 32

// Window is the number of bytes of a multiplexed stream that may be in flight in each direction.
const Window = 256 * 1024

// MaxData is the longest payload of a Data frame.
const MaxData = 64 * 1024

// MaxPayload is the longest payload that the agent accepts: a Start with the longest argument list and environment.
const MaxPayload = 2 * 1024 * 1024

// MaxText is the longest error text that the agent sends.
const MaxText = 1024

// MaxPending is the number of accepted connections, of all listeners together, that may wait for Accept or Decline.
const MaxPending = 64

const headerSize = 8

// Type is the type of a frame.
type Type uint8

// The types of frames, grouped by direction.
const (
	Hello   Type = 1 // agent to gateway
	Welcome Type = 2 // gateway to agent
	OK      Type = 3 // agent to gateway, id of the request
	Error   Type = 4 // agent to gateway, id of the request
	Exited  Type = 5 // agent to gateway, id of the Start

	Listening Type = 8 // agent to gateway, id of the request: the good answer to a listening one
	Accepted  Type = 9 // agent to gateway, id of the request that listens

	Start     Type = 16 // gateway to agent, as all requests
	Signal    Type = 17
	Resize    Type = 18
	Break     Type = 19
	Kill      Type = 20
	WriteFile Type = 21
	Shutdown  Type = 22
	Direct    Type = 23 // before Welcome only

	ConnectTCP  Type = 32
	ConnectUnix Type = 33
	ListenTCP   Type = 34
	ListenUnix  Type = 35
	ListenAgent Type = 36
	ListenX11   Type = 37
	Accept      Type = 38
	Decline     Type = 39
	Unlisten    Type = 40

	Data   Type = 64 // both ways, id of the stream, as the rest
	Credit Type = 65
	EOF    Type = 66
	Close  Type = 67
)

// Frame is one message.
type Frame struct {
	Type    Type
	ID      uint32
	Payload []byte
}

// ErrTooLong is returned for a frame with a length above MaxPayload.
var ErrTooLong = errors.New("frame too long")

// Append appends the encoded frame to buffer.
func Append(buffer []byte, kind Type, id uint32, payload []byte) []byte {
	buffer = binary.BigEndian.AppendUint32(buffer, uint32(kind)<<24|uint32(len(payload)))
	buffer = binary.BigEndian.AppendUint32(buffer, id)
	return append(buffer, payload...)
}

// Read reads one frame; the payload belongs to the caller.
func Read(source io.Reader) (Frame, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(source, header[:]); err != nil {
		return Frame{}, err
	}
	word := binary.BigEndian.Uint32(header[:4])
	kind, length := Type(word>>24), word&0xffffff
	if length > MaxPayload {
		return Frame{}, fmt.Errorf("%w: %d bytes of type %d", ErrTooLong, length, kind)
	}
	frame := Frame{Type: kind, ID: binary.BigEndian.Uint32(header[4:]), Payload: make([]byte, length)}
	if _, err := io.ReadFull(source, frame.Payload); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return Frame{}, err
	}
	return frame, nil
}
