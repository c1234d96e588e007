package sftp

import (
	"fmt"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
)

// Rules are what the gateway allows a client, and asks to be told.
type Rules struct {
	Root       string // the folder that the client sees as /; empty: all of the file system
	ReadOnly   bool   // nothing is changed
	UploadOnly bool   // new files come in; nothing that is there is shown or changed
	FileSize   uint64 // the most bytes of a file that is written to; 0: any number
	Session    uint64 // the most bytes of content that a session moves in both directions; 0: any number
	Umask      int    // -1: as it is
	Digest     bool   // a SHA-256 for each file that was moved in one piece
	Events     bool   // a line on standard error for each file
}

// Parse reads the arguments behind the sub-command's name.
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
		return rules, fmt.Errorf("--read-only and --upload-only leave nothing to do")
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

// confine makes the kernel keep what it can keep for this process.
func (r *Rules) confine() error {
	// Whoever reads and writes files as this user must not reach this process's memory by way of them.
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, prSetDumpable, 0, 0)
	if r.Umask >= 0 {
		syscall.Umask(r.Umask)
	}
	if r.FileSize > 0 {
		// Growing beyond it is an error then, however it is done, instead of a deadly signal.
		signal.Ignore(syscall.SIGXFSZ)
		limit := syscall.Rlimit{Cur: r.FileSize, Max: r.FileSize}
		return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit)
	}
	return nil
}
