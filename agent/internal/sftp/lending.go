package sftp

import (
	"syscall"
	"time"
	"unsafe"
)

const (
	// lentFrom is the size from which lending is faster than reading.
	lentFrom = 32 << 10
	// mostBefore is the most bytes of replies that may precede lent content.
	mostBefore = 4096
	// pipeSize has room for the largest reply, whose content may begin and end within a page, and for what precedes it.
	pipeSize = 2 * maxData

	setPipeSize = 1031
	fionread    = 0x541b
)

// errUnlendable is returned if the content has to be read instead.
const errUnlendable = mistake("not to be lent")

// lending sends the content of files without copying it: the kernel passes pages of its cache on (splice). A reply is
// assembled in a pipe first, since each write to the socket would wake its reader.
type lending struct {
	content, whole pipe
	state          lendingState
	count          int // bytes in content, which are sent after the collected replies
	waiting        bool
}

type lendingState byte

const (
	unopened lendingState = iota
	possible
	impossible
)

type pipe struct{ read, write int }

func newPipe() (pipe, error) {
	var ends [2]int
	if err := syscall.Pipe2(ends[:], syscall.O_CLOEXEC); err != nil {
		return pipe{}, err
	}
	p := pipe{ends[0], ends[1]}
	// Fails if the user's limit on pages in pipes is reached.
	if _, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(p.write), setPipeSize, pipeSize); errno != 0 {
		p.close()
		return pipe{}, errno
	}
	return p, nil
}

func (p pipe) close() {
	syscall.Close(p.read)
	syscall.Close(p.write)
}

func (l *lending) open() bool {
	if l.state == unopened {
		l.state = impossible
		content, err := newPipe()
		if err != nil {
			return false
		}
		whole, err := newPipe()
		if err != nil {
			content.close()
			return false
		}
		l.content, l.whole, l.state = content, whole, possible
	}
	return l.state == possible
}

func (l *lending) close() {
	if l.state == possible {
		l.content.close()
		l.whole.close()
		l.state = impossible
	}
}

// fill moves content of a file into the pipe and returns its size, 0 at the end of the file.
func (l *lending) fill(file int, offset int64, size int) (int, error) {
	for l.count < size {
		count, err := restart(func() (int, error) {
			moved, err := syscall.Splice(file, &offset, l.content.write, nil, size-l.count, spliceMove|spliceNonblock)
			return int(moved), err
		})
		if l.count == 0 && (err == syscall.EINVAL || err == syscall.ENOSYS || err == syscall.EPERM) {
			return 0, errUnlendable
		}
		if l.count == 0 && err != nil {
			return 0, err
		}
		if err != nil || count == 0 {
			break
		}
		l.count += count
	}
	return l.count, nil
}

// send sends before, which has at most mostBefore bytes and the head of this reply, and then the content of the pipe.
func (l *lending) send(to *output, before []byte) error {
	if err := writeAll(l.whole.write, before); err != nil {
		return err
	}
	whole := len(before) + l.count
	for l.count > 0 {
		// Does not block: the first pipe holds the data and the second one has room for them.
		moved, _, errno := syscall.RawSyscall6(syscall.SYS_SPLICE, uintptr(l.content.read), 0, uintptr(l.whole.write), 0,
			uintptr(l.count), spliceMove|spliceNonblock)
		if errno != 0 && errno != syscall.EINTR {
			return errno
		}
		if errno == 0 {
			l.count -= int(moved)
		}
	}
	l.waiting = true
	return to.take(l.whole.read, whole)
}

// settle waits until the client has received all lent content, which would otherwise change with the file.
func (l *lending) settle(to *output) {
	for l.waiting && unread(to.descriptor) > 0 {
		time.Sleep(time.Millisecond)
	}
	l.waiting = false
}

// unread returns the number of bytes written to a socket or pipe that have not been read yet.
func unread(descriptor int) int {
	var count int32
	for _, question := range []uintptr{syscall.TIOCOUTQ, fionread} {
		_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(descriptor), question, uintptr(unsafe.Pointer(&count)))
		if errno == 0 {
			return int(count)
		}
	}
	return 0
}
