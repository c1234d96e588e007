package sftp

import (
	"encoding/binary"
	"math"
	"strings"
	"syscall"
)

type extension struct {
	name, version string
	action        func(*server, uint32, *fields) error
}

// extensions are those of OpenSSH's PROTOCOL file, section 4, and of draft-ietf-secsh-filexfer-extensions-00.
var extensions []extension

func init() {
	extensions = []extension{
		{"posix-rename@openssh.com", "1", (*server).posixRename},
		{"statvfs@openssh.com", "2", (*server).statvfs},
		{"fstatvfs@openssh.com", "2", (*server).fstatvfs},
		{"hardlink@openssh.com", "1", (*server).hardlink},
		{"fsync@openssh.com", "1", (*server).fsync},
		{"lsetstat@openssh.com", "1", (*server).lsetstat},
		{"limits@openssh.com", "1", (*server).limits},
		{"expand-path@openssh.com", "1", (*server).expandPath},
		{"copy-data", "1", (*server).copyData},
		{"home-directory", "1", (*server).homeDirectory},
		{"users-groups-by-id@openssh.com", "1", (*server).usersGroups},
	}
}

func (s *server) extended(id uint32, f *fields) error {
	name := f.bytes()
	for _, one := range extensions {
		if one.name == string(name) {
			return one.action(s, id, f)
		}
	}
	s.status(id, statusUnsupported, "unsupported extension")
	return nil
}

func (s *server) lsetstat(_ uint32, f *fields) error { return s.setAttributes(f, noFollowOpen) }

func (s *server) limits(id uint32, _ *fields) error {
	r := &s.reply
	r.begin(typeExtendedReply, id)
	r.long(announcedPacket)
	r.long(announcedData)
	r.long(announcedData)
	r.long(maxHandles)
	r.end()
	return nil
}

func (s *server) fsync(_ uint32, f *fields) error {
	_, one, err := s.handles.find(f)
	if err != nil {
		return err
	}
	_, err = restart(func() (int, error) { return 0, syscall.Fsync(one.descriptor) })
	return err
}

func (s *server) statvfs(id uint32, f *fields) error {
	path, err := s.path(f)
	if err != nil {
		return err
	}
	descriptor, err := s.view.open(path, openPath, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(descriptor)
	return s.answerStatvfs(id, descriptor)
}

func (s *server) fstatvfs(id uint32, f *fields) error {
	_, one, err := s.handles.find(f)
	if err != nil {
		return err
	}
	return s.answerStatvfs(id, one.descriptor)
}

func (s *server) answerStatvfs(id uint32, descriptor int) error {
	var found syscall.Statfs_t
	if _, err := restart(func() (int, error) { return 0, syscall.Fstatfs(descriptor, &found) }); err != nil {
		return err
	}
	r := &s.reply
	r.begin(typeExtendedReply, id)
	r.long(uint64(found.Bsize))
	r.long(uint64(found.Frsize))
	r.long(found.Blocks)
	r.long(found.Bfree)
	r.long(found.Bavail)
	r.long(found.Files)
	r.long(found.Ffree)
	r.long(found.Ffree)
	// In the order of statvfs(3).
	r.long(uint64(uint32(found.Fsid.X__val[1]))<<32 | uint64(uint32(found.Fsid.X__val[0])))
	// ST_RDONLY and ST_NOSUID, which the protocol gives the same numbers.
	r.long(uint64(found.Flags) & 3)
	r.long(uint64(found.Namelen))
	r.end()
	return nil
}

// expandPath expands ~ and ~name.
func (s *server) expandPath(id uint32, f *fields) error {
	path, err := s.path(f)
	if err != nil {
		return err
	}
	if strings.HasPrefix(path, "~") {
		name, rest, _ := strings.Cut(path[1:], "/")
		home, err := s.homeOf(name)
		if err != nil {
			return err
		}
		path = home + "/" + rest
	}
	return s.answerReal(id, path)
}

func (s *server) homeDirectory(id uint32, f *fields) error {
	name := f.text()
	if f.failed {
		return errMalformed
	}
	home, err := s.homeOf(name)
	if err != nil {
		return err
	}
	s.answerName(id, home)
	return nil
}

// homeOf returns a user's home folder as the client sees it. With a root, it is the root for all users.
func (s *server) homeOf(name string) (string, error) {
	if s.view.rooted() {
		return "/", nil
	}
	if home := s.names.home(name); strings.HasPrefix(home, "/") && len(home) < maxPath {
		return home, nil
	}
	if name == "" {
		return s.start, nil
	}
	return "", mistake("no such user")
}

func (s *server) usersGroups(id uint32, f *fields) error {
	users, groups := f.bytes(), f.bytes()
	if f.failed || len(users)%4 != 0 || len(groups)%4 != 0 {
		return errMalformed
	}
	r := &s.reply
	r.begin(typeExtendedReply, id)
	for _, part := range []struct {
		ids    []byte
		lookup func(uint32) (string, bool)
	}{{users, s.names.findUser}, {groups, s.names.findGroup}} {
		place := len(r.buffer)
		r.word(0)
		for ; len(part.ids) > 0; part.ids = part.ids[4:] {
			name, _ := part.lookup(binary.BigEndian.Uint32(part.ids))
			if r.text(name); len(r.buffer)-r.start > announcedPacket {
				return mistake("too many ids in one request")
			}
		}
		putWord(r.buffer[place:], uint32(len(r.buffer)-place-4))
	}
	r.end()
	return nil
}

// copyChunk limits the duration of one system call.
const copyChunk = 8 << 20

// copyData copies from one open file to another. A size of 0 means up to the end; a larger range ends there as well.
func (s *server) copyData(_ uint32, f *fields) error {
	_, from, err := s.handles.find(f)
	offset, size := f.long(), f.long()
	if f.failed || err != nil {
		return malformedOr(f, err)
	}
	_, to, err := s.handles.find(f)
	target := f.long()
	if f.failed || err != nil {
		return malformedOr(f, err)
	}
	if from == to || from.isFolder || to.isFolder || !from.mayRead || !to.mayWrite || to.appends {
		return mistake("copying needs one file open for reading and another one open for writing")
	}
	if offset > math.MaxInt64 || size > math.MaxInt64-offset || target > math.MaxInt64 {
		return syscall.EINVAL
	}
	// Copying a file to its own end, or from an endless device, would never finish.
	source, err := fstat(from.descriptor)
	if err != nil {
		return err
	}
	sink, err := fstat(to.descriptor)
	if err != nil {
		return err
	}
	if source.Mode&syscall.S_IFMT != syscall.S_IFREG || identityOf(&source) == identityOf(&sink) {
		return mistake("only regular files can be copied, and not to themselves")
	}
	to.digest.lost = true
	return s.copyBetween(from, to, int64(offset), int64(size), int64(target))
}

func (s *server) copyBetween(from, to *handle, offset, size, target int64) error {
	var buffer []byte
	for left := size; size == 0 || left > 0; {
		chunk := copyChunk
		if size > 0 {
			chunk = int(min(left, copyChunk))
		}
		if s.rules.Session > 0 {
			allowed := s.rules.Session - min(s.moved, s.rules.Session)
			if allowed == 0 {
				return s.endOfCopy(from, to, offset)
			}
			chunk = int(min(uint64(chunk), allowed))
		}
		var count int
		var err error
		if buffer == nil {
			count, err = restart(func() (int, error) {
				return copyFileRange(from.descriptor, &offset, to.descriptor, &target, chunk)
			})
			if count == 0 || err != nil {
				// The kernel does not support it for these files, or the source does not report its size. It reports
				// EFBIG for a file that has its maximum size even if the source has ended.
				if err == syscall.ENOSPC || err == syscall.EDQUOT {
					return err
				}
				buffer = make([]byte, maxData)
				continue
			}
		} else {
			part := buffer[:min(chunk, len(buffer))]
			count, err = restart(func() (int, error) { return syscall.Pread(from.descriptor, part, offset) })
			if err != nil || count == 0 {
				return err
			}
			count, err = restart(func() (int, error) { return syscall.Pwrite(to.descriptor, part[:count], target) })
			if err != nil {
				s.noteFull(to, err)
				return err
			}
			offset += int64(count)
			target += int64(count)
		}
		left -= int64(count)
		from.read += uint64(count)
		to.written += uint64(count)
		if err := s.account(to.path, uint64(count)); err != nil {
			return err
		}
	}
	return nil
}

// endOfCopy distinguishes the end of the source from the session's limit, once that is reached.
func (s *server) endOfCopy(from, to *handle, offset int64) error {
	var one [1]byte
	count, err := restart(func() (int, error) { return syscall.Pread(from.descriptor, one[:], offset) })
	if err != nil || count == 0 {
		return err
	}
	return s.account(to.path, uint64(count))
}
