package sftp

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"syscall"
)

// identity identifies a file regardless of its name.
type identity struct{ device, inode uint64 }

func identityOf(found *syscall.Stat_t) identity { return identity{uint64(found.Dev), found.Ino} }

// handle is an open file or folder.
type handle struct {
	descriptor    int
	path          string // as the client sent it
	isFolder      bool
	mayRead       bool
	mayWrite      bool
	appends       bool
	created       bool
	isPlain       bool // a regular file whose pages may be lent
	full          bool // the size limit was reached and reported
	read, written uint64

	digest digest

	// Of a folder: entries that were read from the kernel but not returned yet.
	listing []byte
	entries []byte
	ended   bool
}

// digest is the SHA-256 of content that is read or written sequentially from the beginning.
type digest struct {
	hash  hash.Hash
	next  uint64
	lost  bool
	wrote bool
}

// add adds a block. There is no digest if blocks are out of order or if a file is both read and written.
func (d *digest) add(offset uint64, data []byte, written bool) {
	if d.hash == nil || d.lost {
		return
	}
	if offset != d.next || (d.next > 0 && d.wrote != written) {
		d.lost = true
		return
	}
	d.wrote = written
	d.hash.Write(data)
	d.next += uint64(len(data))
}

// sum returns the digest of a file of size bytes in hexadecimal, or an empty string if it is not known.
func (d *digest) sum(size int64) string {
	if d.hash == nil || d.lost || size < 0 || d.next != uint64(size) {
		return ""
	}
	return hex.EncodeToString(d.hash.Sum(nil))
}

type handles struct {
	all  []*handle
	free []uint32
	// writing is the number of handles that are open for writing.
	writing int
}

func (h *handles) full() bool { return len(h.free) == 0 && len(h.all) >= maxHandles }

func (h *handles) add(one *handle) uint32 {
	if one.mayWrite {
		h.writing++
	}
	if count := len(h.free); count > 0 {
		number := h.free[count-1]
		h.free = h.free[:count-1]
		h.all[number] = one
		return number
	}
	h.all = append(h.all, one)
	return uint32(len(h.all) - 1)
}

// find reads a handle from a request.
func (h *handles) find(f *fields) (uint32, *handle, error) {
	raw := f.bytes()
	if f.failed {
		return 0, nil, errMalformed
	}
	if len(raw) == 4 {
		number := binary.BigEndian.Uint32(raw)
		if uint64(number) < uint64(len(h.all)) && h.all[number] != nil {
			return number, h.all[number], nil
		}
	}
	return 0, nil, mistake("no such handle")
}

func (h *handles) remove(number uint32) {
	if h.all[number].mayWrite {
		h.writing--
	}
	h.all[number] = nil
	h.free = append(h.free, number)
}

// mistake is an error of the client, reported with the status FAILURE.
type mistake string

func (r mistake) Error() string { return string(r) }

// track starts the digest of a file if one is wanted.
func (s *server) track(one *handle) {
	if s.rules.Digest && s.events.descriptor >= 0 {
		one.digest.hash = sha256.New()
	}
}

func (s *server) closeHandle(one *handle) error {
	size := int64(-1)
	if !one.isFolder && one.digest.hash != nil {
		if found, err := fstat(one.descriptor); err == nil {
			size = found.Size
		}
	}
	// Some file systems report a failed write only when the file is closed.
	err := syscall.Close(one.descriptor)
	if one.isFolder {
		return err
	}
	e := s.events.begin("file").text("path", s.shown(one.path)).number("read", one.read).number("written", one.written)
	if one.created {
		e = e.truth("created")
	}
	if one.read+one.written > 0 || one.created {
		if sum := one.digest.sum(size); sum != "" {
			e = e.text("sha256", sum)
		}
	}
	e.end()
	return err
}

func (s *server) closeAll() {
	for _, one := range s.handles.all {
		if one != nil {
			_ = s.closeHandle(one)
		}
	}
}
