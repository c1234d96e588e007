package wire

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func ref(id uint32) []byte {
	return append([]byte{0, 0, 0, byte(id)}, make([]byte, TokenSize)...)
}

func texts(all ...string) []byte {
	encoded := []byte{0, 0, 0, byte(len(all))}
	for _, text := range all {
		encoded = AppendText(encoded, text)
	}
	return encoded
}

func startPayload(terminal bool) []byte {
	payload := []byte{0}
	if terminal {
		payload[0] = 1
	}
	payload = append(payload, ref(1)...)
	if !terminal {
		payload = append(payload, ref(2)...)
	}
	payload = append(payload, texts("/bin/sh", "-c", "x\xff")...)
	payload = append(payload, texts("A=b")...)
	payload = AppendText(payload, "/tmp")
	if terminal {
		payload = append(payload, 0, 80, 0, 24, 0, 0, 0, 0)
		payload = AppendText(payload, "\x35\x00\x00\x00\x01\x00")
	}
	return payload
}

func TestAFrameComesBackAsItWasSent(t *testing.T) {
	encoded := Append(nil, Data, 7, []byte("hello"))
	frame, err := Read(bytes.NewReader(encoded))
	if err != nil || frame.Type != Data || frame.ID != 7 || string(frame.Payload) != "hello" {
		t.Fatal(frame, err)
	}
}

func TestATruncatedFrameIsAnError(t *testing.T) {
	encoded := Append(nil, Data, 7, []byte("hello"))
	for length := 1; length < len(encoded); length++ {
		if _, err := Read(bytes.NewReader(encoded[:length])); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(length, err)
		}
	}
	if _, err := Read(bytes.NewReader(nil)); err != io.EOF {
		t.Fatal(err)
	}
}

func TestALengthBeyondTheLimitIsRefusedByTheHeader(t *testing.T) {
	if _, err := Read(bytes.NewReader([]byte{16, 0xff, 0xff, 0xff, 0, 0, 0, 1})); !errors.Is(err, ErrTooLong) {
		t.Fatal(err)
	}
}

func TestAStartHoldsWhatWasAskedFor(t *testing.T) {
	request, err := DecodeStart(startPayload(true))
	if err != nil || !request.Terminal || request.Size != (Size{80, 24, 0, 0}) || len(request.Streams()) != 1 {
		t.Fatal(request, err)
	}
	request, err = DecodeStart(startPayload(false))
	if err != nil || request.Argv[2] != "x\xff" || request.Env[0] != "A=b" || len(request.Streams()) != 2 {
		t.Fatal(request, err)
	}
}

func TestAStartsFlagsAreTheOnesThatAreKnown(t *testing.T) {
	for flags := range 256 {
		payload := startPayload(flags&startTerminal != 0)
		payload[0] = byte(flags)
		request, err := DecodeStart(payload)
		known := flags < startKeep+startEnd && flags&2 == 0
		if known != (err == nil) {
			t.Fatal(flags, err)
		}
		left := []Leftovers{HangUpLeftovers, EndLeftovers, KeepLeftovers}[flags>>3%3]
		if err == nil && (request.Agent != (flags&startAgent != 0) || request.Leftovers != left) {
			t.Fatal(flags, request)
		}
	}
}

func TestAPayloadThatIsTooShortOrTooLongIsMalformed(t *testing.T) {
	for _, whole := range [][]byte{startPayload(true), startPayload(false)} {
		for length := range whole {
			if _, err := DecodeStart(whole[:length]); err == nil {
				t.Fatal(length)
			}
		}
		if _, err := DecodeStart(append(bytes.Clone(whole), 0)); err == nil {
			t.Fatal("something was left")
		}
	}
}

func TestACountThatCannotBeReservesNothing(t *testing.T) {
	if d := Decode([]byte{0xff, 0xff, 0xff, 0xff, 0}); d.Texts() != nil || d.Done() == nil {
		t.Fatal("taken")
	}
	if d := Decode([]byte{0xff, 0xff, 0xff, 0xff, 0}); d.Text() != "" || d.Done() == nil {
		t.Fatal("taken")
	}
}

func TestAnErrorsTextIsCut(t *testing.T) {
	if length := len(EncodeError(1, strings.Repeat("x", 5000))); length != MaxText+6 {
		t.Fatal(length)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(startPayload(true))
	f.Add(startPayload(false))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, payload []byte) {
		if request, err := DecodeStart(payload); err == nil && len(request.Argv) == 0 {
			t.Fatal("a program without a name")
		}
		_, _ = DecodeSignal(payload)
		_, _ = DecodeResize(payload)
		_, _ = DecodeProgram(payload)
		_, _ = DecodeWrite(payload)
		_, _ = DecodeWelcome(payload)
	})
}

func FuzzRead(f *testing.F) {
	f.Add(Append(nil, Start, 1, startPayload(true)))
	f.Add([]byte{64, 0xff, 0xff, 0xff, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		source := bytes.NewReader(data)
		for {
			frame, err := Read(source)
			if err != nil {
				return
			}
			again := Append(nil, frame.Type, frame.ID, frame.Payload)
			if !bytes.Contains(data, again) {
				t.Fatal("a frame that was not sent")
			}
		}
	})
}
