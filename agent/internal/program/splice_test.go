package program

import (
	"bytes"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"containerssh.io/agent/internal/link"
)

func connected(t *testing.T) (ours, theirs *net.UnixConn) {
	t.Helper()
	address := &net.UnixAddr{Name: filepath.Join(t.TempDir(), "socket"), Net: "unix"}
	listener, err := net.ListenUnix("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if ours, err = net.DialUnix("unix", nil, address); err != nil {
		t.Fatal(err)
	}
	if theirs, err = listener.AcceptUnix(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}

func pattern(size int) []byte {
	data := make([]byte, size)
	for index := range data {
		data[index] = byte(index * 7 >> 3)
	}
	return data
}

// The reader is slow at first, so that the other side has to wait for room.
func readSlowly(source io.Reader) []byte {
	time.Sleep(20 * time.Millisecond)
	data, _ := io.ReadAll(source)
	return data
}

func TestOutputIsSplicedWholeToASlowReader(t *testing.T) {
	ours, theirs := connected(t)
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	enlarge(reader)
	sent := pattern(5_000_001)
	go func() {
		_, _ = writer.Write(sent)
		writer.Close()
	}()
	go func() {
		d := newDrain(reader, ours, false)
		if d.splicer == nil {
			t.Error("nothing to splice with")
		}
		d.run()
	}()
	if got := readSlowly(theirs); !bytes.Equal(got, sent) {
		t.Fatalf("%d bytes arrived of %d, or others", len(got), len(sent))
	}
}

func TestInputArrivesWholeAtASlowProgram(t *testing.T) {
	ours, theirs := connected(t)
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	sent := pattern(5_000_001)
	go func() {
		_, _ = theirs.Write(sent)
		_ = theirs.CloseWrite()
	}()
	go feed(writer, ours)
	if got := readSlowly(reader); !bytes.Equal(got, sent) {
		t.Fatalf("%d bytes arrived of %d, or others", len(got), len(sent))
	}
}

func TestInputForAProgramThatHasClosedItsSideIsDropped(t *testing.T) {
	ours, theirs := connected(t)
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		feed(writer, ours)
		close(done)
	}()
	reader.Close()
	go func() {
		_, _ = theirs.Write(pattern(5_000_000))
		_ = theirs.CloseWrite()
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("input is still waited for")
	}
}

// framed has no descriptor, like a stream of many on one link.
type framed struct{ stream *net.UnixConn }

func (f framed) Read(data []byte) (int, error)  { return f.stream.Read(data) }
func (f framed) Write(data []byte) (int, error) { return f.stream.Write(data) }
func (f framed) CloseWrite() error              { return f.stream.CloseWrite() }
func (f framed) Close() error                   { return f.stream.Close() }

func TestWhatCannotBeSplicedIsCopied(t *testing.T) {
	ours, theirs := connected(t)
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	sent := pattern(300_000)
	go func() {
		_, _ = writer.Write(sent)
		writer.Close()
	}()
	go newDrain(reader, framed{ours}, false).run()
	if got := readSlowly(theirs); !bytes.Equal(got, sent) {
		t.Fatalf("%d bytes arrived of %d, or others", len(got), len(sent))
	}
}

func TestAProgramsEndDoesNotWaitForABackgroundProcessThatKeepsWriting(t *testing.T) {
	for name, wrap := range map[string]func(*net.UnixConn) link.Stream{
		"spliced": func(stream *net.UnixConn) link.Stream { return stream },
		"copied":  func(stream *net.UnixConn) link.Stream { return framed{stream} },
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := connected(t)
			reader, writer, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			enlarge(reader)
			var background [2]*exec.Cmd
			for index := range background {
				background[index] = exec.Command("yes")
				background[index].Stdout = writer
				if err := background[index].Start(); err != nil {
					t.Fatal(err)
				}
			}
			writer.Close()
			d := newDrain(reader, wrap(ours), false)
			done := make(chan struct{})
			go func() {
				d.run()
				close(done)
			}()
			// The client is slow, so the pipe is always full.
			flowing := make(chan struct{})
			go func() {
				buffer := make([]byte, 16<<10)
				for read := 0; ; {
					count, err := theirs.Read(buffer)
					if err != nil {
						return
					}
					if read < 1<<20 && read+count >= 1<<20 {
						close(flowing)
					}
					read += count
					time.Sleep(100 * time.Microsecond)
				}
			}()
			settled := make(chan struct{})
			go func() {
				<-flowing
				d.settle()
				close(settled)
			}()
			select {
			case <-settled:
			case <-time.After(10 * time.Second):
				t.Error("the program's end is still not reported")
			}
			for _, one := range background {
				_ = one.Process.Kill()
				_ = one.Wait()
			}
			<-done
		})
	}
}
