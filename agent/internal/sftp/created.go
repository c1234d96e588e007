package sftp

import (
	"encoding/binary"
	"syscall"
	"unsafe"
)

// maxCreated bounds what is remembered; further files are written as well, but not shown in upload-only mode.
const maxCreated = 1 << 16

// birth is when a file was made: another one may get the number of one that is gone. It is all zero where the system
// does not tell.
type birth [12]byte

// remember notes a file or folder that came in this session: name in folder, or folder itself if name is empty.
func (s *server) remember(found *syscall.Stat_t, folder int, name string) {
	if s.rules.UploadOnly && len(s.created) < maxCreated {
		s.created[identityOf(found)] = birthOf(folder, name)
	}
}

// isOurs tells whether upload-only mode may show and change a file: one that came in this session.
func (s *server) isOurs(found *syscall.Stat_t, folder int, name string) bool {
	born, known := s.created[identityOf(found)]
	return known && born == birthOf(folder, name)
}

// answerStatOfOurs shows what came in this session, and folders.
func (s *server) answerStatOfOurs(id uint32, path string, follow int) error {
	descriptor, err := s.view.open(path, openPath|follow, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(descriptor)
	found, err := fstat(descriptor)
	if err != nil {
		return err
	}
	if !isFolder(&found) && !s.isOurs(&found, descriptor, "") {
		return syscall.ENOENT
	}
	s.answerAttributes(id, &found)
	return nil
}

const (
	statxBirth     = 0x800
	statxBirthAt   = 80
	statxBirthSize = 12
)

func birthOf(folder int, name string) (born birth) {
	var found [256]byte
	flags := atNoFollow
	if name == "" {
		flags |= atEmptyPath
	}
	pointer, err := syscall.BytePtrFromString(name)
	if err != nil {
		return born
	}
	_, err = restart(func() (int, error) {
		_, _, errno := syscall.Syscall6(sysStatx, uintptr(folder), uintptr(unsafe.Pointer(pointer)), uintptr(flags),
			statxBirth, uintptr(unsafe.Pointer(&found[0])), 0)
		return 0, failure(errno)
	})
	if err == nil && binary.NativeEndian.Uint32(found[:])&statxBirth != 0 {
		copy(born[:], found[statxBirthAt:statxBirthAt+statxBirthSize])
	}
	return born
}
