package sftp

import (
	"encoding/binary"
	"syscall"
	"unsafe"
)

// maxCreated limits the files that are remembered. Further ones can be written, but are not visible in upload-only
// mode.
const maxCreated = 1 << 16

// birth is the creation time of a file, which distinguishes it from a later file with the same inode number. It is zero
// if the file system does not provide it.
type birth [12]byte

// remember records a file or folder that this session has created: name in folder, or folder itself if name is empty.
func (s *server) remember(found *syscall.Stat_t, folder int, name string) {
	if s.rules.UploadOnly && len(s.created) < maxCreated {
		s.created[identityOf(found)] = birthOf(folder, name)
	}
}

// isOurs reports whether this session has created a file, so that upload-only mode may show and change it.
func (s *server) isOurs(found *syscall.Stat_t, folder int, name string) bool {
	born, known := s.created[identityOf(found)]
	return known && born == birthOf(folder, name)
}

// answerStatOfOurs answers a STAT in upload-only mode, which shows only folders and files of this session.
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
