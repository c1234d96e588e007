package sftp

import (
	"strconv"
	"syscall"
)

func (s *server) stat(id uint32, f *fields) error { return s.answerStat(id, f, s.view.stat, 0) }

func (s *server) lstat(id uint32, f *fields) error {
	return s.answerStat(id, f, s.view.lstat, noFollowOpen)
}

func (s *server) answerStat(id uint32, f *fields, stat func(string) (syscall.Stat_t, error), follow int) error {
	path, err := s.path(f)
	if err != nil {
		return err
	}
	if s.rules.UploadOnly {
		return s.answerStatOfOurs(id, path, follow)
	}
	found, err := stat(path)
	if err != nil {
		return err
	}
	s.answerAttributes(id, &found)
	return nil
}

func (s *server) fstat(id uint32, f *fields) error {
	_, one, err := s.handles.find(f)
	if err != nil {
		return err
	}
	found, err := fstat(one.descriptor)
	if err != nil {
		return err
	}
	s.answerAttributes(id, &found)
	return nil
}

func (s *server) answerAttributes(id uint32, found *syscall.Stat_t) {
	s.reply.begin(typeAttrs, id)
	s.reply.attributes(found)
	s.reply.end()
}

func isFolder(found *syscall.Stat_t) bool { return found.Mode&syscall.S_IFMT == syscall.S_IFDIR }

func (s *server) setstat(_ uint32, f *fields) error { return s.setAttributes(f, 0) }

func (s *server) setAttributes(f *fields, follow int) error {
	path, err := s.path(f)
	wanted := f.attributes()
	if f.failed || err != nil {
		return malformedOr(f, err)
	}
	if err := s.mayChange("attributes", path); err != nil {
		return err
	}
	if wanted.flags&attrSize != 0 {
		if follow != 0 {
			return syscall.EOPNOTSUPP
		}
		if err := s.truncate(path, wanted.size); err != nil {
			return err
		}
	}
	var target changeable = named{path, follow}
	if s.view.rooted() || s.rules.UploadOnly {
		descriptor, err := s.view.open(path, openPath|follow, 0)
		if err != nil {
			return err
		}
		defer syscall.Close(descriptor)
		found, err := fstat(descriptor)
		if err != nil {
			return err
		}
		if s.rules.UploadOnly && !s.isOurs(&found, descriptor, "") {
			return s.refuse("attributes", path, "upload only")
		}
		target = pinned{descriptor, &found}
	}
	return s.apply(target, path, &wanted)
}

// noFollowOpen is passed by lsetstat. It is openat's flag; the other calls use atNoFollow.
const noFollowOpen = syscall.O_NOFOLLOW

func (s *server) truncate(path string, size uint64) error {
	descriptor, err := s.view.open(path, syscall.O_WRONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(descriptor)
	found, err := s.checkOpened(descriptor, path, true)
	if err != nil {
		return err
	}
	if s.rules.UploadOnly && !s.isOurs(&found, descriptor, "") {
		return s.refuse("attributes", path, "upload only")
	}
	s.lending.settle(s.output)
	return resize(descriptor, size)
}

func resize(descriptor int, size uint64) error {
	if size > 1<<63-1 {
		return syscall.EINVAL
	}
	return syscall.Ftruncate(descriptor, int64(size))
}

func (s *server) fsetstat(_ uint32, f *fields) error {
	_, one, err := s.handles.find(f)
	wanted := f.attributes()
	if f.failed || err != nil {
		return malformedOr(f, err)
	}
	if err := s.mayChange("attributes", one.path); err != nil {
		return err
	}
	if wanted.flags&attrSize != 0 {
		if !one.mayWrite {
			return mistake("not open for writing")
		}
		one.digest.lost = true
		if err := resize(one.descriptor, wanted.size); err != nil {
			return err
		}
	}
	return s.apply(opened{one.descriptor}, one.path, &wanted)
}

// changeable is a file whose attributes can be set.
type changeable interface {
	chmod(mode uint32) error
	chown(uid, gid uint32) error
	utimes(access, change int64) error
}

// apply sets all attributes except the size, in OpenSSH's order, and reports those that were set.
func (s *server) apply(target changeable, path string, wanted *attributes) error {
	done := wanted.flags & attrSize
	var failed error
	note := func(flag uint32, err error) {
		if err == nil {
			done |= flag
		} else if failed == nil {
			failed = err
		}
	}
	if wanted.flags&attrPermissions != 0 {
		note(attrPermissions, target.chmod(wanted.permissions&0o7777))
	}
	if wanted.flags&attrTimes != 0 {
		note(attrTimes, target.utimes(int64(wanted.atime), int64(wanted.mtime)))
	}
	if wanted.flags&attrOwner != 0 {
		note(attrOwner, target.chown(wanted.uid, wanted.gid))
	}
	if done == 0 {
		return failed
	}
	event := s.events.begin("attributes").text("path", s.shown(path))
	if done&attrSize != 0 {
		event.number("size", wanted.size)
	}
	if done&attrPermissions != 0 {
		event.number("mode", uint64(wanted.permissions&0o7777))
	}
	if done&attrTimes != 0 {
		event.number("mtime", uint64(wanted.mtime))
	}
	if done&attrOwner != 0 {
		event.number("uid", uint64(wanted.uid)).number("gid", uint64(wanted.gid))
	}
	event.end()
	return failed
}

// named is a file by its path. Without a root, this needs neither a recent kernel nor /proc.
type named struct {
	path   string
	follow int
}

func (n named) flags() int {
	if n.follow != 0 {
		return atNoFollow
	}
	return 0
}

func (n named) chmod(mode uint32) error {
	if n.follow != 0 {
		found, err := fstatat(atWorkingFolder, n.path, atNoFollow)
		if err != nil {
			return err
		}
		if found.Mode&syscall.S_IFMT == syscall.S_IFLNK {
			return syscall.EOPNOTSUPP
		}
	}
	return fchmodat(atWorkingFolder, n.path, mode)
}

func (n named) chown(uid, gid uint32) error {
	return fchownat(atWorkingFolder, n.path, uid, gid, n.flags())
}

func (n named) utimes(access, change int64) error {
	return utimensat(atWorkingFolder, n.path, access, change, n.flags())
}

// opened is a file by a descriptor that is open for reading or writing.
type opened struct{ descriptor int }

func (o opened) chmod(mode uint32) error { return syscall.Fchmod(o.descriptor, mode) }

func (o opened) chown(uid, gid uint32) error { return syscall.Fchown(o.descriptor, int(uid), int(gid)) }

func (o opened) utimes(access, change int64) error { return futimens(o.descriptor, access, change) }

// pinned is a file by a descriptor opened with openPath (O_PATH), which needs no permission to read or write the file.
type pinned struct {
	descriptor int
	found      *syscall.Stat_t
}

func (p pinned) self() string { return "/proc/self/fd/" + strconv.Itoa(p.descriptor) }

func (p pinned) chmod(mode uint32) error {
	if p.found.Mode&syscall.S_IFMT == syscall.S_IFLNK {
		return syscall.EOPNOTSUPP
	}
	// Since Linux 6.6. Sandboxes answer unknown calls with ENOSYS or EPERM.
	_, err := at(sysFchmodat2, p.descriptor, "", uintptr(mode), atEmptyPath)
	if err == syscall.ENOSYS || err == syscall.EPERM {
		err = fchmodat(atWorkingFolder, p.self(), mode)
	}
	return err
}

func (p pinned) chown(uid, gid uint32) error {
	return fchownat(p.descriptor, "", uid, gid, atEmptyPath)
}

func (p pinned) utimes(access, change int64) error {
	// Since Linux 5.8.
	err := utimensat(p.descriptor, "", access, change, atEmptyPath)
	if err == syscall.EINVAL && p.found.Mode&syscall.S_IFMT != syscall.S_IFLNK {
		err = utimensat(atWorkingFolder, p.self(), access, change, 0)
	}
	return err
}

func (s *server) remove(_ uint32, f *fields) error { return s.unlink(f, "remove", 0) }

func (s *server) rmdir(_ uint32, f *fields) error { return s.unlink(f, "rmdir", atRemoveFolder) }

func (s *server) unlink(f *fields, operation string, flags int) error {
	path, err := s.path(f)
	if err != nil {
		return err
	}
	if err := s.mayReplace(operation, path); err != nil {
		return err
	}
	folder, name, err := s.view.parent(path)
	if err != nil {
		return err
	}
	defer release(folder)
	if err := unlinkat(folder, name, flags); err != nil {
		return err
	}
	s.events.begin(operation).text("path", s.shown(path)).end()
	return nil
}

func (s *server) mkdir(_ uint32, f *fields) error {
	path, err := s.path(f)
	wanted := f.attributes()
	if f.failed || err != nil {
		return malformedOr(f, err)
	}
	if err := s.mayChange("mkdir", path); err != nil {
		return err
	}
	mode := uint32(0o777)
	if wanted.flags&attrPermissions != 0 {
		mode = wanted.permissions & 0o7777
	}
	folder, name, err := s.view.parent(path)
	if err != nil {
		return err
	}
	defer release(folder)
	if err := mkdirat(folder, name, mode); err != nil {
		return err
	}
	if s.rules.UploadOnly {
		if found, err := fstatat(folder, name, atNoFollow); err == nil {
			s.remember(&found, folder, name)
		}
	}
	s.events.begin("mkdir").text("path", s.shown(path)).end()
	return nil
}

// symlink takes its arguments in OpenSSH's order, which all clients use: the target first, then the link's path.
func (s *server) symlink(_ uint32, f *fields) error {
	target, err := s.path(f)
	if err != nil {
		return err
	}
	path, err := s.path(f)
	if err != nil {
		return err
	}
	if err := s.mayReplace("symlink", path); err != nil {
		return err
	}
	folder, name, err := s.view.parent(path)
	if err != nil {
		return err
	}
	defer release(folder)
	if err := symlinkat(target, folder, name); err != nil {
		return err
	}
	s.events.begin("symlink").text("path", s.shown(path)).text("target", target).end()
	return nil
}

func (s *server) hardlink(_ uint32, f *fields) error {
	return s.both(f, "link", func(folder int, name string, other int, otherName string) error {
		return atBoth(syscall.SYS_LINKAT, folder, name, other, otherName, 0)
	})
}

// rename never replaces a file (section 6.5).
func (s *server) rename(_ uint32, f *fields) error { return s.both(f, "rename", renameNew) }

func (s *server) posixRename(_ uint32, f *fields) error {
	if s.rules.UploadOnly {
		return s.both(f, "rename", renameNew)
	}
	return s.both(f, "rename", func(folder int, name string, other int, otherName string) error {
		return atBoth(sysRenameat2, folder, name, other, otherName, 0)
	})
}

func renameNew(folder int, name string, other int, otherName string) error {
	err := atBoth(sysRenameat2, folder, name, other, otherName, renameNoReplace)
	if err != syscall.EINVAL {
		return err
	}
	// Some file systems do not support this flag. OpenSSH does the following everywhere.
	found, err := fstatat(folder, name, atNoFollow)
	if err != nil {
		return err
	}
	if found.Mode&syscall.S_IFMT == syscall.S_IFREG {
		if err := atBoth(syscall.SYS_LINKAT, folder, name, other, otherName, 0); err != nil {
			return err
		}
		return unlinkat(folder, name, 0)
	}
	if _, err := fstatat(other, otherName, atNoFollow); err == nil {
		return syscall.EEXIST
	}
	return atBoth(sysRenameat2, folder, name, other, otherName, 0)
}

// both handles operations with two paths. In upload-only mode, only files of this session can be renamed.
func (s *server) both(f *fields, operation string, act func(int, string, int, string) error) error {
	path, err := s.path(f)
	if err != nil {
		return err
	}
	target, err := s.path(f)
	if err != nil {
		return err
	}
	may := s.mayReplace
	if operation == "rename" {
		may = s.mayChange
	}
	if err := may(operation, path); err != nil {
		return err
	}
	folder, name, err := s.view.parent(path)
	if err != nil {
		return err
	}
	defer release(folder)
	if s.rules.UploadOnly {
		if found, err := fstatat(folder, name, atNoFollow); err != nil || !s.isOurs(&found, folder, name) {
			return s.refuse(operation, path, "upload only")
		}
	}
	other, otherName, err := s.view.parent(target)
	if err != nil {
		return err
	}
	defer release(other)
	if err := act(folder, name, other, otherName); err != nil {
		return err
	}
	s.events.begin(operation).text("path", s.shown(path)).text("target", s.shown(target)).end()
	return nil
}
