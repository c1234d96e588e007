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

// keepDescriptors makes sure that programs get their standard streams and nothing else: whoever started the agent may
// have left descriptors open, such as the other ends of the link.
func keepDescriptors() {
	if _, _, failure := syscall.Syscall(sysCloseRange, 3, 1<<31-1, closeRangeCloexec); failure == 0 {
		return
	}
	// Kernels before 5.11, and sandboxes.
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
