package sftp

import (
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
)

func (s *session) copies(from, to string) uint32 {
	s.t.Helper()
	opened := s.handleOf(request(typeOpen).text(from).word(flagRead).word(0))
	created := s.handleOf(request(typeOpen).text(to).word(flagWrite | flagCreate | flagTrunc).word(0))
	defer s.ask(request(typeClose).text(opened))
	defer s.ask(request(typeClose).text(created))
	return s.status(request(typeExtended).text("copy-data").text(opened).long(0).long(0).text(created).long(0))
}

func TestACopyMayUseUpTheSessionButNotOneByteMore(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "source"), "0123456789")
	s := open(t, Rules{Root: root, Session: 10, Umask: -1}, false)
	if status := s.copies("/source", "/all"); status != statusOK {
		t.Errorf("a copy of exactly what is left: status %d", status)
	}
	if status := s.copies("/source", "/more"); status != statusDenied {
		t.Errorf("a copy with nothing left: status %d", status)
	}
	more, err := os.ReadFile(filepath.Join(root, "more"))
	if err != nil || len(more) != 0 || s.moved != 10 {
		t.Errorf("%q was copied, %d bytes counted, %v", more, s.moved, err)
	}
}

func TestAFileOfTheMaximumSizeCanBeCopied(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "source"), "0123456789")
	write(t, filepath.Join(root, "larger"), "0123456789+")
	s := open(t, Rules{Root: root, Umask: -1}, false)
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	signal.Ignore(syscall.SIGXFSZ)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 10, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	same, larger := s.copies("/source", "/same"), s.copies("/larger", "/cut")
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	signal.Reset(syscall.SIGXFSZ)
	copied, _ := os.ReadFile(filepath.Join(root, "same"))
	if same != statusOK || larger != statusFailure || string(copied) != "0123456789" {
		t.Errorf("status %d with %q, status %d of the larger file", same, copied, larger)
	}
}
