package sftp

import (
	"strings"
	"syscall"
)

const (
	maxLinks = 40
	maxDepth = 256
)

// view is the part of the file system that a client sees. With a root, every path is resolved below it as after a
// chroot, including absolute paths, `..` and links. Concurrent changes, by the client or another process that moves
// folders or replaces them by links, cannot lead out of it.
type view struct {
	root int  // the open folder, or noRoot
	walk bool // openat2 is not available
}

const noRoot = -1

func openView(root string) (*view, error) {
	if root == "" {
		return &view{root: noRoot}, nil
	}
	descriptor, err := openat(atWorkingFolder, root, openPath|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	v := &view{root: descriptor}
	// Kernels before 5.6 do not have it, and some sandboxes refuse unknown calls.
	probe, err := openat2(descriptor, ".", openPath|syscall.O_DIRECTORY, 0)
	if err != nil {
		v.walk = true
		return v, nil
	}
	syscall.Close(probe)
	return v, nil
}

func (v *view) rooted() bool { return v.root != noRoot }

// open opens a path. A link as the last component is followed unless flags contain O_NOFOLLOW.
func (v *view) open(path string, flags int, mode uint32) (int, error) {
	switch {
	case !v.rooted():
		return openat(atWorkingFolder, path, flags, mode)
	case v.walk:
		return v.walkTo(path, flags, mode)
	default:
		return openat2(v.root, path, flags, mode)
	}
}

// parent opens the folder that contains the last component of path, and returns it with that component, for calls that
// do not follow links. Close the folder with release.
func (v *view) parent(path string) (int, string, error) {
	if !v.rooted() {
		return atWorkingFolder, path, nil
	}
	trimmed := strings.TrimRight(path, "/")
	before, name := "", trimmed
	if slash := strings.LastIndexByte(trimmed, '/'); slash >= 0 {
		before, name = trimmed[:slash+1], trimmed[slash+1:]
	}
	if name == "" || name == "." || name == ".." {
		return 0, "", syscall.EINVAL
	}
	if before == "" {
		before = "."
	}
	folder, err := v.open(before, openPath|syscall.O_DIRECTORY, 0)
	return folder, name, err
}

func release(folder int) {
	if folder >= 0 {
		syscall.Close(folder)
	}
}

// stat follows links; lstat does not.
func (v *view) stat(path string) (syscall.Stat_t, error) {
	if !v.rooted() {
		return fstatat(atWorkingFolder, path, 0)
	}
	return v.statOpened(path, openPath)
}

func (v *view) lstat(path string) (syscall.Stat_t, error) {
	if !v.rooted() {
		return fstatat(atWorkingFolder, path, atNoFollow)
	}
	return v.statOpened(path, openPath|syscall.O_NOFOLLOW)
}

func (v *view) statOpened(path string, flags int) (syscall.Stat_t, error) {
	descriptor, err := v.open(path, flags, 0)
	if err != nil {
		return syscall.Stat_t{}, err
	}
	defer syscall.Close(descriptor)
	return fstat(descriptor)
}

func (v *view) readlink(path string) (string, error) {
	folder, name, err := v.parent(path)
	if err != nil {
		return "", err
	}
	defer release(folder)
	return readlinkat(folder, name)
}

// walkTo does the same as openat2, component by component. It keeps all folders on the way open, so that `..` returns
// to the folder it came from. It reads and follows links itself, so the kernel never resolves more than one component.
func (v *view) walkTo(path string, flags int, mode uint32) (int, error) {
	stack := []int{v.root}
	defer func() {
		for _, folder := range stack[1:] {
			syscall.Close(folder)
		}
	}()
	back := func(to int) {
		for len(stack) > to {
			syscall.Close(stack[len(stack)-1])
			stack = stack[:len(stack)-1]
		}
	}
	rest, links := path, 0
	for {
		name, after, more := strings.Cut(strings.TrimLeft(rest, "/"), "/")
		rest = after
		top := stack[len(stack)-1]
		switch name {
		case "", ".":
			if !more {
				return openat(top, ".", flags&^(syscall.O_CREAT|syscall.O_EXCL), 0)
			}
			continue
		case "..":
			if len(stack) > 1 {
				back(len(stack) - 1)
			}
			if !more {
				rest = "."
			}
			continue
		}
		target, err := readlinkat(top, name)
		isLink := err == nil
		// A slash after the last component requires a folder, so a link is followed.
		last := !more
		keep := flags&syscall.O_NOFOLLOW != 0 || flags&(syscall.O_CREAT|syscall.O_EXCL) == syscall.O_CREAT|syscall.O_EXCL
		switch {
		case isLink && !(last && keep):
			if links++; links > maxLinks {
				return 0, syscall.ELOOP
			}
			if strings.HasPrefix(target, "/") {
				back(1)
			}
			if more {
				target += "/" + rest
			}
			if rest = target; len(rest) > 2*maxPath {
				return 0, syscall.ENAMETOOLONG
			}
		case last:
			return openat(top, name, flags|syscall.O_NOFOLLOW, mode)
		default:
			folder, err := openat(top, name, openPath|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
			if err != nil {
				return 0, err
			}
			stack = append(stack, folder)
			if len(stack) > maxDepth {
				return 0, syscall.ENAMETOOLONG
			}
		}
	}
}

// real returns the path without links, `.` and `..`. Its last component need not exist. The result is for the client
// only; no check relies on it.
func (v *view) real(path string) (string, error) {
	resolved := "/"
	if !v.rooted() && !strings.HasPrefix(path, "/") {
		folder, err := syscall.Getwd()
		if err != nil {
			return "", err
		}
		resolved = folder
	}
	rest, links := path, 0
	for rest != "" {
		name, after, _ := strings.Cut(rest, "/")
		rest = after
		switch name {
		case "", ".":
			continue
		case "..":
			resolved = resolved[:max(strings.LastIndexByte(resolved, '/'), 1)]
			continue
		}
		next := strings.TrimSuffix(resolved, "/") + "/" + name
		if len(next) > maxPath {
			return "", syscall.ENAMETOOLONG
		}
		found, err := v.lstat(next)
		if err == syscall.ENOENT && strings.Trim(rest, "/") == "" {
			return next, nil
		}
		if err != nil {
			return "", err
		}
		if found.Mode&syscall.S_IFMT != syscall.S_IFLNK {
			resolved = next
			continue
		}
		target, err := v.readlink(next)
		if err != nil {
			return "", err
		}
		if links++; links > maxLinks || len(target)+len(rest) > 2*maxPath {
			return "", syscall.ELOOP
		}
		if strings.HasPrefix(target, "/") {
			resolved = "/"
		}
		rest = target + "/" + rest
	}
	return resolved, nil
}

// tidy removes `.`, `..` and empty components from an absolute path without looking at the file system.
func tidy(path string) string {
	var kept []string
	for _, name := range strings.Split(path, "/") {
		switch name {
		case "", ".":
		case "..":
			kept = kept[:max(len(kept)-1, 0)]
		default:
			kept = append(kept, name)
		}
	}
	return "/" + strings.Join(kept, "/")
}
