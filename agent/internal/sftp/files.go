package sftp

import (
	"math"
	"syscall"
)

func (s *server) open(id uint32, f *fields) error {
	path, err := s.path(f)
	flags, wanted := f.word(), f.attributes()
	if f.failed || err != nil {
		return malformedOr(f, err)
	}
	one := &handle{
		path:    path,
		mayRead: flags&flagRead != 0 || flags&flagWrite == 0, mayWrite: flags&flagWrite != 0,
		appends: flags&flagAppend != 0,
	}
	if changes := flags&(flagWrite|flagAppend|flagCreate|flagTrunc) != 0; changes {
		if err := s.mayChange("open", path); err != nil {
			return err
		}
	}
	if s.rules.UploadOnly {
		if !one.mayWrite || flags&flagCreate == 0 {
			return s.refuse("open", path, "upload only")
		}
		one.mayRead = false
		flags |= flagExcl
	}
	if s.handles.full() {
		return mistake("too many open files")
	}
	mode := uint32(0o666)
	if wanted.flags&attrPermissions != 0 {
		mode = wanted.permissions & 0o7777
	}
	if err := s.openFile(one, flags, mode); err != nil {
		if s.rules.UploadOnly && err == syscall.EEXIST {
			return s.refuse("open", path, "upload only, and the file exists already")
		}
		return err
	}
	if one.appends {
		one.digest.lost = true
	}
	s.track(one)
	s.answerHandle(id, s.handles.add(one))
	return nil
}

// openFile opens the file and sets the descriptor, created and isPlain of the handle.
func (s *server) openFile(one *handle, flags, mode uint32) (err error) {
	// Without O_NONBLOCK, opening a pipe or a serial line would block the session.
	system := syscall.O_RDONLY | syscall.O_NONBLOCK | syscall.O_NOCTTY
	switch {
	case one.mayRead && one.mayWrite:
		system |= syscall.O_RDWR
	case one.mayWrite:
		system |= syscall.O_WRONLY
	}
	if flags&flagAppend != 0 {
		system |= syscall.O_APPEND
	}
	if flags&flagTrunc != 0 {
		system |= syscall.O_TRUNC
	}
	if flags&flagCreate != 0 {
		one.descriptor, err = s.view.open(one.path, system|syscall.O_CREAT|syscall.O_EXCL, mode)
		one.created = err == nil
		if err == syscall.EEXIST && flags&flagExcl == 0 {
			one.descriptor, err = s.view.open(one.path, system|syscall.O_CREAT, mode)
		}
	} else {
		one.descriptor, err = s.view.open(one.path, system, 0)
	}
	if err != nil {
		return err
	}
	found, err := s.checkOpened(one.descriptor, one.path, one.mayWrite)
	if err != nil {
		syscall.Close(one.descriptor)
		return err
	}
	one.isPlain = found.Mode&syscall.S_IFMT == syscall.S_IFREG
	if one.created {
		s.remember(&found, one.descriptor, "")
	}
	return nil
}

// checkOpened prevents access to this process's own pipes, which are reachable through /proc/self/fd and /dev/stderr,
// and writing to files below /proc, such as the memory of processes.
func (s *server) checkOpened(descriptor int, path string, writes bool) (syscall.Stat_t, error) {
	found, err := fstat(descriptor)
	if err != nil {
		return found, err
	}
	switch found.Mode & syscall.S_IFMT {
	case syscall.S_IFIFO, syscall.S_IFSOCK:
		return found, mistake("a pipe or socket, not a file")
	}
	if writes {
		var system syscall.Statfs_t
		if err := syscall.Fstatfs(descriptor, &system); err != nil {
			return found, err
		}
		if system.Type == procfs {
			return found, s.refuse("open", path, "files below /proc are read-only")
		}
	}
	return found, nil
}

func (s *server) answerHandle(id, number uint32) {
	s.reply.begin(typeHandle, id)
	s.reply.word(4)
	s.reply.word(number)
	s.reply.end()
}

func (s *server) close(_ uint32, f *fields) error {
	number, one, err := s.handles.find(f)
	if err != nil {
		return err
	}
	s.handles.remove(number)
	return s.closeHandle(one)
}

func (s *server) read(id uint32, f *fields) error {
	_, one, err := s.handles.find(f)
	offset, size := f.long(), f.word()
	if f.failed || err != nil {
		return malformedOr(f, err)
	}
	if one.isFolder || !one.mayRead {
		return mistake("not open for reading")
	}
	if offset > math.MaxInt64 {
		return syscall.EINVAL
	}
	size = min(size, maxData)
	left := uint64(maxData)
	if s.rules.Session > 0 {
		left = s.rules.Session - min(s.moved, s.rules.Session)
		// Read one byte at least, to distinguish the end of the file from the limit.
		size = min(size, uint32(min(max(left, 1), maxData)))
	}
	if s.lends(one, size) {
		if count, err := s.lending.fill(one.descriptor, int64(offset), int(size)); err != errUnlendable {
			return s.lent(id, one, count, err)
		}
		one.isPlain = false
	}
	r := &s.reply
	r.begin(typeData, id)
	place := len(r.buffer) + 4
	// The buffer has the capacity for this, so the data are not copied.
	room := r.buffer[place : place+int(size)]
	count, err := restart(func() (int, error) { return syscall.Pread(one.descriptor, room, int64(offset)) })
	if err != nil {
		return err
	}
	if count == 0 && size > 0 {
		return errEnd
	}
	if uint64(count) > left {
		return s.refuse("read", one.path, "the transfer limit of the session is reached")
	}
	r.word(uint32(count))
	r.buffer = r.buffer[:place+count]
	r.end()
	one.read += uint64(count)
	s.moved += uint64(count)
	one.digest.add(offset, room[:count], false)
	return nil
}

// lends reports whether the next reply may consist of pages of the file. These change with the file until the client
// has received them, so no file may be open for writing (draft-ietf-secsh-filexfer-02, section 2).
func (s *server) lends(one *handle, size uint32) bool {
	return one.isPlain && size >= lentFrom && one.digest.hash == nil && s.rules.Session == 0 &&
		s.handles.writing == 0 && len(s.reply.buffer) <= mostBefore && s.lending.open()
}

// lent writes the head of a reply whose content is sent from the pipe.
func (s *server) lent(id uint32, one *handle, count int, err error) error {
	if err != nil {
		return err
	}
	if count == 0 {
		return errEnd
	}
	r := &s.reply
	r.begin(typeData, id)
	r.word(uint32(count))
	r.endBefore(count)
	one.read += uint64(count)
	s.moved += uint64(count)
	return nil
}

func (s *server) write(_ uint32, f *fields) error {
	_, one, err := s.handles.find(f)
	offset, data := f.long(), f.bytes()
	if f.failed || err != nil {
		return malformedOr(f, err)
	}
	if one.isFolder || !one.mayWrite {
		return mistake("not open for writing")
	}
	if offset > math.MaxInt64-maxPacket {
		return syscall.EINVAL
	}
	if err := s.account(one.path, uint64(len(data))); err != nil {
		return err
	}
	for done := 0; done < len(data); {
		count, err := restart(func() (int, error) {
			return syscall.Pwrite(one.descriptor, data[done:], int64(offset)+int64(done))
		})
		if err != nil {
			one.digest.lost = true
			s.noteFull(one, err)
			return err
		}
		done += count
		one.written += uint64(count)
	}
	one.digest.add(offset, data, true)
	return nil
}

// noteFull reports once that a file has reached its maximum size.
func (s *server) noteFull(one *handle, err error) {
	if err == syscall.EFBIG && !one.full {
		one.full = true
		_ = s.refuse("write", one.path, tooLarge)
	}
}

// account counts content against the session's limit.
func (s *server) account(path string, size uint64) error {
	if s.rules.Session > 0 && (size > s.rules.Session || s.moved > s.rules.Session-size) {
		return s.refuse("write", path, "the transfer limit of the session is reached")
	}
	s.moved += size
	return nil
}

func malformedOr(f *fields, err error) error {
	if f.failed {
		return errMalformed
	}
	return err
}
