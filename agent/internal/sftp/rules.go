package sftp

import (
	"fmt"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
)

// Rules say what a client may do, and what is reported to the gateway.
type Rules struct {
	Root       string // the folder that the client sees as /; empty: all of the file system
	ReadOnly   bool   // no changes
	UploadOnly bool   // files can be created; existing ones are neither shown nor changed
	FileSize   uint64 // maximum size of a file in bytes; 0: no limit
	Session    uint64 // maximum bytes of content that a session may read and write; 0: no limit
	Umask      int    // -1: unchanged
	Digest     bool   // report the SHA-256 of files that are transferred sequentially
	Events     bool   // report each file on standard error
}

// Parse parses the arguments of the sub-command.
func Parse(arguments []string) (Rules, error) {
	rules := Rules{Umask: -1}
	for len(arguments) > 0 {
		option, value, err := arguments[0], "", error(nil)
		switch option {
		case "--read-only":
			rules.ReadOnly = true
		case "--upload-only":
			rules.UploadOnly = true
		case "--digest":
			rules.Digest = true
		case "--events":
			rules.Events = true
		default:
			if len(arguments) < 2 {
				return rules, fmt.Errorf("%s: no such option, or no value", option)
			}
			arguments = arguments[1:]
			value = arguments[0]
			err = rules.set(option, value)
		}
		if err != nil {
			return rules, fmt.Errorf("%s %s: %w", option, value, err)
		}
		arguments = arguments[1:]
	}
	if rules.ReadOnly && rules.UploadOnly {
		return rules, fmt.Errorf("--read-only and --upload-only exclude each other")
	}
	return rules, nil
}

func (r *Rules) set(option, value string) (err error) {
	switch option {
	case "--root":
		if r.Root = value; !strings.HasPrefix(value, "/") {
			err = syscall.EINVAL
		}
	case "--max-file-size":
		r.FileSize, err = strconv.ParseUint(value, 10, 63)
	case "--max-session-size":
		r.Session, err = strconv.ParseUint(value, 10, 63)
	case "--umask":
		var mask uint64
		mask, err = strconv.ParseUint(value, 8, 9)
		r.Umask = int(mask)
	default:
		err = fmt.Errorf("no such option")
	}
	return err
}

// confine has the kernel enforce those rules that it can enforce on this process.
func (r *Rules) confine() error {
	// The client reads and writes files as this user. It must not reach this process's memory through /proc.
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, prSetDumpable, 0, 0)
	if r.Umask >= 0 {
		syscall.Umask(r.Umask)
	}
	if r.FileSize > 0 {
		// The limit applies to every way of growing a file. Exceeding it must be an error, not a fatal signal.
		signal.Ignore(syscall.SIGXFSZ)
		limit := syscall.Rlimit{Cur: r.FileSize, Max: r.FileSize}
		return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit)
	}
	return nil
}
