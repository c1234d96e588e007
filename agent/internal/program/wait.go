package program

import (
	"fmt"
	"os"
	"os/signal"
)

// Waiting holds the options of wait-signal: the signals to wait for, and a message to print when one arrives.
type Waiting struct {
	Signals []os.Signal
	Message string
}

// ParseWaiting reads the arguments of wait-signal, which are those of the agent of ContainerSSH 0.5 and 0.6.
func ParseWaiting(arguments []string) (Waiting, error) {
	var waiting Waiting
	for len(arguments) > 0 {
		if len(arguments) < 2 {
			return waiting, fmt.Errorf("%s needs a value", arguments[0])
		}
		switch name, value := arguments[0], arguments[1]; name {
		case "--signal":
			number, known := signals[value]
			if !known {
				return waiting, fmt.Errorf("unsupported signal: %s", value)
			}
			waiting.Signals = append(waiting.Signals, number)
		case "--message":
			waiting.Message = value
		default:
			return waiting, fmt.Errorf("invalid parameter: %s", name)
		}
		arguments = arguments[2:]
	}
	if len(waiting.Signals) == 0 {
		return waiting, fmt.Errorf("no --signal was given")
	}
	return waiting, nil
}

// Wait returns when one of the signals has arrived. Until then it reaps orphaned processes, as process 1 has to.
func (w Waiting) Wait() {
	came := make(chan os.Signal, 1)
	signal.Notify(came, w.Signals...)
	Adopt()
	<-came
	fmt.Print(w.Message)
}
