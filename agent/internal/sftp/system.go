package sftp

import (
	"syscall"
	"unsafe"
)

// System calls that package syscall lacks, all relative to an open folder. Numbers in this file are the same on all
// architectures.
const (
	sysOpenat2   = 437
	sysFchmodat2 = 452

	atWorkingFolder = -0x64
	atNoFollow      = 0x100
	atRemoveFolder  = 0x200
	atEmptyPath     = 0x1000

	openPath = 0x200000

	resolveNoMagicLinks = 0x02
	resolveInRoot       = 0x10

	renameNoReplace = 1

	procfs = 0x9fa0

	prSetDumpable = 4
)

func failure(errno syscall.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

// at makes a system call with a folder and a name in it as the first arguments, and numbers as the others.
func at(trap uintptr, folder int, name string, rest ...uintptr) (int, error) {
	pointer, err := syscall.BytePtrFromString(name)
	if err != nil {
		return 0, err
	}
	var arguments [4]uintptr
	copy(arguments[:], rest)
	for {
		result, _, errno := syscall.Syscall6(trap, uintptr(folder), uintptr(unsafe.Pointer(pointer)),
			arguments[0], arguments[1], arguments[2], arguments[3])
		if errno != syscall.EINTR {
			return int(result), failure(errno)
		}
	}
}

// atBoth makes a system call with two folders and names, and flags.
func atBoth(trap uintptr, folder int, name string, other int, otherName string, flags uintptr) error {
	first, err := syscall.BytePtrFromString(name)
	if err != nil {
		return err
	}
	second, err := syscall.BytePtrFromString(otherName)
	if err != nil {
		return err
	}
	_, _, errno := syscall.Syscall6(trap, uintptr(folder), uintptr(unsafe.Pointer(first)),
		uintptr(other), uintptr(unsafe.Pointer(second)), flags, 0)
	return failure(errno)
}

func openat(folder int, name string, flags int, mode uint32) (int, error) {
	return at(syscall.SYS_OPENAT, folder, name, uintptr(flags|syscall.O_CLOEXEC), uintptr(mode))
}

// openat2 resolves a path below folder; neither links nor `..` lead out of it.
func openat2(folder int, name string, flags int, mode uint32) (int, error) {
	how := struct{ flags, mode, resolve uint64 }{
		flags: uint64(flags | syscall.O_CLOEXEC), resolve: resolveInRoot | resolveNoMagicLinks,
	}
	if flags&syscall.O_CREAT != 0 {
		how.mode = uint64(mode)
	}
	pointer, err := syscall.BytePtrFromString(name)
	if err != nil {
		return 0, err
	}
	for tries := 0; ; tries++ {
		result, _, errno := syscall.Syscall6(sysOpenat2, uintptr(folder), uintptr(unsafe.Pointer(pointer)),
			uintptr(unsafe.Pointer(&how)), unsafe.Sizeof(how), 0, 0)
		// The kernel returns EAGAIN if folders were moved meanwhile, so that it cannot verify a `..`.
		if errno != syscall.EINTR && (errno != syscall.EAGAIN || tries >= 64) {
			return int(result), failure(errno)
		}
	}
}

func fstatat(folder int, name string, flags int) (syscall.Stat_t, error) {
	var found syscall.Stat_t
	pointer, err := syscall.BytePtrFromString(name)
	if err != nil {
		return found, err
	}
	_, err = restart(func() (int, error) {
		_, _, errno := syscall.Syscall6(sysFstatat, uintptr(folder), uintptr(unsafe.Pointer(pointer)),
			uintptr(unsafe.Pointer(&found)), uintptr(flags), 0, 0)
		return 0, failure(errno)
	})
	return found, err
}

func fstat(descriptor int) (syscall.Stat_t, error) {
	var found syscall.Stat_t
	return found, syscall.Fstat(descriptor, &found)
}

func readlinkat(folder int, name string) (string, error) {
	pointer, err := syscall.BytePtrFromString(name)
	if err != nil {
		return "", err
	}
	var target [maxPath + 1]byte
	size, _, errno := syscall.Syscall6(syscall.SYS_READLINKAT, uintptr(folder), uintptr(unsafe.Pointer(pointer)),
		uintptr(unsafe.Pointer(&target[0])), uintptr(len(target)), 0, 0)
	if errno != 0 {
		return "", errno
	}
	if size > maxPath {
		return "", syscall.ENAMETOOLONG
	}
	return string(target[:size]), nil
}

func mkdirat(folder int, name string, mode uint32) error {
	_, err := at(syscall.SYS_MKDIRAT, folder, name, uintptr(mode))
	return err
}

func unlinkat(folder int, name string, flags int) error {
	_, err := at(syscall.SYS_UNLINKAT, folder, name, uintptr(flags))
	return err
}

func symlinkat(target string, folder int, name string) error {
	first, err := syscall.BytePtrFromString(target)
	if err != nil {
		return err
	}
	second, err := syscall.BytePtrFromString(name)
	if err != nil {
		return err
	}
	_, _, errno := syscall.Syscall(syscall.SYS_SYMLINKAT, uintptr(unsafe.Pointer(first)), uintptr(folder),
		uintptr(unsafe.Pointer(second)))
	return failure(errno)
}

func fchmodat(folder int, name string, mode uint32) error {
	_, err := at(syscall.SYS_FCHMODAT, folder, name, uintptr(mode))
	return err
}

func fchownat(folder int, name string, uid, gid uint32, flags int) error {
	_, err := at(syscall.SYS_FCHOWNAT, folder, name, uintptr(uid), uintptr(gid), uintptr(flags))
	return err
}

func utimensat(folder int, name string, access, change int64, flags int) error {
	pointer, err := syscall.BytePtrFromString(name)
	if err != nil {
		return err
	}
	times := [2]syscall.Timespec{{Sec: access}, {Sec: change}}
	_, _, errno := syscall.Syscall6(syscall.SYS_UTIMENSAT, uintptr(folder), uintptr(unsafe.Pointer(pointer)),
		uintptr(unsafe.Pointer(&times)), uintptr(flags), 0, 0)
	return failure(errno)
}

// futimens does the same for a descriptor that was not opened with openPath.
func futimens(descriptor int, access, change int64) error {
	times := [2]syscall.Timespec{{Sec: access}, {Sec: change}}
	_, _, errno := syscall.Syscall6(syscall.SYS_UTIMENSAT, uintptr(descriptor), 0,
		uintptr(unsafe.Pointer(&times)), 0, 0, 0)
	return failure(errno)
}

func copyFileRange(from int, offset *int64, to int, target *int64, size int) (int, error) {
	count, _, errno := syscall.Syscall6(sysCopyFileRange, uintptr(from), uintptr(unsafe.Pointer(offset)),
		uintptr(to), uintptr(unsafe.Pointer(target)), uintptr(size), 0)
	return int(count), failure(errno)
}

// restart repeats a call while it is interrupted by a signal. Go sends some to itself.
func restart(call func() (int, error)) (int, error) {
	for {
		count, err := call()
		if err != syscall.EINTR {
			return count, err
		}
	}
}
