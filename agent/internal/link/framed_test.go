package link

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"containerssh.io/agent/internal/wire"
)

// pair gives a framed link and the gateway's end of its connection, the preamble already read.
func pair(t *testing.T) (Link, net.Conn) {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	made := make(chan Link, 1)
	go func() {
		framed, err := Frame(ours, ours)
		if err != nil {
			t.Error(err)
		}
		made <- framed
	}()
	preamble := make([]byte, len(wire.Preamble))
	if _, err := io.ReadFull(theirs, preamble); err != nil || string(preamble) != wire.Preamble {
		t.Fatal(string(preamble), err)
	}
	_ = theirs.SetDeadline(time.Now().Add(10 * time.Second))
	return <-made, theirs
}

func open(t *testing.T, connection Link, id uint32) Stream {
	t.Helper()
	opener, err := connection.Expect(wire.StreamRef{ID: id})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := opener()
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func receiveAll(connection Link) chan error {
	failed := make(chan error, 1)
	go func() {
		for {
			if _, err := connection.Receive(); err != nil {
				failed <- err
				return
			}
		}
	}()
	return failed
}

func expectFrame(t *testing.T, source io.Reader, kind wire.Type) wire.Frame {
	t.Helper()
	frame, err := wire.Read(source)
	if err != nil || frame.Type != kind {
		t.Fatal(frame, err)
	}
	return frame
}

func TestAWriterStopsWhenItsCreditIsUsedUp(t *testing.T) {
	framed, gateway := pair(t)
	stream := open(t, framed, 1)
	receiveAll(framed)
	written := make(chan error, 1)
	go func() {
		_, err := stream.Write(make([]byte, wire.Window+1))
		written <- err
	}()
	for got := 0; got < wire.Window; {
		got += len(expectFrame(t, gateway, wire.Data).Payload)
	}
	select {
	case <-written:
		t.Fatal("more was sent than there was credit for")
	case <-time.After(20 * time.Millisecond):
	}
	if _, err := gateway.Write(wire.Append(nil, wire.Credit, 1, []byte{0, 0, 0, 1})); err != nil {
		t.Fatal(err)
	}
	if frame := expectFrame(t, gateway, wire.Data); len(frame.Payload) != 1 {
		t.Fatal(frame)
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
}

func TestEachSideClosesOnceAndNothingFollows(t *testing.T) {
	framed, gateway := pair(t)
	stream := open(t, framed, 1)
	receiveAll(framed)
	closed := make(chan struct{})
	go func() {
		stream.Close()
		stream.Close()
		if _, err := stream.Write([]byte("x")); err == nil {
			t.Error("written after the end")
		}
		close(closed)
	}()
	expectFrame(t, gateway, wire.Close)
	<-closed
	// Under way before the gateway knew.
	if _, err := gateway.Write(wire.Append(nil, wire.Data, 1, []byte("late"))); err != nil {
		t.Fatal(err)
	}
	if _, err := gateway.Write(wire.Append(nil, wire.Close, 1, nil)); err != nil {
		t.Fatal(err)
	}
	go func() { _ = framed.Send(wire.OK, 9, nil) }()
	expectFrame(t, gateway, wire.OK)
}

func TestBytesBeforeTheEndOfFileAreReadAfterTheClose(t *testing.T) {
	framed, gateway := pair(t)
	stream := open(t, framed, 1)
	receiveAll(framed)
	sent := wire.Append(nil, wire.Data, 1, []byte("last words"))
	sent = wire.Append(sent, wire.EOF, 1, nil)
	sent = wire.Append(sent, wire.Close, 1, nil)
	if _, err := gateway.Write(sent); err != nil {
		t.Fatal(err)
	}
	expectFrame(t, gateway, wire.Close)
	if content, err := io.ReadAll(stream); err != nil || string(content) != "last words" {
		t.Fatal(string(content), err)
	}
}

func TestWhatBreaksTheProtocolEndsTheLinkAndItsStreams(t *testing.T) {
	data := wire.Append(nil, wire.Data, 1, make([]byte, wire.MaxData))
	for name, sent := range map[string][]byte{
		"unknown stream":    wire.Append(nil, wire.Data, 2, []byte("x")),
		"more than window":  bytes.Repeat(data, 5),
		"end twice":         bytes.Repeat(wire.Append(nil, wire.EOF, 1, nil), 2),
		"too much credit":   wire.Append(nil, wire.Credit, 1, []byte{0xff, 0xff, 0xff, 0xff}),
		"malformed credit":  wire.Append(nil, wire.Credit, 1, []byte{1}),
		"unknown type":      wire.Append(nil, 99, 1, nil),
		"data after end":    wire.Append(wire.Append(nil, wire.EOF, 1, nil), wire.Data, 1, []byte("x")),
		"frame that is cut": data[:20],
	} {
		t.Run(name, func(t *testing.T) {
			framed, gateway := pair(t)
			stream := open(t, framed, 1)
			failed := receiveAll(framed)
			go func() {
				_, _ = gateway.Write(sent)
				gateway.Close()
			}()
			if err := <-failed; err == nil {
				t.Fatal("accepted")
			}
			if _, err := io.ReadAll(stream); err == nil && name != "end twice" && name != "data after end" {
				t.Fatal("the stream did not break")
			}
			if _, err := stream.Write([]byte("x")); err == nil {
				t.Fatal("the stream did not break")
			}
		})
	}
}

func TestAStreamCannotBeAnnouncedTwice(t *testing.T) {
	framed, _ := pair(t)
	open(t, framed, 1)
	for _, id := range []uint32{0, 1} {
		if _, err := framed.Expect(wire.StreamRef{ID: id}); err == nil {
			t.Fatal(id)
		}
	}
}

func FuzzFramed(f *testing.F) {
	f.Add(wire.Append(wire.Append(nil, wire.Data, 1, []byte("x")), wire.Close, 1, nil))
	f.Add(wire.Append(nil, wire.Credit, 1, []byte{0, 0, 0, 1}))
	f.Fuzz(func(t *testing.T, sent []byte) {
		framed := &framedLink{reader: bufio.NewReader(bytes.NewReader(sent)), writer: nowhere{}, streams: map[uint32]*framedStream{}}
		for id := uint32(1); id < 4; id++ {
			if _, err := framed.Expect(wire.StreamRef{ID: id}); err != nil {
				t.Fatal(err)
			}
		}
		for {
			if _, err := framed.Receive(); err != nil {
				break
			}
		}
		if len(framed.streams) != 0 {
			t.Fatal("streams outlive their link")
		}
	})
}

type nowhere struct{}

func (nowhere) Write(data []byte) (int, error) { return 0, errors.New("gone") }
func (nowhere) Close() error                   { return nil }
