// Package program starts and ends programs that are connected to a terminal or to pipes.
package program

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
)

const prSetChildSubreaper = 36

// children holds the running programs by process id. Other child processes are orphans and are only reaped. No child is
// reaped while the mutex is held, so a process id in running cannot be reused meanwhile.
var children = struct {
	sync.Mutex
	running map[int]*Program
}{running: map[int]*Program{}}

// Adopt makes this process the parent of orphaned descendants, and reaps all children. Call it once, before any Start.
func Adopt() {
	// Fails only before Linux 3.4; process 1 adopts orphans anyway.
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0)
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, syscall.SIGCHLD)
	go func() {
		for {
			for reapOne() {
			}
			<-changes
		}
	}()
}

func reapOne() bool {
	children.Lock()
	defer children.Unlock()
	var status syscall.WaitStatus
	pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
	if err == syscall.EINTR {
		return true
	}
	if err != nil || pid <= 0 {
		return false
	}
	if program := children.running[pid]; program != nil {
		delete(children.running, pid)
		program.status = status
		close(program.ended)
	}
	return true
}
