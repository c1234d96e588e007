package program

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
	"time"

	"containerssh.io/agent/internal/wire"
)

// A limit that Linux has not looked at since 2.4.25. All that a program starts inherits it, also through a session, an
// environment or a user of its own, so its value tells which program a process comes from.
const rlimitLocks = 10

// marks counts the values given out; guarded by the mutex of children.
var marks uint64

// mark gives what is started next a mark of its own, 0 where the system does not let us. The caller holds children.
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

// endLeftovers deals with what the program, which has ended, has left behind.
func (p *Program) endLeftovers() {
	switch p.leftovers {
	case wire.KeepLeftovers:
	case wire.EndLeftovers:
		p.killLeftovers()
	default:
		// As when a line hangs up: what ignores it (nohup), or has a session of its own, is meant to stay. What has
		// just been forked gets the time to say so.
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
		// Stopped processes start no others, so what is found in the end is all.
		for known := -1; len(found) > known; {
			known = len(found)
			found = p.remaining()
			signalEach(found, syscall.SIGSTOP)
		}
		if len(found) == 0 {
			return
		}
		signalEach(found, syscall.SIGKILL)
		time.Sleep(pause)
	}
}

// remaining are all processes that the program has left, wherever they went.
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

// members are those in the program's own session. While there are any, no other process can get its number.
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
