package program

import (
	"io"
	"os"
	"sync"
	"syscall"

	"containerssh.io/agent/internal/link"
	"containerssh.io/agent/internal/wire"
)

const chunk = 64 * 1024

var buffers = sync.Pool{New: func() any { return new([chunk]byte) }}

// Wait waits until the program has ended and its output has been forwarded, and returns its status.
func (p *Program) Wait() syscall.WaitStatus {
	<-p.ended
	for _, output := range p.outputs {
		output.settle()
	}
	return p.status
}

// Signal sends a signal, named without SIG, to the program's process group.
func (p *Program) Signal(name string) error {
	number, known := signals[name]
	if !known {
		return syscall.EINVAL
	}
	children.Lock()
	defer children.Unlock()
	if p.hasEnded() {
		return syscall.ESRCH
	}
	err := syscall.Kill(-p.pid, number)
	if err == syscall.ESRCH {
		// The program has left its process group, or not created it yet.
		err = syscall.Kill(p.pid, number)
	}
	return err
}

// Resize sets the size of the terminal.
func (p *Program) Resize(size wire.Size) error {
	if p.terminal == nil {
		return syscall.ENOTTY
	}
	return p.terminal.resize(size)
}

// Break sends a break to the terminal.
func (p *Program) Break() error {
	if p.terminal == nil {
		return syscall.ENOTTY
	}
	return p.terminal.sendBreak()
}

// Release closes the streams, and the pipes or terminal. Orphans that still write receive SIGPIPE.
func (p *Program) Release() {
	p.closePipes()
	for _, stream := range p.streams {
		stream.Close()
	}
}

func (p *Program) closePipes() {
	for _, file := range p.pipes {
		file.Close()
	}
}

// feed forwards input until its end. Input that comes after the program has closed its side is dropped.
func feed(pipe *os.File, stream link.Stream) {
	_, failed := copyAll(pipe, stream)
	pipe.Close()
	if failed {
		_, _ = io.Copy(io.Discard, stream)
	}
}

// typeInput forwards input to the terminal, and then the end of input.
func (p *Program) typeInput(stream link.Stream) {
	last, failed := copyAll(p.terminal.master, stream)
	if failed {
		_, _ = io.Copy(io.Discard, stream)
		return
	}
	p.terminal.endOfInput(last != 0 && last != '\n' && last != '\r')
}

// copyAll copies until source ends, or until target fails. last is the last byte that was copied.
func copyAll(target io.Writer, source io.Reader) (last byte, failed bool) {
	buffer := buffers.Get().(*[chunk]byte)
	defer buffers.Put(buffer)
	for {
		count, err := source.Read(buffer[:])
		if count > 0 {
			if _, err := target.Write(buffer[:count]); err != nil {
				return last, true
			}
			last = buffer[count-1]
		}
		if err != nil {
			return last, false
		}
	}
}
