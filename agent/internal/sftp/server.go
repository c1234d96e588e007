// Package sftp serves version 3 of the SSH file transfer protocol (draft-ietf-secsh-filexfer-02) with OpenSSH's
// extensions. Requests are handled one after another, as in OpenSSH's server. So memory is limited to two buffers
// whatever a client sends, and no packet has to be passed between threads.
package sftp

import (
	"encoding/binary"
	"errors"
	"syscall"
)

const (
	inputSize = 2 * (maxPacket + 4)
	// sendAt is the size of collected replies from which they are sent; one more reply may be added before.
	sendAt = 64 << 10
	// outputSize is the requested size of the socket's send buffer; the kernel doubles it.
	outputSize = 512 << 10
)

type server struct {
	rules   Rules
	view    *view
	events  *events
	handles handles
	names   names
	start   string // the folder that relative paths start from
	created map[identity]birth
	moved   uint64
	greeted bool
	reply   reply
	output  *output
	lending lending
}

// errGone is returned when the client has gone without ending its input first.
var errGone = errors.New("the client has gone")

// Serve answers requests from the descriptor input until its end. Events, and the reason of a failure, are written to
// eventsTo.
func Serve(input, output, eventsTo int, rules Rules) error {
	s := &server{rules: rules, events: &events{descriptor: eventsTo}, output: newOutput(output)}
	if !rules.Events {
		s.events.descriptor = -1
	}
	err := s.prepare()
	if err == nil {
		err = s.serve(input)
		s.closeAll()
		s.lending.close()
	}
	if err == errGone {
		err = nil
	}
	s.events.flush()
	if err != nil {
		s.events.descriptor = eventsTo
		s.events.begin("failed").text("reason", err.Error()).end()
		s.events.flush()
	}
	return err
}

func (s *server) prepare() (err error) {
	if err = s.rules.confine(); err != nil {
		return err
	}
	if s.view, err = openView(s.rules.Root); err != nil {
		return &rootError{s.rules.Root, err}
	}
	s.start = "/"
	if !s.view.rooted() {
		if folder, err := syscall.Getwd(); err == nil {
			s.start = folder
		}
	}
	s.created = map[identity]birth{}
	s.reply.buffer = make([]byte, 0, sendAt+maxPacket+64)
	return nil
}

type rootError struct {
	root string
	err  error
}

func (e *rootError) Error() string { return "the root folder " + e.root + ": " + e.err.Error() }

func (s *server) serve(input int) error {
	from := newInput(input)
	buffer := make([]byte, inputSize)
	start, end := 0, 0
	for {
		for end-start >= 4 {
			size := binary.BigEndian.Uint32(buffer[start:])
			if size == 0 || size > maxPacket {
				return errMalformed
			}
			whole := start + 4 + int(size)
			if whole > end {
				break
			}
			if err := s.handle(buffer[start+4 : whole]); err != nil {
				return err
			}
			start = whole
			if len(s.reply.buffer) >= sendAt || s.lending.count > 0 {
				if err := s.send(); err != nil {
					return err
				}
			}
		}
		if err := s.send(); err != nil {
			return err
		}
		if start == end {
			start, end = 0, 0
		} else if len(buffer)-start < maxPacket+4 {
			end = copy(buffer, buffer[start:end])
			start = 0
		}
		count, err := from.read(buffer[end:])
		if err != nil {
			return orGone(err)
		}
		if count == 0 {
			return nil
		}
		end += count
	}
}

func (s *server) send() error {
	s.events.flush()
	if len(s.reply.buffer) == 0 {
		return nil
	}
	var err error
	if s.lending.count > 0 {
		err = s.lending.send(s.output, s.reply.buffer)
	} else {
		err = s.output.write(s.reply.buffer)
	}
	s.reply.buffer = s.reply.buffer[:0]
	return orGone(err)
}

// orGone maps the errors of a connection that the client has closed to errGone.
func orGone(err error) error {
	if err == syscall.EPIPE || err == syscall.ECONNRESET {
		return errGone
	}
	return err
}

// handle handles one request. An error ends the session, because a reply would need an id.
func (s *server) handle(packet []byte) error {
	f := &fields{rest: packet[1:]}
	if !s.greeted {
		if packet[0] != typeInit || f.word() < 3 || f.failed {
			return errors.New("the client does not support version 3")
		}
		s.greeted = true
		s.greet()
		return nil
	}
	id := f.word()
	if f.failed || packet[0] == typeInit {
		return errMalformed
	}
	action := actions[packet[0]]
	if action == nil {
		s.status(id, statusUnsupported, "unsupported request")
		return nil
	}
	before := len(s.reply.buffer)
	err := action(s, id, f)
	if err == nil && f.failed {
		err = errMalformed
	}
	if err != nil {
		s.reply.buffer = s.reply.buffer[:before]
		s.fail(id, err)
	} else if len(s.reply.buffer) == before {
		s.status(id, statusOK, "")
	}
	return nil
}

// actions write a reply, or none if the reply is a plain success, or return an error. They change nothing if a field is
// missing.
var actions = [256]func(*server, uint32, *fields) error{
	typeOpen: (*server).open, typeClose: (*server).close, typeRead: (*server).read, typeWrite: (*server).write,
	typeLstat: (*server).lstat, typeFstat: (*server).fstat, typeSetstat: (*server).setstat,
	typeFsetstat: (*server).fsetstat, typeOpendir: (*server).opendir, typeReaddir: (*server).readdir,
	typeRemove: (*server).remove, typeMkdir: (*server).mkdir, typeRmdir: (*server).rmdir,
	typeRealpath: (*server).realpath, typeStat: (*server).stat, typeRename: (*server).rename,
	typeReadlink: (*server).readlink, typeSymlink: (*server).symlink, typeExtended: (*server).extended,
}

func (s *server) greet() {
	r := &s.reply
	r.begin(typeVersion, 3)
	for _, one := range extensions {
		r.text(one.name)
		r.text(one.version)
	}
	r.end()
}

func (s *server) status(id, code uint32, text string) {
	r := &s.reply
	r.begin(typeStatus, id)
	r.word(code)
	r.text(text)
	r.text("")
	r.end()
}

const tooLarge = "the maximum file size is reached"

// refusal is the error for an operation that the rules forbid.
type refusal string

func (r refusal) Error() string { return string(r) }

// errEnd is the end of a file or folder.
var errEnd = errors.New("end of file")

func (s *server) fail(id uint32, err error) {
	var number syscall.Errno
	var refused refusal
	code, text := uint32(statusFailure), err.Error()
	switch {
	case err == errEnd:
		code = statusEOF
	case err == errMalformed:
		code = statusBadMessage
	case errors.As(err, &refused):
		code = statusDenied
	case errors.As(err, &number):
		switch number {
		case syscall.ENOENT, syscall.ENOTDIR, syscall.EBADF, syscall.ELOOP:
			code = statusNoSuchFile
		case syscall.EPERM, syscall.EACCES:
			code = statusDenied
		case syscall.EINVAL, syscall.ENAMETOOLONG:
			code = statusBadMessage // as OpenSSH's server does
		case syscall.ENOSYS, syscall.EOPNOTSUPP:
			code = statusUnsupported
		case syscall.EFBIG:
			text = tooLarge
		}
	}
	s.status(id, code, text)
}

// refuse reports to the gateway that the rules forbid an operation, and returns the error for the client.
func (s *server) refuse(operation, path, reason string) error {
	s.events.begin("refused").text("operation", operation).text("path", s.shown(path)).text("reason", reason).end()
	return refusal(reason)
}

// mayChange checks the rules before a change. In upload-only mode, callers check what they change themselves.
func (s *server) mayChange(operation, path string) error {
	if s.rules.ReadOnly {
		return s.refuse(operation, path, "read-only")
	}
	return nil
}

// mayReplace checks the rules before an operation that may affect existing files.
func (s *server) mayReplace(operation, path string) error {
	if s.rules.UploadOnly {
		return s.refuse(operation, path, "upload only")
	}
	return s.mayChange(operation, path)
}

// shown returns a client's path for events: absolute, but otherwise as the client sent it.
func (s *server) shown(path string) string {
	if path != "" && path[0] == '/' {
		return path
	}
	if s.start == "/" {
		return "/" + path
	}
	return s.start + "/" + path
}

// path reads a path from a request.
func (s *server) path(f *fields) (string, error) {
	raw := f.bytes()
	if f.failed {
		return "", errMalformed
	}
	if len(raw) == 0 {
		return ".", nil
	}
	if len(raw) >= maxPath {
		return "", syscall.ENAMETOOLONG
	}
	for _, char := range raw {
		if char == 0 {
			return "", syscall.EINVAL
		}
	}
	return string(raw), nil
}
