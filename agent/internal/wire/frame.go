// Package wire is the encoding of the protocol between the gateway and its agent; docs/agent.md describes it.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Version is the protocol that this agent speaks; Oldest is the oldest one that it can still speak.
const (
	Version = 2
	Oldest  = 1
)

// Preamble comes before the first frame of a control connection; the gateway looks for it behind whatever an image's
// entrypoint has printed.
const Preamble = "\x00\x89containerssh\r\n"

// StreamPreamble and a token begin a connection that carries the bytes of one stream and nothing else.
const StreamPreamble = "\x00\x89stream"

// DirectPreamble and a ticket begin a connection that carries TLS, and the link in it.
const DirectPreamble = "\x00\x89direct"

// TokenSize is the length of the secret that ties a stream's connection to the request it belongs to.
const TokenSize = 16

// TicketSize is the length of the secret that ties a connection of the agent's own to its login.
const TicketSize = 32

// Window is how many bytes of one multiplexed stream may be under way in each direction.
const Window = 256 * 1024

// MaxData is the longest payload of a Data frame.
const MaxData = 64 * 1024

// MaxPayload is the longest payload that the agent takes: a Start with a full argument list and environment.
const MaxPayload = 2 * 1024 * 1024

// MaxText is the longest error text that the agent sends.
const MaxText = 1024

// MaxPending is how many accepted connections may wait for the gateway's word, those of all listeners together.
const MaxPending = 64

const headerSize = 8

// Type says what a frame is.
type Type uint8

// The frames. Those of one block go one way only, as marked.
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

// ErrTooLong is returned for a frame that claims more than MaxPayload.
var ErrTooLong = errors.New("frame too long")

// Append adds the encoded frame to buffer.
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
