package program

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"containerssh.io/agent/internal/link"
	"containerssh.io/agent/internal/wire"
)

// defaultPath is searched when neither the program's environment nor the container's has PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// undisturbed turns off Go's preemption signals: they would interrupt the agent's own servers, which need no
// preemption, while these wait for a request.
const undisturbed = "GODEBUG=asyncpreemptoff=1"

// Program is a started program. Call Release in the end, whether it still runs or not.
type Program struct {
	pid      int
	terminal *terminal
	pipes    []*os.File
	streams  []link.Stream
	outputs  []*drain

	leftovers wire.Leftovers
	mark      uint64

	ended  chan struct{}
	status syscall.WaitStatus
}

// Start runs a program with main as its standard input and output, and errors as its standard error; errors is nil with
// a terminal. On success the Program owns the streams; on failure the caller closes them.
func Start(request wire.StartRequest, main, errors link.Stream) (*Program, error) {
	p := &Program{ended: make(chan struct{}), streams: []link.Stream{main}, leftovers: request.Leftovers}
	environment := merge(os.Environ(), request.Env)
	command := request.Argv[0]
	if request.Agent {
		command = ourselves()
		environment = merge(environment, []string{undisturbed})
	}
	path, err := resolve(command, request.Folder, environment)
	if err != nil {
		return nil, err
	}
	var theirs []*os.File
	if request.Agent && !request.Terminal {
		theirs = sockets(main, errors)
	}
	direct := theirs != nil
	if !direct {
		if theirs, err = p.connect(request); err != nil {
			return nil, err
		}
	}
	attributes := &syscall.ProcAttr{
		Dir: request.Folder, Env: environment, Files: descriptors(theirs),
		Sys: &syscall.SysProcAttr{Setsid: true, Setctty: request.Terminal},
	}
	children.Lock()
	p.mark = mark(request.Leftovers)
	p.pid, err = syscall.ForkExec(path, request.Argv, attributes)
	if err == nil {
		children.running[p.pid] = p
	}
	children.Unlock()
	for _, file := range theirs {
		file.Close()
	}
	if err != nil {
		p.closePipes()
		return nil, &os.PathError{Op: "start", Path: request.Argv[0], Err: err}
	}
	switch {
	case direct:
		p.streams = nil
		main.Close()
		errors.Close()
	case request.Terminal:
		go p.typeInput(main)
		p.outputs = []*drain{newDrain(p.terminal.master, main, true)}
	default:
		p.streams = append(p.streams, errors)
		link.Enlarge(main)
		go feed(p.pipes[0], main)
		p.outputs = []*drain{newDrain(p.pipes[1], main, false), newDrain(p.pipes[2], errors, false)}
	}
	for _, output := range p.outputs {
		go output.run()
	}
	return p, nil
}

// connect opens a terminal or pipes and returns the program's ends. Close those once the program runs.
func (p *Program) connect(request wire.StartRequest) ([]*os.File, error) {
	if request.Terminal {
		opened, err := openTerminal(request.Size, request.Modes)
		if err != nil {
			return nil, err
		}
		p.terminal = opened
		p.pipes = []*os.File{opened.master}
		return []*os.File{opened.slave}, nil
	}
	var theirs []*os.File
	for number := range 3 {
		reader, writer, err := os.Pipe()
		if err != nil {
			p.closePipes()
			for _, file := range theirs {
				file.Close()
			}
			return nil, err
		}
		if number < 2 {
			enlarge(reader)
		}
		if number == 0 {
			reader, writer = writer, reader
		}
		p.pipes = append(p.pipes, reader)
		theirs = append(theirs, writer)
	}
	return theirs, nil
}

// ourselves returns a path to the agent's own binary, whose file may have been removed.
func ourselves() string {
	const current = "/proc/self/exe"
	if _, err := os.Stat(current); err == nil {
		return current
	}
	if path, err := os.Executable(); err == nil {
		return path
	}
	// There is no /proc.
	return os.Args[0]
}

func descriptors(files []*os.File) []uintptr {
	// Fd sets the descriptor to blocking mode, as programs expect of their standard streams.
	if len(files) == 1 {
		terminal := files[0].Fd()
		return []uintptr{terminal, terminal, terminal}
	}
	return []uintptr{files[0].Fd(), files[1].Fd(), files[2].Fd()}
}

// merge returns base with the entries of ours, which take precedence; each name occurs once.
func merge(base, ours []string) []string {
	place := map[string]int{}
	var merged []string
	for _, entry := range append(append([]string{}, base...), ours...) {
		name, _, _ := strings.Cut(entry, "=")
		if index, known := place[name]; known {
			merged[index] = entry
			continue
		}
		place[name] = len(merged)
		merged = append(merged, entry)
	}
	return merged
}

// resolve returns the file to execute: a name with a slash as it is, other names looked up in the program's PATH.
func resolve(name, folder string, environment []string) (string, error) {
	if folder != "" {
		if found, err := os.Stat(folder); err != nil {
			return "", err
		} else if !found.IsDir() {
			return "", &os.PathError{Op: "start", Path: folder, Err: syscall.ENOTDIR}
		}
	}
	if strings.Contains(name, "/") {
		return name, nil
	}
	search := defaultPath
	for _, entry := range environment {
		if value, found := strings.CutPrefix(entry, "PATH="); found {
			search = value
		}
	}
	failure := error(syscall.ENOENT)
	for _, place := range filepath.SplitList(search) {
		if place == "" {
			place = "."
		}
		candidate := place + "/" + name
		looked := candidate
		if !filepath.IsAbs(candidate) {
			looked = filepath.Join(folder, candidate)
		}
		found, err := os.Stat(looked)
		switch {
		case err == nil && !found.IsDir() && found.Mode()&0o111 != 0:
			return candidate, nil
		case err == nil || errors.Is(err, syscall.EACCES):
			failure = syscall.EACCES
		}
	}
	return "", &os.PathError{Op: "start", Path: name, Err: failure}
}
