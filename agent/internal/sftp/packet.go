package sftp

import (
	"encoding/binary"
	"errors"
	"syscall"
)

// Packet types (draft-ietf-secsh-filexfer-02, section 3).
const (
	typeInit          = 1
	typeVersion       = 2
	typeOpen          = 3
	typeClose         = 4
	typeRead          = 5
	typeWrite         = 6
	typeLstat         = 7
	typeFstat         = 8
	typeSetstat       = 9
	typeFsetstat      = 10
	typeOpendir       = 11
	typeReaddir       = 12
	typeRemove        = 13
	typeMkdir         = 14
	typeRmdir         = 15
	typeRealpath      = 16
	typeStat          = 17
	typeRename        = 18
	typeReadlink      = 19
	typeSymlink       = 20
	typeStatus        = 101
	typeHandle        = 102
	typeData          = 103
	typeName          = 104
	typeAttrs         = 105
	typeExtended      = 200
	typeExtendedReply = 201
)

// Status codes (section 7).
const (
	statusOK          = 0
	statusEOF         = 1
	statusNoSuchFile  = 2
	statusDenied      = 3
	statusFailure     = 4
	statusBadMessage  = 5
	statusUnsupported = 8
)

// Flags of OPEN (section 6.3).
const (
	flagRead   = 0x01
	flagWrite  = 0x02
	flagAppend = 0x04
	flagCreate = 0x08
	flagTrunc  = 0x10
	flagExcl   = 0x20
)

// Flags of attributes (section 5).
const (
	attrSize        = 0x01
	attrOwner       = 0x02
	attrPermissions = 0x04
	attrTimes       = 0x08
	attrExtended    = 1 << 31
)

const (
	// maxData is the most that one READ or WRITE transfers. The announced limit is OpenSSH's, which is slightly lower.
	maxData = 256 << 10
	// maxPacket has room for a handle and numbers in addition to the data.
	maxPacket = maxData + 1024

	announcedPacket = 256 << 10
	announcedData   = announcedPacket - 1024

	maxHandles = 1000
	maxPath    = 4096
)

var errMalformed = errors.New("malformed packet")

// fields reads the fields of a packet. After the first error, failed is set and all fields are zero.
type fields struct {
	rest   []byte
	failed bool
}

func (f *fields) take(count uint32) []byte {
	if f.failed || uint64(count) > uint64(len(f.rest)) {
		f.failed = true
		return nil
	}
	taken := f.rest[:count]
	f.rest = f.rest[count:]
	return taken
}

func (f *fields) byte() byte {
	if taken := f.take(1); taken != nil {
		return taken[0]
	}
	return 0
}

func (f *fields) word() uint32 {
	if taken := f.take(4); taken != nil {
		return binary.BigEndian.Uint32(taken)
	}
	return 0
}

func (f *fields) long() uint64 {
	if taken := f.take(8); taken != nil {
		return binary.BigEndian.Uint64(taken)
	}
	return 0
}

// bytes returns a slice of the packet, valid until the next packet is read.
func (f *fields) bytes() []byte { return f.take(f.word()) }

func (f *fields) text() string { return string(f.bytes()) }

// attributes are those that a client sets; only those in flags are valid.
type attributes struct {
	flags        uint32
	size         uint64
	uid, gid     uint32
	permissions  uint32
	atime, mtime uint32
}

func (f *fields) attributes() attributes {
	a := attributes{flags: f.word()}
	if a.flags&attrSize != 0 {
		a.size = f.long()
	}
	if a.flags&attrOwner != 0 {
		a.uid, a.gid = f.word(), f.word()
	}
	if a.flags&attrPermissions != 0 {
		a.permissions = f.word()
	}
	if a.flags&attrTimes != 0 {
		a.atime, a.mtime = f.word(), f.word()
	}
	if a.flags&attrExtended != 0 {
		for count := f.word(); count > 0 && !f.failed; count-- {
			f.bytes()
			f.bytes()
		}
	}
	return a
}

// reply builds a sequence of packets. Enclose each in begin and end.
type reply struct {
	buffer []byte
	start  int
}

func (r *reply) begin(kind byte, id uint32) {
	r.start = len(r.buffer)
	r.buffer = append(r.buffer, 0, 0, 0, 0, kind)
	r.word(id)
}

func (r *reply) end() { r.endBefore(0) }

// endBefore ends a packet whose last count bytes are sent from elsewhere.
func (r *reply) endBefore(count int) {
	binary.BigEndian.PutUint32(r.buffer[r.start:], uint32(len(r.buffer)-r.start-4+count))
}

func (r *reply) word(value uint32) { r.buffer = binary.BigEndian.AppendUint32(r.buffer, value) }

func (r *reply) long(value uint64) { r.buffer = binary.BigEndian.AppendUint64(r.buffer, value) }

func (r *reply) text(value string) {
	r.word(uint32(len(value)))
	r.buffer = append(r.buffer, value...)
}

func (r *reply) attributes(found *syscall.Stat_t) {
	r.word(attrSize | attrOwner | attrPermissions | attrTimes)
	r.long(uint64(found.Size))
	r.word(found.Uid)
	r.word(found.Gid)
	r.word(found.Mode)
	r.word(uint32(found.Atim.Sec))
	r.word(uint32(found.Mtim.Sec))
}
