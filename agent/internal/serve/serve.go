// Package serve answers the gateway's requests.
package serve

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"containerssh.io/agent/internal/files"
	"containerssh.io/agent/internal/forward"
	"containerssh.io/agent/internal/link"
	"containerssh.io/agent/internal/program"
	"containerssh.io/agent/internal/wire"
)

const maxPrograms = 4096

// Build is the version that the handshake reports.
var Build = "dev"

type server struct {
	link     link.Link
	mutex    sync.Mutex
	programs map[uint32]*program.Program // nil while it is being started
	forwards *forward.Forwards
}

// Serve serves requests until the gateway closes the link or violates the protocol. Programs may still run when it
// returns.
func Serve(connection link.Link) error {
	given := connection
	connection, err := open(given)
	if connection != given {
		defer connection.Close()
	}
	if err != nil {
		return err
	}
	s := &server{link: connection, programs: map[uint32]*program.Program{}}
	s.forwards = forward.New(connection, s.answer)
	defer s.forwards.Close()
	for {
		frame, err := connection.Receive()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if frame.Type == wire.Shutdown {
			return nil
		}
		if err := s.handle(frame); err != nil {
			return err
		}
	}
}

// handle returns an error only for a frame that violates the protocol.
func (s *server) handle(frame wire.Frame) error {
	switch frame.Type {
	case wire.Start:
		return s.start(frame)
	case wire.WriteFile:
		return s.writeFile(frame)
	case wire.Signal:
		request, err := wire.DecodeSignal(frame.Payload)
		return s.act(frame.ID, request.Program, err, func(p *program.Program) error { return p.Signal(request.Name) })
	case wire.Resize:
		request, err := wire.DecodeResize(frame.Payload)
		return s.act(frame.ID, request.Program, err, func(p *program.Program) error { return p.Resize(request.Size) })
	case wire.Break:
		id, err := wire.DecodeProgram(frame.Payload)
		return s.act(frame.ID, id, err, (*program.Program).Break)
	case wire.Kill:
		return s.kill(frame)
	default:
		if ours, err := s.forwards.Handle(frame); ours {
			return err
		}
		return fmt.Errorf("request of the unknown type %d", frame.Type)
	}
}

// act runs an action on a program and answers the request.
func (s *server) act(id, target uint32, malformed error, action func(*program.Program) error) error {
	if malformed != nil {
		return malformed
	}
	s.mutex.Lock()
	found := s.programs[target]
	s.mutex.Unlock()
	if found == nil {
		s.answer(id, syscall.ESRCH)
		return nil
	}
	s.answer(id, action(found))
	return nil
}

func (s *server) start(frame wire.Frame) error {
	request, err := wire.DecodeStart(frame.Payload)
	if err != nil {
		return err
	}
	s.mutex.Lock()
	_, known := s.programs[frame.ID]
	full := len(s.programs) >= maxPrograms
	if !known && !full {
		s.programs[frame.ID] = nil
	}
	s.mutex.Unlock()
	if known || full {
		return fmt.Errorf("program %d cannot be started", frame.ID)
	}
	openers := make([]link.Opener, 0, 2)
	for _, ref := range request.Streams() {
		opener, err := s.link.Expect(ref)
		if err != nil {
			return err
		}
		openers = append(openers, opener)
	}
	go s.run(frame.ID, request, openers)
	return nil
}

func (s *server) run(id uint32, request wire.StartRequest, openers []link.Opener) {
	started, err := launch(request, openers)
	s.mutex.Lock()
	_, wanted := s.programs[id]
	if err != nil {
		delete(s.programs, id)
	} else if wanted {
		s.programs[id] = started
	}
	s.mutex.Unlock()
	if err == nil && !wanted {
		// A Kill came while it was being started.
		started.Kill()
		started.Release()
		err = syscall.ECANCELED
	}
	s.answer(id, err)
	if err == nil {
		s.report(id, started.Wait())
	}
}

func launch(request wire.StartRequest, openers []link.Opener) (*program.Program, error) {
	streams := make([]link.Stream, 2)
	var err error
	for index, open := range openers {
		if streams[index], err = open(); err != nil {
			break
		}
	}
	var started *program.Program
	if err == nil {
		started, err = program.Start(request, streams[0], streams[1])
	}
	if err != nil {
		for _, stream := range streams {
			if stream != nil {
				stream.Close()
			}
		}
	}
	return started, err
}

func (s *server) kill(frame wire.Frame) error {
	id, err := wire.DecodeProgram(frame.Payload)
	if err != nil {
		return err
	}
	s.mutex.Lock()
	found := s.programs[id]
	delete(s.programs, id)
	s.mutex.Unlock()
	go func() {
		if found != nil {
			found.Kill()
			found.Release()
		}
		s.answer(frame.ID, nil)
	}()
	return nil
}

func (s *server) writeFile(frame wire.Frame) error {
	request, err := wire.DecodeWrite(frame.Payload)
	if err != nil {
		return err
	}
	open, err := s.link.Expect(request.Content)
	if err != nil {
		return err
	}
	go func() {
		content, err := open()
		if err == nil {
			var owner *files.Owner
			if request.Owned {
				owner = &files.Owner{UID: int(request.UID), GID: int(request.GID)}
			}
			err = files.Write(request.Path, content, int64(request.Size), os.FileMode(request.Mode), owner)
			content.Close()
		}
		s.answer(frame.ID, err)
	}()
	return nil
}

// answer ignores errors of the link: Serve notices a broken link when it receives.
func (s *server) answer(id uint32, err error) {
	if err == nil {
		_ = s.link.Send(wire.OK, id, nil)
		return
	}
	var number syscall.Errno
	errors.As(err, &number)
	text := err.Error()
	var where *os.PathError
	if errors.As(err, &where) {
		text = where.Path + ": " + where.Err.Error()
	}
	_ = s.link.Send(wire.Error, id, wire.EncodeError(uint16(number), text))
}

func (s *server) report(id uint32, status syscall.WaitStatus) {
	payload := wire.EncodeStatus(uint32(status.ExitStatus()))
	if status.Signaled() {
		payload = wire.EncodeDeath(program.SignalName(status.Signal()), status.CoreDump())
	}
	_ = s.link.Send(wire.Exited, id, payload)
}
