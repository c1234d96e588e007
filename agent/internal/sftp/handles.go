package sftp

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"syscall"
)

// identity tells files apart, whatever their names.
type identity struct{ device, inode uint64 }

func identityOf(found *syscall.Stat_t) identity { return identity{uint64(found.Dev), found.Ino} }

// handle is an open file or folder.
type handle struct {
	descriptor    int
	path          string // as the client named it
	isFolder      bool
	mayRead       bool
	mayWrite      bool
	appends       bool
	created       bool
	isPlain       bool // a regular file that the kernel can pass on by itself
	full          bool // as large as it may be, and that was reported
	read, written uint64

	digest digest

	// Of a folder: names that were read and not yet told.
	listing []byte
	entries []byte
	ended   bool
}

// digest is a running SHA-256 over content that passes in one piece from the beginning on.
type digest struct {
	hash  hash.Hash
	next  uint64
	lost  bool
	wrote bool
}

// add is told of each block that was moved. Anything out of order, and both directions, leave no digest.
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

// sum is the digest of a file that has size bytes at the end; empty where it is not known.
func (d *digest) sum(size int64) string {
	if d.hash == nil || d.lost || size < 0 || d.next != uint64(size) {
		return ""
	}
	return hex.EncodeToString(d.hash.Sum(nil))
}

type handles struct {
	all  []*handle
	free []uint32
	// writing is how many of them are open for writing.
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

// find takes a handle off a request.
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

// mistake is a client's own: a plain failure.
type mistake string

func (r mistake) Error() string { return string(r) }

// track starts what is counted about a file.
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
	// Some file systems tell only now that a write has failed.
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
