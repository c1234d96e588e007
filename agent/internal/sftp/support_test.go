package sftp

import (
	"encoding/binary"
	"os"
	"testing"
)

// session is a server and what a client would know of it.
type session struct {
	t *testing.T
	*server
}

func open(t *testing.T, rules Rules, walk bool) *session {
	t.Helper()
	s := &server{rules: rules, events: &events{descriptor: -1}}
	if err := s.prepare(); err != nil {
		t.Fatal(err)
	}
	s.view.walk = walk
	s.greeted = true
	t.Cleanup(func() {
		s.closeAll()
		release(s.view.root)
	})
	return &session{t, s}
}

type packet struct{ data []byte }

func request(kind byte) packet { return packet{[]byte{kind, 0, 0, 0, 1}} }

func (p packet) word(value uint32) packet {
	return packet{binary.BigEndian.AppendUint32(p.data, value)}
}

func (p packet) long(value uint64) packet {
	return packet{binary.BigEndian.AppendUint64(p.data, value)}
}

func (p packet) text(value string) packet {
	return packet{append(p.word(uint32(len(value))).data, value...)}
}

// answer is a reply without its length and id.
type answer struct {
	kind byte
	*fields
}

func (s *session) ask(p packet) answer {
	s.t.Helper()
	s.reply.buffer = s.reply.buffer[:0]
	if err := s.handle(p.data); err != nil {
		s.t.Fatal(err)
	}
	f := &fields{rest: s.reply.buffer}
	size, kind, id := f.word(), f.byte(), f.word()
	if int(size) != len(s.reply.buffer)-4 || id != 1 {
		s.t.Fatalf("a reply of %d bytes with the length %d and id %d", len(s.reply.buffer), size, id)
	}
	return answer{kind, f}
}

func (s *session) status(p packet) uint32 {
	s.t.Helper()
	a := s.ask(p)
	if a.kind != typeStatus {
		s.t.Fatalf("a status was awaited, not %d", a.kind)
	}
	return a.word()
}

func (s *session) handleOf(p packet) string {
	s.t.Helper()
	a := s.ask(p)
	if a.kind != typeHandle {
		s.t.Fatalf("no handle: status %d %q", a.word(), a.text())
	}
	return a.text()
}

// content is all of a file, or the status that opening it had.
func (s *session) content(path string) (string, uint32) {
	s.t.Helper()
	a := s.ask(request(typeOpen).text(path).word(flagRead).word(0))
	if a.kind == typeStatus {
		return "", a.word()
	}
	handle := a.text()
	defer s.ask(request(typeClose).text(handle))
	a = s.ask(request(typeRead).text(handle).long(0).word(1000))
	if a.kind == typeStatus {
		return "", a.word()
	}
	return a.text(), statusOK
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
