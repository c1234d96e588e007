package program

import (
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"
)

func TestWaitingTakesTheArgumentsOfTheOlderAgent(t *testing.T) {
	waiting, err := ParseWaiting([]string{"--signal", "INT", "--message", "bye", "--signal", "TERM"})
	if err != nil || len(waiting.Signals) != 2 || waiting.Signals[1] != syscall.SIGTERM || waiting.Message != "bye" {
		t.Fatal(waiting, err)
	}
	for _, wrong := range [][]string{{}, {"--signal"}, {"--signal", "NONE"}, {"--message", "x"}, {"--other", "INT"}} {
		if _, err := ParseWaiting(wrong); err == nil {
			t.Fatal("accepted", wrong)
		}
	}
}

func TestWaitingEndsWithItsSignal(t *testing.T) {
	// Before somebody listens the signal would end this process.
	signal.Ignore(syscall.SIGUSR2)
	ended := make(chan struct{})
	go func() {
		Waiting{Signals: []os.Signal{syscall.SIGUSR2}}.Wait()
		close(ended)
	}()
	deadline := time.After(10 * time.Second)
	for {
		select {
		case <-ended:
			return
		case <-deadline:
			t.Fatal("the signal was not noticed")
		case <-time.After(10 * time.Millisecond):
			_ = syscall.Kill(os.Getpid(), syscall.SIGUSR2)
		}
	}
}
