// The agent runs inside a container and serves the gateway's requests there; docs/agent.md describes it.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"containerssh.io/agent/internal/files"
	"containerssh.io/agent/internal/forward"
	"containerssh.io/agent/internal/link"
	"containerssh.io/agent/internal/program"
	"containerssh.io/agent/internal/serve"
	"containerssh.io/agent/internal/sftp"
)

const usage = `usage: agent serve --socket PATH   dial the gateway's socket and serve
       agent serve --stdio         serve on standard input and output
       agent sftp [OPTIONS]        serve SFTP on standard input and output, report on standard error
       agent install FOLDER        copy the agent to FOLDER/agent
       agent wait-signal --signal NAME... [--message TEXT]
                                   wait for a signal, and reap orphaned processes
       agent version               print the version
`

func main() {
	arguments := os.Args[1:]
	switch {
	case len(arguments) == 3 && arguments[0] == "serve" && arguments[1] == "--socket":
		run(func() (link.Link, error) { return link.Dial(arguments[2]) })
	case len(arguments) == 2 && arguments[0] == "serve" && arguments[1] == "--stdio":
		run(standardStreams)
	case len(arguments) >= 1 && arguments[0] == "sftp":
		serveFiles(arguments[1:])
	case len(arguments) == 2 && arguments[0] == "install":
		fail("install", files.Install(arguments[1]))
	case len(arguments) >= 1 && arguments[0] == "wait-signal":
		waiting, err := program.ParseWaiting(arguments[1:])
		fail("wait-signal", err)
		waiting.Wait()
	case len(arguments) == 1 && arguments[0] == "version":
		fmt.Println(serve.Build)
	default:
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
}

// fail reports err, if any, and exits.
func fail(mode string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "agent %s: %v\n", mode, err)
		os.Exit(1)
	}
}

// standardStreams moves the link to descriptors that no other code uses: nothing but frames may be written to it.
func standardStreams() (link.Link, error) {
	input, err := syscall.Dup(0)
	if err != nil {
		return nil, err
	}
	output, err := syscall.Dup(1)
	if err != nil {
		return nil, err
	}
	syscall.CloseOnExec(input)
	syscall.CloseOnExec(output)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err == nil {
		_ = syscall.Dup3(int(null.Fd()), 0, 0)
		null.Close()
	}
	_ = syscall.Dup3(2, 1, 0)
	return link.Frame(os.NewFile(uintptr(input), "input"), os.NewFile(uintptr(output), "output"))
}

func run(connect func() (link.Link, error)) {
	keepDescriptors()
	// The agent computes little. With one processor, a keystroke does not wake a second thread.
	runtime.GOMAXPROCS(1)
	reserveThreads()
	program.Adopt()
	// Caught signals, unlike ignored ones, have their default handlers again in children. SIGPIPE is among them so that
	// a broken pipe is an error and does not end the agent.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT)
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE, syscall.SIGHUP)

	ended := make(chan error, 1)
	go func() {
		connection, err := connect()
		if err == nil {
			err = serve.Serve(connection)
			connection.Close()
		}
		ended <- err
	}()
	var err error
	select {
	case err = <-ended:
	case <-stop:
		forward.CleanUp()
	}
	program.KillAll()
	if err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(1)
	}
}

// serveFiles serves SFTP. After the arguments are read, standard error carries only lines of JSON.
func serveFiles(arguments []string) {
	rules, err := sftp.Parse(arguments)
	if err != nil {
		fmt.Fprintln(os.Stderr, "agent sftp:", err)
		os.Exit(2)
	}
	// Requests are handled one after another; only the garbage collector would use a second processor.
	runtime.GOMAXPROCS(1)
	reserveThreads()
	// If the client has gone, writing fails; it must not end the process.
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP)
	if sftp.Serve(0, 1, 2, rules) != nil {
		os.Exit(1)
	}
}
