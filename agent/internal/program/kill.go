package program

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
	"time"
)

// Grace is the time between SIGHUP and SIGKILL.
const Grace = 250 * time.Millisecond

const (
	pause    = 5 * time.Millisecond
	attempts = 200
)

type process struct{ pid, parent, session int }

// KillAll kills every process that this agent has started, directly or indirectly, in whatever session it is.
func KillAll() {
	self := os.Getpid()
	signalAll := func(number syscall.Signal) bool {
		if self == 1 {
			return syscall.Kill(-1, number) == nil
		}
		found := descendants(self, 0)
		signalEach(found, number)
		return len(found) > 0
	}
	if !signalAll(syscall.SIGHUP) {
		return
	}
	signalAll(syscall.SIGCONT)
	waitUntil(Grace, func() bool { return !signalAll(0) })
	for range attempts {
		if self != 1 {
			stopAll(func() []int { return descendants(self, 0) })
		}
		if !signalAll(syscall.SIGKILL) {
			return
		}
		time.Sleep(pause)
	}
}

// stopAll stops the processes that find returns until it returns no more of them: a stopped process cannot fork, so
// those that are found last are all there are.
func stopAll(find func() []int) (found []int) {
	for known := -1; len(found) > known; {
		known = len(found)
		found = find()
		signalEach(found, syscall.SIGSTOP)
	}
	return found
}

// Kill kills the program and its descendants if it still runs, and then its leftovers, as far as the Start demands it.
func (p *Program) Kill() {
	p.killTree()
	p.endLeftovers()
}

func (p *Program) killTree() {
	if p.signalTree(syscall.SIGHUP) {
		p.signalTree(syscall.SIGCONT)
		waitUntil(Grace, p.hasEnded)
	}
	for range attempts {
		stopAll(p.tree)
		if !p.signalTree(syscall.SIGKILL) {
			return
		}
		select {
		case <-p.ended:
			return
		case <-time.After(pause):
		}
	}
}

func (p *Program) signalTree(number syscall.Signal) bool {
	tree := p.tree()
	signalEach(tree, number)
	return len(tree) > 0
}

// tree returns the program and its descendants, or nothing once the program has ended.
func (p *Program) tree() []int {
	children.Lock()
	defer children.Unlock()
	if p.hasEnded() {
		return nil
	}
	found := descendants(p.pid, p.pid)
	return append(found, p.pid)
}

func (p *Program) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

func waitUntil(limit time.Duration, done func() bool) {
	for end := time.Now().Add(limit); !done() && time.Now().Before(end); {
		time.Sleep(pause)
	}
}

// descendants returns the descendants of root, and the members of the session (0: none) with their descendants. root
// itself is not among them.
func descendants(root, session int) []int {
	below := map[int][]int{}
	var found []int
	seen := map[int]bool{root: true, 0: true}
	add := func(pid int) {
		if !seen[pid] {
			seen[pid] = true
			found = append(found, pid)
		}
	}
	for _, one := range processes() {
		below[one.parent] = append(below[one.parent], one.pid)
		if session != 0 && one.session == session {
			add(one.pid)
		}
	}
	for _, pid := range below[root] {
		add(pid)
	}
	for i := 0; i < len(found); i++ {
		for _, pid := range below[found[i]] {
			add(pid)
		}
	}
	return found
}

// processes lists the processes in /proc, without zombies.
func processes() []process {
	folder, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer folder.Close()
	names, err := folder.Readdirnames(-1)
	if err != nil {
		return nil
	}
	var all []process
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + name + "/stat")
		if err != nil {
			continue
		}
		if one, ok := parseStat(pid, stat); ok {
			all = append(all, one)
		}
	}
	return all
}

// parseStat reads a line of /proc/PID/stat. The name in it may contain blanks and parentheses itself, so the fields
// begin behind the last parenthesis.
func parseStat(pid int, stat []byte) (process, bool) {
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 4 || fields[0][0] == 'Z' || fields[0][0] == 'X' {
		return process{}, false
	}
	parent, err := strconv.Atoi(string(fields[1]))
	if err != nil {
		return process{}, false
	}
	session, err := strconv.Atoi(string(fields[3]))
	if err != nil {
		return process{}, false
	}
	return process{pid: pid, parent: parent, session: session}, true
}
