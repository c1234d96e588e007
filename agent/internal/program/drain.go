package program

import (
	"errors"
	"os"
	"syscall"
	"time"
	"unsafe"

	"containerssh.io/agent/internal/link"
)

// quiet is how long a terminal that somebody has open after its program has ended must be silent to count as read empty:
// what was written to it may still be on its way through the kernel.
const quiet = 100 * time.Millisecond

// drain passes a program's output on until nobody can write any more.
type drain struct {
	file     *os.File
	stream   link.Stream
	terminal bool
	settled  chan struct{}
	splicer  *splicer
	buffer   *[chunk]byte
}

func newDrain(file *os.File, stream link.Stream, terminal bool) *drain {
	d := &drain{file: file, stream: stream, terminal: terminal, settled: make(chan struct{})}
	if !terminal {
		d.splicer = newSplicer(stream, file)
	}
	return d
}

// settle waits until all that is in the pipe or the terminal now has been passed on. The program has ended; others may
// still write to a pipe, and will be heard.
func (d *drain) settle() {
	if d.terminal {
		_ = d.file.SetReadDeadline(time.Now().Add(quiet))
	} else {
		_ = d.file.SetReadDeadline(time.Now())
	}
	<-d.settled
}

func (d *drain) run() {
	defer func() {
		if d.buffer != nil {
			buffers.Put(d.buffer)
		}
	}()
	if d.untilSettled() {
		close(d.settled)
		// A terminal's line was hung up when its program ended, the leader of its session: whoever has it open still
		// writes to nobody.
		if !d.terminal {
			_ = d.file.SetReadDeadline(time.Time{})
			for d.step() == nil {
			}
		}
	} else {
		defer close(d.settled)
	}
	// In this order: a program must not die of SIGPIPE before its last words are on their way.
	_ = d.stream.CloseWrite()
	if !d.terminal {
		d.file.Close()
	}
}

// step moves what one read gives. A terminal gives EIO once nobody has it open any more and all has been read.
func (d *drain) step() error {
	if d.splicer != nil {
		_, err := d.splicer.step()
		if !unsupported(err) {
			return err
		}
		d.splicer = nil
	}
	if d.buffer == nil {
		d.buffer = buffers.Get().(*[chunk]byte)
	}
	count, err := d.file.Read(d.buffer[:])
	if count > 0 {
		if _, err := d.stream.Write(d.buffer[:count]); err != nil {
			return err
		}
	}
	return err
}

// untilSettled returns true when the program has ended and its output has been passed on, false at the output's end.
func (d *drain) untilSettled() bool {
	for moved := false; ; {
		err := d.step()
		switch {
		case err == nil:
			moved = true
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return false
		case d.terminal && !moved:
			return true
		case d.terminal:
			moved = false
			_ = d.file.SetReadDeadline(time.Now().Add(quiet))
		default:
			_ = d.file.SetReadDeadline(time.Time{})
			for d.waiting() > 0 {
				if d.step() != nil {
					return false
				}
			}
			return true
		}
	}
}

func (d *drain) waiting() int {
	var count int32
	if ioctl(d.file, syscall.TIOCINQ, unsafe.Pointer(&count)) != nil {
		return 0
	}
	return int(count)
}
