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
	// conduitSize is what one step moves at most; a kernel that refuses so much loses speed only.
	conduitSize = 1 << 20
	// watchedEvery says which of the calls Go is told of.
	watchedEvery = 16
)

// conduit moves bytes from one socket to another inside the kernel, through a pipe of its own.
//
// It does what io.Copy does, but for what Go does around each call that may wait: it wakes a thread that watches how long
// they take, which cost as much as the calls themselves. None of these waits, as all three descriptors are our own and
// non-blocking. Without that thread nobody else would have a turn while there is always something to move, so now
// and then it is told.
type conduit struct {
	source, target syscall.RawConn
	read, write    int // ends of the pipe
	calls          uint
}

// newConduit fails where one of the two has no descriptor of its own, or none is left for the pipe.
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

// run copies until the source ends. With errors.ErrUnsupported nothing was moved, and something else has to do it.
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

// fill takes what the source has, waiting for some; 0 at its end.
func (c *conduit) fill() (count int, err error) {
	failed := c.source.Read(func(descriptor uintptr) bool {
		count, err = c.splice(int(descriptor), c.write, conduitSize)
		return err != syscall.EAGAIN
	})
	return count, errors.Join(failed, err)
}

// empty passes on some of the count bytes that the pipe holds.
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

// unsupported tells whether the kernel, or what watches over its calls, does not splice these two.
func unsupported(err error) bool {
	return errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EPERM)
}
