package program

import (
	"encoding/binary"
	"os"
	"syscall"
	"unsafe"
)

// The opcodes of terminal modes in RFC 4254 section 8, and IUTF8 of RFC 8160. Linux has no VDSUSP (11), VFLUSH (15) and
// VSTATUS (17).

var characters = map[byte]int{
	1: syscall.VINTR, 2: syscall.VQUIT, 3: syscall.VERASE, 4: syscall.VKILL, 5: syscall.VEOF, 6: syscall.VEOL,
	7: syscall.VEOL2, 8: syscall.VSTART, 9: syscall.VSTOP, 10: syscall.VSUSP, 12: syscall.VREPRINT,
	13: syscall.VWERASE, 14: syscall.VLNEXT, 16: syscall.VSWTC, 18: syscall.VDISCARD,
}

var inputFlags = map[byte]uint32{
	30: syscall.IGNPAR, 31: syscall.PARMRK, 32: syscall.INPCK, 33: syscall.ISTRIP, 34: syscall.INLCR,
	35: syscall.IGNCR, 36: syscall.ICRNL, 37: syscall.IUCLC, 38: syscall.IXON, 39: syscall.IXANY,
	40: syscall.IXOFF, 41: syscall.IMAXBEL, 42: syscall.IUTF8,
}

var localFlags = map[byte]uint32{
	50: syscall.ISIG, 51: syscall.ICANON, 52: syscall.XCASE, 53: syscall.ECHO, 54: syscall.ECHOE,
	55: syscall.ECHOK, 56: syscall.ECHONL, 57: syscall.NOFLSH, 58: syscall.TOSTOP, 59: syscall.IEXTEN,
	60: syscall.ECHOCTL, 61: syscall.ECHOKE, 62: syscall.PENDIN,
}

var outputFlags = map[byte]uint32{
	70: syscall.OPOST, 71: syscall.OLCUC, 72: syscall.ONLCR, 73: syscall.OCRNL, 74: syscall.ONOCR,
	75: syscall.ONLRET,
}

var controlFlags = map[byte]uint32{92: syscall.PARENB, 93: syscall.PARODD}

var speeds = map[uint32]uint32{
	50: syscall.B50, 75: syscall.B75, 110: syscall.B110, 134: syscall.B134, 150: syscall.B150, 200: syscall.B200,
	300: syscall.B300, 600: syscall.B600, 1200: syscall.B1200, 1800: syscall.B1800, 2400: syscall.B2400,
	4800: syscall.B4800, 9600: syscall.B9600, 19200: syscall.B19200, 38400: syscall.B38400,
	57600: syscall.B57600, 115200: syscall.B115200, 230400: syscall.B230400, 460800: syscall.B460800,
	500000: syscall.B500000, 576000: syscall.B576000, 921600: syscall.B921600, 1000000: syscall.B1000000,
	1152000: syscall.B1152000, 1500000: syscall.B1500000, 2000000: syscall.B2000000, 2500000: syscall.B2500000,
	3000000: syscall.B3000000, 3500000: syscall.B3500000, 4000000: syscall.B4000000,
}

const (
	opEnd         = 0
	opCS7         = 90
	opCS8         = 91
	opInputSpeed  = 128
	opOutputSpeed = 129
	opUndefined   = 160
	opDisabled    = 255 // a value: the character is disabled
	speedMask     = 0o10017
	inputShift    = 16
)

func applyModes(slave *os.File, encoded string) error {
	var settings syscall.Termios
	if err := ioctl(slave, syscall.TCGETS, unsafe.Pointer(&settings)); err != nil {
		return err
	}
	setModes(&settings, encoded)
	return ioctl(slave, syscall.TCSETS, unsafe.Pointer(&settings))
}

// setModes stops without an error at the first opcode of unknown length, as RFC 4254 section 8 demands, or truncated
// mode.
func setModes(settings *syscall.Termios, encoded string) {
	for len(encoded) >= 5 {
		op, value := encoded[0], binary.BigEndian.Uint32([]byte(encoded[1:5]))
		if op == opEnd || op >= opUndefined {
			return
		}
		setMode(settings, op, value)
		encoded = encoded[5:]
	}
}

func setMode(settings *syscall.Termios, op byte, value uint32) {
	if index, known := characters[op]; known {
		settings.Cc[index] = uint8(value)
		if value == opDisabled {
			settings.Cc[index] = 0
		}
		return
	}
	setFlag(&settings.Iflag, inputFlags[op], value)
	setFlag(&settings.Lflag, localFlags[op], value)
	setFlag(&settings.Oflag, outputFlags[op], value)
	setFlag(&settings.Cflag, controlFlags[op], value)
	switch op {
	case opCS7:
		setSize(settings, syscall.CS7, value)
	case opCS8:
		setSize(settings, syscall.CS8, value)
	case opInputSpeed:
		if speed, known := speeds[value]; known {
			settings.Ispeed = value
			settings.Cflag = settings.Cflag&^(speedMask<<inputShift) | speed<<inputShift
		}
	case opOutputSpeed:
		if speed, known := speeds[value]; known {
			settings.Ospeed = value
			settings.Cflag = settings.Cflag&^speedMask | speed
		}
	}
}

func setFlag(word *uint32, bit, value uint32) {
	if value != 0 {
		*word |= bit
	} else {
		*word &^= bit
	}
}

func setSize(settings *syscall.Termios, bits, value uint32) {
	if value != 0 {
		settings.Cflag = settings.Cflag&^syscall.CSIZE | bits
	}
}
