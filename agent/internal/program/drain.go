package program

import (
	"errors"
	"os"
	"syscall"
	"time"
	"unsafe"

	"containerssh.io/agent/internal/link"
)

// quiet is how long a terminal must be silent to count as drained while another process still has it open after its
// program has ended: the kernel may not yet have passed on what was written to it.
const quiet = 100 * time.Millisecond

// drain forwards a program's output until the last writer has closed it.
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

// settle waits until everything that is in the pipe or the terminal now has been forwarded. Call it once the program
// has ended. Output that other processes write to the pipe later is forwarded as well, but not waited for.
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
		// The kernel hung the terminal up when its session leader, the program, ended: later writes to it are lost
		// anyway.
		if !d.terminal {
			_ = d.file.SetReadDeadline(time.Time{})
			for {
				if _, err := d.step(); err != nil {
					break
				}
			}
		}
	} else {
		defer close(d.settled)
	}
	// In this order: closing the pipe first could kill a program by SIGPIPE before its output has been sent.
	_ = d.stream.CloseWrite()
	if !d.terminal {
		d.file.Close()
	}
}

// step forwards the bytes of one read and returns their number. Reading a terminal fails with EIO once no process has
// it open and everything has been read.
func (d *drain) step() (int64, error) {
	if d.splicer != nil {
		count, err := d.splicer.step()
		if !unsupported(err) {
			return count, err
		}
		d.splicer = nil
	}
	if d.buffer == nil {
		d.buffer = buffers.Get().(*[chunk]byte)
	}
	count, err := d.file.Read(d.buffer[:])
	if count > 0 {
		if _, err := d.stream.Write(d.buffer[:count]); err != nil {
			return 0, err
		}
	}
	return int64(count), err
}

// untilSettled returns true when the program has ended and its output has been forwarded, false at the end of the
// output.
func (d *drain) untilSettled() bool {
	for moved := false; ; {
		_, err := d.step()
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
			// Only what is in the pipe now can be the program's: a background process may never stop writing.
			for left := d.waiting(); left > 0; {
				count, err := d.step()
				if err != nil {
					return false
				}
				left -= count
			}
			return true
		}
	}
}

// waiting returns the number of bytes that can be read at once.
func (d *drain) waiting() int64 {
	var count int32
	if ioctl(d.file, syscall.TIOCINQ, unsafe.Pointer(&count)) != nil {
		return 0
	}
	return int64(count)
}
