package wire

import (
	"encoding/binary"
	"errors"
)

// ErrMalformed is returned for a payload that does not consist of the fields of its type.
var ErrMalformed = errors.New("malformed payload")

// Decoder reads the fields of a payload. After the first error all fields are zero, and Done returns the error.
type Decoder struct {
	rest   []byte
	failed bool
}

// Decode starts at the beginning of payload.
func Decode(payload []byte) *Decoder { return &Decoder{rest: payload} }

func (d *Decoder) take(count int) []byte {
	if d.failed || count < 0 || count > len(d.rest) {
		d.failed = true
		return nil
	}
	taken := d.rest[:count]
	d.rest = d.rest[count:]
	return taken
}

// Byte takes an unsigned byte.
func (d *Decoder) Byte() uint8 {
	if taken := d.take(1); taken != nil {
		return taken[0]
	}
	return 0
}

// Short takes 16 bits.
func (d *Decoder) Short() uint16 {
	if taken := d.take(2); taken != nil {
		return binary.BigEndian.Uint16(taken)
	}
	return 0
}

// Word takes 32 bits.
func (d *Decoder) Word() uint32 {
	if taken := d.take(4); taken != nil {
		return binary.BigEndian.Uint32(taken)
	}
	return 0
}

// Long takes 64 bits.
func (d *Decoder) Long() uint64 {
	if taken := d.take(8); taken != nil {
		return binary.BigEndian.Uint64(taken)
	}
	return 0
}

// Text takes a 32-bit length and as many bytes.
func (d *Decoder) Text() string {
	length := d.Word()
	if uint64(length) > uint64(len(d.rest)) {
		d.failed = true
		return ""
	}
	return string(d.take(int(length)))
}

// Texts takes a 32-bit count and as many texts.
func (d *Decoder) Texts() []string {
	count := d.Word()
	// Each text takes at least four bytes. A larger count is an error, and must not allocate memory.
	if uint64(count)*4 > uint64(len(d.rest)) {
		d.failed = true
		return nil
	}
	texts := make([]string, 0, count)
	for i := uint32(0); i < count && !d.failed; i++ {
		texts = append(texts, d.Text())
	}
	return texts
}

// Stream takes a stream's id and its token.
func (d *Decoder) Stream() StreamRef {
	ref := StreamRef{ID: d.Word()}
	copy(ref.Token[:], d.take(TokenSize))
	return ref
}

// Done reports whether the payload held exactly the fields that were taken.
func (d *Decoder) Done() error {
	if d.failed || len(d.rest) != 0 {
		return ErrMalformed
	}
	return nil
}

// StreamRef identifies a stream: by id on a multiplexed link, by token where each stream has its own connection.
type StreamRef struct {
	ID    uint32
	Token [TokenSize]byte
}

// AppendText adds a length and the text.
func AppendText(buffer []byte, text string) []byte {
	buffer = binary.BigEndian.AppendUint32(buffer, uint32(len(text)))
	return append(buffer, text...)
}
