// Package program starts programs, with a terminal or with pipes, and ends them.
package program

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
)

const prSetChildSubreaper = 36

// children knows who of this process's children is waited for; everybody else who turns up is an orphan, and reaped.
// While the mutex is held no child is reaped, so a process id taken from running stays the one it was.
var children = struct {
	sync.Mutex
	running map[int]*Program
}{running: map[int]*Program{}}

// Adopt makes orphans of what is started here children of this process, and reaps them. Call it once, first.
func Adopt() {
	// Fails on kernels before 3.4 only; process 1 gets the orphans anyway.
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
