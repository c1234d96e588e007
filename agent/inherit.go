package main

import (
	"os"
	"strconv"
	"syscall"
)

const (
	sysCloseRange     = 436
	closeRangeCloexec = 4
)

// keepDescriptors sets close-on-exec on all descriptors but the standard streams. The process that started the agent
// may have left others open, such as the link's, which programs must not inherit.
func keepDescriptors() {
	if _, _, failure := syscall.Syscall(sysCloseRange, 3, 1<<31-1, closeRangeCloexec); failure == 0 {
		return
	}
	// Kernels before 5.11 and some sandboxes do not support the call.
	folder, err := os.Open("/proc/self/fd")
	if err != nil {
		return
	}
	defer folder.Close()
	names, _ := folder.Readdirnames(-1)
	for _, name := range names {
		if descriptor, err := strconv.Atoi(name); err == nil && descriptor > 2 {
			syscall.CloseOnExec(descriptor)
		}
	}
}
