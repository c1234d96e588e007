package program

import (
	"strconv"
	"syscall"
)

var signals = map[string]syscall.Signal{
	"ABRT": syscall.SIGABRT, "ALRM": syscall.SIGALRM, "BUS": syscall.SIGBUS, "CONT": syscall.SIGCONT,
	"FPE": syscall.SIGFPE, "HUP": syscall.SIGHUP, "ILL": syscall.SIGILL, "INT": syscall.SIGINT,
	"KILL": syscall.SIGKILL, "PIPE": syscall.SIGPIPE, "PROF": syscall.SIGPROF, "PWR": syscall.SIGPWR,
	"QUIT": syscall.SIGQUIT, "SEGV": syscall.SIGSEGV, "STKFLT": syscall.SIGSTKFLT, "STOP": syscall.SIGSTOP,
	"SYS": syscall.SIGSYS, "TERM": syscall.SIGTERM, "TRAP": syscall.SIGTRAP, "TSTP": syscall.SIGTSTP,
	"USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2, "VTALRM": syscall.SIGVTALRM, "XCPU": syscall.SIGXCPU,
	"XFSZ": syscall.SIGXFSZ, "IO": syscall.SIGIO,
}

var names = func() map[syscall.Signal]string {
	byNumber := map[syscall.Signal]string{}
	for name, number := range signals {
		byNumber[number] = name
	}
	return byNumber
}()

// SignalName is the name without SIG; real-time signals have a number in it.
func SignalName(number syscall.Signal) string {
	if name, known := names[number]; known {
		return name
	}
	return "RT" + strconv.Itoa(int(number))
}
