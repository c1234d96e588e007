// Package files writes files into the container.
package files

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Owner is a user and a group by number.
type Owner struct{ UID, GID int }

// Write writes exactly size bytes of content to the absolute path. Readers see the old file or the complete new one.
// mode is set regardless of the umask. Missing folders are created with mode 0755. A symbolic link at path is replaced,
// not followed. It returns io.ErrUnexpectedEOF if content is too short.
func Write(path string, content io.Reader, size int64, mode os.FileMode, owner *Owner) error {
	if !filepath.IsAbs(path) || strings.HasSuffix(path, "/") || strings.ContainsRune(path, 0) {
		return syscall.EINVAL
	}
	path = filepath.Clean(path)
	folder := filepath.Dir(path)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	temporary := filepath.Join(folder, ".containerssh-"+randomName())
	flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL | syscall.O_NOFOLLOW | syscall.O_CLOEXEC
	file, err := os.OpenFile(temporary, flags, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(temporary)
	defer file.Close()
	if err := fill(file, content, size, mode, owner); err != nil {
		return err
	}
	err = os.Rename(temporary, path)
	if errors.Is(err, syscall.EBUSY) {
		// A file that is a mount point cannot be replaced, only overwritten.
		return overwrite(path, temporary, size, mode, owner)
	}
	return err
}

func fill(file *os.File, content io.Reader, size int64, mode os.FileMode, owner *Owner) error {
	copied, err := io.Copy(file, io.LimitReader(content, size))
	if err != nil {
		return err
	}
	if copied != size {
		return io.ErrUnexpectedEOF
	}
	if owner != nil {
		if err := file.Chown(owner.UID, owner.GID); err != nil {
			return err
		}
	}
	// After the owner, since changing the owner clears the set-user-id bit.
	if err := syscall.Fchmod(int(file.Fd()), uint32(mode)); err != nil {
		return &os.PathError{Op: "chmod", Path: file.Name(), Err: err}
	}
	return file.Close()
}

func overwrite(path, source string, size int64, mode os.FileMode, owner *Owner) error {
	content, err := os.Open(source)
	if err != nil {
		return err
	}
	defer content.Close()
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	return fill(file, content, size, mode, owner)
}

func randomName() string {
	var name [8]byte
	if _, err := rand.Read(name[:]); err != nil {
		panic(err)
	}
	return hex.EncodeToString(name[:])
}
