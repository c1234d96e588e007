package forward

import (
	"errors"
	"io"
	"syscall"
)

const (
	spliceMove     = 1
	spliceNonblock = 2
	setPipeSize    = 1031
	// conduitSize is the most that one step moves. If the kernel refuses a pipe of this size, only speed is lost.
	conduitSize = 1 << 20
	// watchedEvery is the interval of calls that Go's scheduler is told of.
	watchedEvery = 16
)

// conduit moves data from one socket to another inside the kernel, through its own pipe.
//
// It does the same as io.Copy, but with raw system calls. For a normal system call, Go wakes a thread that watches for
// blocking calls, which costs as much as the call itself. These calls do not block, since all three descriptors are
// non-blocking. Every sixteenth call is a normal one all the same: otherwise a busy conduit would never let other
// goroutines run.
type conduit struct {
	source, target syscall.RawConn
	read, write    int // ends of the pipe
	calls          uint
}

// newConduit fails if one of the two has no file descriptor, or if none are left for the pipe.
func newConduit(target io.Writer, source io.Reader) (*conduit, error) {
	from, err := rawOf(source)
	if err != nil {
		return nil, err
	}
	to, err := rawOf(target)
	if err != nil {
		return nil, err
	}
	var ends [2]int
	if err := syscall.Pipe2(ends[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		return nil, err
	}
	_, _, _ = syscall.Syscall(syscall.SYS_FCNTL, uintptr(ends[1]), setPipeSize, conduitSize)
	return &conduit{source: from, target: to, read: ends[0], write: ends[1]}, nil
}

func rawOf(one any) (syscall.RawConn, error) {
	connection, ok := one.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return connection.SyscallConn()
}

func (c *conduit) close() {
	syscall.Close(c.read)
	syscall.Close(c.write)
}

// run copies until the source ends. If it returns errors.ErrUnsupported, nothing was moved; copy in another way.
func (c *conduit) run() error {
	for first := true; ; first = false {
		count, err := c.fill()
		if first && unsupported(err) {
			return errors.ErrUnsupported
		}
		if err != nil || count == 0 {
			return err
		}
		for count > 0 {
			moved, err := c.empty(count)
			if err != nil {
				return err
			}
			count -= moved
		}
	}
}

// fill waits for data of the source and moves it into the pipe. It returns 0 at the end.
func (c *conduit) fill() (count int, err error) {
	failed := c.source.Read(func(descriptor uintptr) bool {
		count, err = c.splice(int(descriptor), c.write, conduitSize)
		return err != syscall.EAGAIN
	})
	return count, errors.Join(failed, err)
}

// empty moves some of the count bytes in the pipe to the target.
func (c *conduit) empty(count int) (moved int, err error) {
	failed := c.target.Write(func(descriptor uintptr) bool {
		moved, err = c.splice(c.read, int(descriptor), count)
		return err != syscall.EAGAIN
	})
	return moved, errors.Join(failed, err)
}

func (c *conduit) splice(from, to, most int) (int, error) {
	call := syscall.RawSyscall6
	if c.calls++; c.calls%watchedEvery == 0 {
		call = syscall.Syscall6
	}
	for {
		count, _, errno := call(syscall.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(most),
			spliceMove|spliceNonblock)
		switch errno {
		case 0:
			return int(count), nil
		case syscall.EINTR:
		default:
			return 0, errno
		}
	}
}

// unsupported reports whether the kernel, or a seccomp filter, does not permit splicing these two.
func unsupported(err error) bool {
	return errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EPERM)
}
