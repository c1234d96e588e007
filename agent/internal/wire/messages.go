package wire

import "encoding/binary"

// Size is a terminal's size in characters and pixels.
type Size struct{ Columns, Rows, Width, Height uint16 }

func (d *Decoder) size() Size {
	return Size{Columns: d.Short(), Rows: d.Short(), Width: d.Short(), Height: d.Short()}
}

// StartRequest asks for a program. Without a terminal Errors carries its standard error.
type StartRequest struct {
	Main, Errors StreamRef
	Argv, Env    []string
	Folder       string
	Terminal     bool
	Agent        bool // the program is the agent itself, whatever Argv begins with
	Leftovers    Leftovers
	Size         Size
	Modes        string
}

// Leftovers selects what happens, when a session ends, to the processes that its program has left running. In any case
// they end with the link.
type Leftovers byte

const (
	HangUpLeftovers Leftovers = iota // those in the program's session receive SIGHUP
	EndLeftovers                     // all are killed, in whatever session
	KeepLeftovers                    // they keep running
)

// The flags of a Start.
const (
	startTerminal = 1
	startAgent    = 4
	startEnd      = 8
	startKeep     = 16
)

// DecodeStart reads a Start.
func DecodeStart(payload []byte) (StartRequest, error) {
	d := Decode(payload)
	flags := d.Byte()
	if flags&^(startTerminal|startAgent|startEnd|startKeep) != 0 || flags&(startEnd|startKeep) == startEnd|startKeep {
		return StartRequest{}, ErrMalformed
	}
	request := StartRequest{Terminal: flags&startTerminal != 0, Agent: flags&startAgent != 0, Main: d.Stream()}
	switch {
	case flags&startEnd != 0:
		request.Leftovers = EndLeftovers
	case flags&startKeep != 0:
		request.Leftovers = KeepLeftovers
	}
	if !request.Terminal {
		request.Errors = d.Stream()
	}
	request.Argv, request.Env, request.Folder = d.Texts(), d.Texts(), d.Text()
	if request.Terminal {
		request.Size = d.size()
		request.Modes = d.Text()
	}
	if err := d.Done(); err != nil {
		return StartRequest{}, err
	}
	if len(request.Argv) == 0 {
		return StartRequest{}, ErrMalformed
	}
	return request, nil
}

// SignalRequest names a program, by the id of its Start, and a signal without SIG.
type SignalRequest struct {
	Program uint32
	Name    string
}

// DecodeSignal reads a Signal.
func DecodeSignal(payload []byte) (SignalRequest, error) {
	d := Decode(payload)
	request := SignalRequest{Program: d.Word(), Name: d.Text()}
	return request, d.Done()
}

// ResizeRequest sets a program's terminal to a size.
type ResizeRequest struct {
	Program uint32
	Size    Size
}

// DecodeResize reads a Resize.
func DecodeResize(payload []byte) (ResizeRequest, error) {
	d := Decode(payload)
	request := ResizeRequest{Program: d.Word(), Size: d.size()}
	return request, d.Done()
}

// DecodeProgram reads a Break or a Kill, which name a program only.
func DecodeProgram(payload []byte) (uint32, error) {
	d := Decode(payload)
	program := d.Word()
	return program, d.Done()
}

// WriteRequest asks for a file whose content comes through a stream.
type WriteRequest struct {
	Content StreamRef
	Path    string
	Mode    uint32
	Owned   bool
	UID     uint32
	GID     uint32
	Size    uint64
}

// DecodeWrite reads a WriteFile.
func DecodeWrite(payload []byte) (WriteRequest, error) {
	d := Decode(payload)
	request := WriteRequest{
		Content: d.Stream(), Path: d.Text(), Mode: d.Word(), Owned: d.Byte() != 0,
		UID: d.Word(), GID: d.Word(), Size: d.Long(),
	}
	return request, d.Done()
}

// DecodeWelcome reads the protocol version that the gateway has chosen.
func DecodeWelcome(payload []byte) (uint16, error) {
	d := Decode(payload)
	version := d.Short()
	return version, d.Done()
}

// EncodeHello encodes the versions that this agent supports, and its build.
func EncodeHello(build string) []byte {
	payload := binary.BigEndian.AppendUint16(nil, Version)
	payload = binary.BigEndian.AppendUint16(payload, Oldest)
	return AppendText(payload, build)
}

// EncodeError encodes an Error: the errno or 0, and a text of which at most MaxText bytes are sent.
func EncodeError(number uint16, text string) []byte {
	if len(text) > MaxText {
		text = text[:MaxText]
	}
	return AppendText(binary.BigEndian.AppendUint16(nil, number), text)
}

// EncodeStatus encodes the Exited of a program with an exit status.
func EncodeStatus(status uint32) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, status), 0, 0, 0, 0, 0)
}

// EncodeDeath encodes the Exited of a program that a signal has killed.
func EncodeDeath(name string, core bool) []byte {
	payload := []byte{1, 0, 0, 0, 0, 0}
	if core {
		payload[5] = 1
	}
	return AppendText(payload, name)
}

// Streams returns the streams of the program's standard streams.
func (r StartRequest) Streams() []StreamRef {
	if r.Terminal {
		return []StreamRef{r.Main}
	}
	return []StreamRef{r.Main, r.Errors}
}
