package sftp

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// served is a session that answers on a connection, and that connection's other end.
type served struct {
	*session
	client *os.File
	ended  chan error
}

func serve(t *testing.T, root string, rules Rules) *served {
	return serveAs(t, root, rules, unopened)
}

func serveAs(t *testing.T, root string, rules Rules, lends lendingState) *served {
	t.Helper()
	rules.Root, rules.Umask = root, -1
	s := open(t, rules, false)
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	s.output = newOutput(pair[0])
	s.lending.state = lends
	one := &served{s, os.NewFile(uintptr(pair[1]), "client"), make(chan error, 1)}
	go func() {
		err := s.serve(pair[0])
		syscall.Close(pair[0])
		one.ended <- err
	}()
	t.Cleanup(func() {
		one.client.Close()
		select {
		case <-one.ended:
		case <-time.After(20 * time.Second):
			t.Error("it serves nobody")
		}
		s.lending.close()
	})
	return one
}

func (s *served) send(packets ...packet) {
	s.t.Helper()
	var all []byte
	for _, one := range packets {
		all = append(binary.BigEndian.AppendUint32(all, uint32(len(one.data))), one.data...)
	}
	// Not Fatal: some tests send from a goroutine of their own.
	if _, err := s.client.Write(all); err != nil {
		s.t.Error(err)
	}
}

func (s *served) receive() answer {
	s.t.Helper()
	var head [4]byte
	if _, err := io.ReadFull(s.client, head[:]); err != nil {
		s.t.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(s.client, body); err != nil {
		s.t.Fatal(err)
	}
	f := &fields{rest: body}
	kind := f.byte()
	f.word()
	return answer{kind, f}
}

func (s *served) opened(path string, flags uint32) string {
	s.t.Helper()
	s.send(request(typeOpen).text(path).word(flags).word(0))
	a := s.receive()
	if a.kind != typeHandle {
		s.t.Fatalf("no handle: %d", a.kind)
	}
	return a.text()
}

func large(t *testing.T, size int) (root string, content []byte) {
	t.Helper()
	root, content = t.TempDir(), make([]byte, size)
	rand.New(rand.NewSource(int64(size))).Read(content)
	if err := os.WriteFile(filepath.Join(root, "large"), content, 0o644); err != nil {
		t.Fatal(err)
	}
	return root, content
}

func TestLargeAnswersHoldWhatTheFileHolds(t *testing.T) {
	root, content := large(t, 3*maxData+777)
	for name, rules := range map[string]Rules{"plain": {}, "with an allowance": {Session: 1 << 40}} {
		s := serve(t, root, rules)
		handle := s.opened("large", flagRead)
		random := rand.New(rand.NewSource(1))
		for range 50 {
			// Several at once, with another answer between them, and some beyond the end.
			var wanted [3]struct{ offset, size int }
			var packets []packet
			for i := range wanted {
				one := &wanted[i]
				one.offset, one.size = random.Intn(len(content)), 1+random.Intn(maxData)
				packets = append(packets, request(typeRead).text(handle).long(uint64(one.offset)).word(uint32(one.size)))
				packets = append(packets, request(typeRead).text(handle).long(uint64(len(content))).word(maxData))
			}
			go s.send(packets...)
			for _, one := range wanted {
				end := min(one.offset+one.size, len(content))
				if a := s.receive(); a.kind != typeData || a.text() != string(content[one.offset:end]) || len(a.rest) > 0 {
					t.Fatal(name, "something else at", one.offset, one.size)
				}
				if a := s.receive(); a.kind != typeStatus || a.word() != statusEOF {
					t.Fatal(name, "beyond the end")
				}
			}
		}
		s.client.Close()
		err := <-s.ended
		s.ended <- err
		if (s.lending.state == possible) != (name == "plain") {
			t.Fatal(name, s.lending.state)
		}
	}
}

func TestWhatWasReadDoesNotChangeWithWhatIsAskedForAfterwards(t *testing.T) {
	const size = 40000
	for name, change := range map[string]func(s *served) []packet{
		"cut": func(*served) []packet { return []packet{request(typeSetstat).text("large").word(attrSize).long(100)} },
		"replaced": func(*served) []packet {
			return []packet{request(typeOpen).text("large").word(flagWrite | flagTrunc).word(0)}
		},
		"written to": func(s *served) []packet {
			handle := s.opened("large", flagWrite)
			return []packet{request(typeWrite).text(handle).long(0).text("changed")}
		},
	} {
		root, content := large(t, size)
		s := serve(t, root, Rules{})
		handle := s.opened("large", flagRead)
		after := change(s)
		s.send(append([]packet{request(typeRead).text(handle).long(0).word(size)}, after...)...)
		// Long enough for all of it, if nothing waits for the client.
		time.Sleep(20 * time.Millisecond)
		if a := s.receive(); a.kind != typeData || a.text() != string(content) {
			t.Error(name, "and then read")
		}
		if a := s.receive(); a.kind == typeStatus && a.word() != statusOK {
			t.Error(name, "was refused")
		}
	}
}

func TestASlowClientGetsEverythingAndOneThatLeavesIsNotWaitedFor(t *testing.T) {
	root, content := large(t, maxData)
	s := serve(t, root, Rules{})
	handle := s.opened("large", flagRead)
	const count = 16
	for range count {
		s.send(request(typeRead).text(handle).long(0).word(maxData))
	}
	for range count / 2 {
		// Longer than a call waits which Go is not told of.
		time.Sleep(2 * soon * time.Microsecond)
		if a := s.receive(); a.text() != string(content) {
			t.Fatal("something is missing")
		}
	}
	s.client.Close()
	select {
	case err := <-s.ended:
		s.ended <- err
		if err != nil && err != errGone {
			t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it waits for a client that has gone")
	}
}

func TestTheCollectorOfGarbageDoesNotWaitForRequests(t *testing.T) {
	root, _ := large(t, 1)
	s := serve(t, root, Rules{})
	for range 20 {
		s.opened("large", flagRead)
		collected := make(chan struct{})
		go func() {
			runtime.GC()
			close(collected)
		}()
		select {
		case <-collected:
		case <-time.After(20 * time.Second):
			t.Fatal("it waits for the next request")
		}
	}
}

func TestWithoutPipesOfThatSizeFilesAreRead(t *testing.T) {
	root, content := large(t, maxData)
	s := serveAs(t, root, Rules{}, impossible)
	handle := s.opened("large", flagRead)
	s.send(request(typeRead).text(handle).long(1).word(maxData - 1))
	if a := s.receive(); !bytes.Equal([]byte(a.text()), content[1:]) {
		t.Fatal("something else")
	}
}
