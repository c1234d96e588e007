package sftp

import (
	"encoding/binary"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

const (
	entriesSize = 16 << 10
	// The limits of a NAME packet. Clients that follow the draft accept 34,000 bytes.
	maxNames     = 128
	maxNameBytes = 32000
)

func (s *server) opendir(id uint32, f *fields) error {
	path, err := s.path(f)
	if err != nil {
		return err
	}
	if s.rules.UploadOnly {
		return s.refuse("opendir", path, "upload only")
	}
	if s.handles.full() {
		return mistake("too many open files")
	}
	descriptor, err := s.view.open(path, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	s.answerHandle(id, s.handles.add(&handle{descriptor: descriptor, path: path, isFolder: true}))
	return nil
}

func (s *server) readdir(id uint32, f *fields) error {
	_, one, err := s.handles.find(f)
	if err != nil {
		return err
	}
	if !one.isFolder {
		return mistake("not a folder")
	}
	r := &s.reply
	r.begin(typeName, id)
	begin := len(r.buffer)
	r.word(0)
	count := uint32(0)
	for count < maxNames && len(r.buffer)-begin < maxNameBytes {
		name, more, err := one.nextName()
		if err != nil {
			return err
		}
		if !more {
			break
		}
		from, looked := one.descriptor, name
		if name == ".." && s.view.rooted() {
			// The folder above the root must not be visible.
			looked = "."
		}
		found, err := fstatat(from, looked, atNoFollow)
		if err != nil {
			continue
		}
		r.text(name)
		r.text(s.longName(name, &found))
		r.attributes(&found)
		count++
	}
	if count == 0 {
		return errEnd
	}
	putWord(r.buffer[begin:], count)
	r.end()
	return nil
}

func putWord(place []byte, value uint32) {
	place[0], place[1], place[2], place[3] = byte(value>>24), byte(value>>16), byte(value>>8), byte(value)
}

// nextName returns the next name of the folder, and false at its end. Entries are shorter than syscall.Dirent, so they
// are not accessed through a pointer to one: it would reach beyond the buffer.
func (h *handle) nextName() (string, bool, error) {
	const (
		length = int(unsafe.Offsetof(syscall.Dirent{}.Reclen))
		head   = int(unsafe.Offsetof(syscall.Dirent{}.Name))
	)
	for {
		if len(h.entries) < head {
			if h.ended {
				return "", false, nil
			}
			if h.listing == nil {
				h.listing = make([]byte, entriesSize)
			}
			count, err := restart(func() (int, error) { return syscall.ReadDirent(h.descriptor, h.listing) })
			if err != nil {
				return "", false, err
			}
			h.entries, h.ended = h.listing[:count], count == 0
			continue
		}
		size := int(binary.NativeEndian.Uint16(h.entries[length:]))
		name := h.entries[head:size]
		h.entries = h.entries[size:]
		for index, char := range name {
			if char == 0 {
				name = name[:index]
				break
			}
		}
		return string(name), true, nil
	}
}

func (s *server) realpath(id uint32, f *fields) error {
	path, err := s.path(f)
	if err != nil {
		return err
	}
	return s.answerReal(id, path)
}

func (s *server) answerReal(id uint32, path string) error {
	resolve := s.view.real
	if s.rules.UploadOnly {
		// Do not reveal where links lead and which files exist.
		resolve = func(path string) (string, error) { return tidy(s.shown(path)), nil }
	}
	resolved, err := resolve(path)
	if err != nil {
		return err
	}
	s.answerName(id, resolved)
	return nil
}

func (s *server) answerName(id uint32, name string) {
	r := &s.reply
	r.begin(typeName, id)
	r.word(1)
	r.text(name)
	r.text(name)
	r.word(0)
	r.end()
}

func (s *server) readlink(id uint32, f *fields) error {
	path, err := s.path(f)
	if err != nil {
		return err
	}
	if s.rules.UploadOnly {
		return s.refuse("readlink", path, "upload only")
	}
	target, err := s.view.readlink(path)
	if err != nil {
		return err
	}
	s.answerName(id, target)
	return nil
}

// longName returns a line as of `ls -l`, which clients show unchanged.
func (s *server) longName(name string, found *syscall.Stat_t) string {
	line := make([]byte, 0, 96+len(name))
	line = appendMode(line, found.Mode)
	line = appendRight(line, strconv.FormatUint(uint64(found.Nlink), 10), 5)
	line = append(line, ' ')
	line = appendLeft(line, s.names.user(found.Uid), 8)
	line = append(line, ' ')
	line = appendLeft(line, s.names.group(found.Gid), 8)
	line = appendRight(line, strconv.FormatInt(found.Size, 10), 9)
	changed := time.Unix(int64(found.Mtim.Sec), 0)
	layout := " Jan _2 15:04 "
	if age := time.Since(changed); age < 0 || age > 182*24*time.Hour {
		layout = " Jan _2  2006 "
	}
	line = changed.AppendFormat(line, layout)
	return string(append(line, name...))
}

func appendMode(line []byte, mode uint32) []byte {
	kinds := map[uint32]byte{
		syscall.S_IFDIR: 'd', syscall.S_IFLNK: 'l', syscall.S_IFCHR: 'c', syscall.S_IFBLK: 'b',
		syscall.S_IFIFO: 'p', syscall.S_IFSOCK: 's',
	}
	kind, special := kinds[mode&syscall.S_IFMT]
	if !special {
		kind = '-'
	}
	line = append(line, kind)
	const letters = "rwxrwxrwx"
	for index := range len(letters) {
		letter := byte('-')
		if mode&(1<<(8-index)) != 0 {
			letter = letters[index]
		}
		line = append(line, letter)
	}
	for index, bit := range []uint32{syscall.S_ISUID, syscall.S_ISGID, syscall.S_ISVTX} {
		if mode&bit != 0 {
			place := &line[len(line)-7+3*index]
			if *place == 'x' {
				*place = "sst"[index]
			} else {
				*place = "SST"[index]
			}
		}
	}
	return line
}

func appendRight(line []byte, text string, width int) []byte {
	for range width - len(text) {
		line = append(line, ' ')
	}
	return append(line, text...)
}

func appendLeft(line []byte, text string, width int) []byte {
	line = append(line, text...)
	for range width - len(text) {
		line = append(line, ' ')
	}
	return line
}
