package program

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
	"time"

	"containerssh.io/agent/internal/wire"
)

// rlimitLocks is a resource limit that Linux has not enforced since 2.4.25. All descendants of a program inherit it,
// even with a session, environment or user of their own, so its value identifies the program that a process descends
// from.
const rlimitLocks = 10

// marks counts the values in use; guarded by the mutex of children.
var marks uint64

// mark sets a new value of the limit for the program that is started next, and returns it: 0 if none is needed or the
// system does not permit it. The caller holds the mutex of children.
func mark(what wire.Leftovers) uint64 {
	if what != wire.EndLeftovers && marks == 0 {
		return 0
	}
	var limit syscall.Rlimit
	if syscall.Getrlimit(rlimitLocks, &limit) != nil || limit.Max < 1<<32 {
		return 0
	}
	marks++
	limit.Cur = limit.Max - marks
	if syscall.Setrlimit(rlimitLocks, &limit) != nil {
		return 0
	}
	return limit.Cur
}

// endLeftovers treats the processes that the program, which has ended, has left running as its Start demands.
func (p *Program) endLeftovers() {
	switch p.leftovers {
	case wire.KeepLeftovers:
	case wire.EndLeftovers:
		p.killLeftovers()
	default:
		// As when a line hangs up: processes that ignore it (nohup) or have a session of their own (setsid) are meant
		// to stay. Those that have just been forked get the time to do so.
		if len(p.members()) > 0 {
			time.Sleep(Grace)
			signalEach(p.members(), syscall.SIGHUP, syscall.SIGCONT)
		}
	}
}

func (p *Program) killLeftovers() {
	found := p.remaining()
	if len(found) == 0 {
		return
	}
	signalEach(found, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGCONT)
	waitUntil(Grace, func() bool { return len(p.remaining()) == 0 })
	for range attempts {
		if found = stopAll(p.remaining); len(found) == 0 {
			return
		}
		signalEach(found, syscall.SIGKILL)
		time.Sleep(pause)
	}
}

// remaining returns all processes that the program has left running, in whatever session.
func (p *Program) remaining() []int {
	found := p.members()
	if p.mark == 0 {
		return found
	}
	known := map[int]bool{}
	for _, pid := range found {
		known[pid] = true
	}
	for _, pid := range descendants(os.Getpid(), 0) {
		if !known[pid] && markOf(pid) == p.mark {
			found = append(found, pid)
		}
	}
	return found
}

// members returns the processes that are still in the program's session. While there are any, the kernel does not reuse
// its process id.
func (p *Program) members() []int {
	if !p.hasEnded() || syscall.Kill(p.pid, 0) != syscall.ESRCH {
		return nil
	}
	var found []int
	for _, one := range processes() {
		if one.session == p.pid {
			found = append(found, one.pid)
		}
	}
	return found
}

func signalEach(pids []int, numbers ...syscall.Signal) {
	for _, number := range numbers {
		for _, pid := range pids {
			_ = syscall.Kill(pid, number)
		}
	}
}

func markOf(pid int) uint64 {
	limits, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/limits")
	if err != nil {
		return 0
	}
	return parseMark(limits)
}

func parseMark(limits []byte) uint64 {
	const name = "Max file locks"
	_, after, found := bytes.Cut(limits, []byte(name))
	if !found {
		return 0
	}
	fields := bytes.Fields(after)
	if len(fields) == 0 {
		return 0
	}
	value, err := strconv.ParseUint(string(fields[0]), 10, 64)
	if err != nil {
		return 0
	}
	return value
}
