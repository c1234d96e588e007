package main

import (
	"runtime"
	"sync"
)

const spareThreads = 4

// reserveThreads creates threads for later. Go needs another thread when its others are in system calls, and ends the
// program if it cannot create one, as when a guest has reached the container's limit of processes.
func reserveThreads() {
	var created, leave sync.WaitGroup
	created.Add(spareThreads)
	leave.Add(1)
	for range spareThreads {
		go func() {
			runtime.LockOSThread()
			created.Done()
			leave.Wait()
			// Without its lock the thread is kept, idle, when the goroutine ends.
			runtime.UnlockOSThread()
		}()
	}
	created.Wait()
	leave.Done()
}
