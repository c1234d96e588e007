package sftp

import (
	"syscall"
	"unicode/utf8"
)

const eventsAtOnce = 32 << 10

// events writes lines of JSON that report to the gateway what was done. A byte that is not valid UTF-8 is written as
// the lone surrogate U+DC00 plus its value, as Python's surrogateescape does.
type events struct {
	descriptor int // -1: disabled
	buffer     []byte
	broken     bool
}

// begin starts a line; add its fields with text, number and truth, then call end.
func (e *events) begin(kind string) *events {
	if e.descriptor < 0 {
		return nil
	}
	e.buffer = append(e.buffer, `{"event":`...)
	e.quote(kind)
	return e
}

func (e *events) text(name, value string) *events {
	if e != nil {
		e.name(name)
		e.quote(value)
	}
	return e
}

func (e *events) number(name string, value uint64) *events {
	if e != nil {
		e.name(name)
		e.buffer = appendNumber(e.buffer, value)
	}
	return e
}

func (e *events) truth(name string) *events {
	if e != nil {
		e.name(name)
		e.buffer = append(e.buffer, "true"...)
	}
	return e
}

func (e *events) end() {
	if e == nil {
		return
	}
	e.buffer = append(e.buffer, "}\n"...)
	if len(e.buffer) >= eventsAtOnce {
		e.flush()
	}
}

// flush writes the collected events. It is called before replies are sent, so the gateway learns of everything first.
func (e *events) flush() {
	if len(e.buffer) > 0 && !e.broken {
		e.broken = writeAll(e.descriptor, e.buffer) != nil
	}
	e.buffer = e.buffer[:0]
}

func (e *events) name(name string) {
	e.buffer = append(e.buffer, ',')
	e.quote(name)
	e.buffer = append(e.buffer, ':')
}

func (e *events) quote(text string) {
	const hex = "0123456789abcdef"
	e.buffer = append(e.buffer, '"')
	for index := 0; index < len(text); {
		char := text[index]
		switch {
		case char == '"' || char == '\\':
			e.buffer = append(e.buffer, '\\', char)
		case char < 0x20:
			e.buffer = append(e.buffer, '\\', 'u', '0', '0', hex[char>>4], hex[char&15])
		case char < utf8.RuneSelf:
			e.buffer = append(e.buffer, char)
		default:
			_, size := utf8.DecodeRuneInString(text[index:])
			if size == 1 {
				e.buffer = append(e.buffer, '\\', 'u', 'd', 'c', hex[char>>4], hex[char&15])
				break
			}
			e.buffer = append(e.buffer, text[index:index+size]...)
			index += size - 1
		}
		index++
	}
	e.buffer = append(e.buffer, '"')
}

func appendNumber(buffer []byte, value uint64) []byte {
	var digits [20]byte
	place := len(digits)
	for {
		place--
		digits[place] = byte('0' + value%10)
		if value /= 10; value == 0 {
			return append(buffer, digits[place:]...)
		}
	}
}

func writeAll(descriptor int, data []byte) error {
	for len(data) > 0 {
		count, err := restart(func() (int, error) { return syscall.Write(descriptor, data) })
		if err != nil {
			return err
		}
		data = data[count:]
	}
	return nil
}
