package program

import (
	"fmt"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"containerssh.io/agent/internal/wire"
)

const (
	tiocGetPeer = 0x5441
	tiocSignal  = 0x40045436
)

type terminal struct{ master, slave *os.File }

// openTerminal opens a pseudo-terminal with the given size and encoded modes (RFC 4254 section 8).
func openTerminal(size wire.Size, modes string) (*terminal, error) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("no terminal: %w", err)
	}
	slave, err := openSlave(master)
	if err != nil {
		master.Close()
		return nil, fmt.Errorf("no terminal: %w", err)
	}
	t := &terminal{master, slave}
	if err = t.resize(size); err == nil {
		err = applyModes(slave, modes)
	}
	if err != nil {
		master.Close()
		slave.Close()
		return nil, fmt.Errorf("no terminal: %w", err)
	}
	return t, nil
}

func openSlave(master *os.File) (*os.File, error) {
	var unlocked int32
	if err := ioctl(master, syscall.TIOCSPTLCK, unsafe.Pointer(&unlocked)); err != nil {
		return nil, err
	}
	// By descriptor, since another devpts may be mounted at /dev/pts.
	raw, err := master.SyscallConn()
	if err != nil {
		return nil, err
	}
	var number uintptr
	var failure syscall.Errno
	err = raw.Control(func(descriptor uintptr) {
		flags := uintptr(syscall.O_RDWR | syscall.O_NOCTTY | syscall.O_CLOEXEC)
		number, _, failure = syscall.Syscall(syscall.SYS_IOCTL, descriptor, tiocGetPeer, flags)
	})
	if err != nil {
		return nil, err
	}
	if failure == 0 {
		return os.NewFile(number, "terminal"), nil
	}
	// Kernels before 4.13 and some sandboxes support the path only.
	var index uint32
	if err := ioctl(master, syscall.TIOCGPTN, unsafe.Pointer(&index)); err != nil {
		return nil, err
	}
	name := "/dev/pts/" + strconv.FormatUint(uint64(index), 10)
	return os.OpenFile(name, os.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
}

func (t *terminal) resize(size wire.Size) error {
	value := [4]uint16{size.Rows, size.Columns, size.Width, size.Height}
	return ioctl(t.master, syscall.TIOCSWINSZ, unsafe.Pointer(&value))
}

// sendBreak does what the kernel does on a break of a serial line, since a pseudo-terminal cannot receive one.
func (t *terminal) sendBreak() error {
	settings, err := t.settings()
	if err != nil {
		return err
	}
	switch {
	case settings.Iflag&syscall.IGNBRK != 0:
		return nil
	case settings.Iflag&syscall.BRKINT != 0:
		return t.interrupt()
	case settings.Iflag&syscall.PARMRK != 0:
		_, err = t.master.Write([]byte{0xff, 0, 0})
	default:
		_, err = t.master.Write([]byte{0})
	}
	return err
}

// endOfInput writes the end-of-file character if the terminal is in canonical mode. In raw mode, the program would read
// it as an ordinary character. The terminal stays open.
func (t *terminal) endOfInput(midLine bool) {
	settings, err := t.settings()
	if err != nil || settings.Lflag&syscall.ICANON == 0 || settings.Cc[syscall.VEOF] == 0 {
		return
	}
	typed := []byte{settings.Cc[syscall.VEOF]}
	if midLine {
		// Within a line, the first one only submits what has been typed.
		typed = append(typed, typed[0])
	}
	_, _ = t.master.Write(typed)
}

func (t *terminal) settings() (*syscall.Termios, error) {
	var settings syscall.Termios
	err := ioctl(t.master, syscall.TCGETS, unsafe.Pointer(&settings))
	return &settings, err
}

func (t *terminal) interrupt() error {
	raw, err := t.master.SyscallConn()
	if err != nil {
		return err
	}
	var failure syscall.Errno
	err = raw.Control(func(descriptor uintptr) {
		_, _, failure = syscall.Syscall(syscall.SYS_IOCTL, descriptor, tiocSignal, uintptr(syscall.SIGINT))
	})
	return either(err, failure)
}

func ioctl(file *os.File, request uintptr, argument unsafe.Pointer) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var failure syscall.Errno
	err = raw.Control(func(descriptor uintptr) {
		_, _, failure = syscall.Syscall(syscall.SYS_IOCTL, descriptor, request, uintptr(argument))
	})
	return either(err, failure)
}

func either(err error, failure syscall.Errno) error {
	if err == nil && failure != 0 {
		return failure
	}
	return err
}
