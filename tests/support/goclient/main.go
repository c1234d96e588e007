// An SSH client of Go's x/crypto for tests: runs one program, carries its streams, ends with its status.
//
//	client -port N -user NAME -password TEXT [-pty] [-rekey BYTES] [-signal NAME] [-agent SOCKET] [-asking] [command]
//	client -port N -user NAME -password TEXT -forwards|-files
//
// The second takes data from standard input, and tells in JSON what came of them.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// wishes are what the program is run with.
type wishes struct {
	pty    bool
	signal string
	agent  string
	asking bool
}

func main() {
	port := flag.Int("port", 22, "")
	user := flag.String("user", "", "")
	password := flag.String("password", "", "")
	var wanted wishes
	flag.BoolVar(&wanted.pty, "pty", false, "")
	flag.StringVar(&wanted.signal, "signal", "", "sent after the first output")
	flag.StringVar(&wanted.agent, "agent", "", "the socket of an agent to forward")
	flag.BoolVar(&wanted.asking, "asking", false, "ask ten times a second whether the server lives")
	rekey := flag.Uint64("rekey", 0, "")
	forwarding := flag.Bool("forwards", false, "")
	transferring := flag.Bool("files", false, "")
	flag.Parse()
	client, err := dial(*port, *user, *password, *rekey)
	var status int
	switch {
	case err != nil:
	case *forwarding:
		status, err = with(client, forwards)
	case *transferring:
		status, err = with(client, files)
	default:
		status, err = run(client, wanted, flag.Arg(0))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 255
	}
	os.Exit(status)
}

func dial(port int, user, password string, rekey uint64) (*ssh.Client, error) {
	return ssh.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), &ssh.ClientConfig{
		Config:          ssh.Config{RekeyThreshold: rekey},
		User:            user,
		Auth:            []ssh.AuthMethod{ssh.Password(password)},
		HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
}

func with(client *ssh.Client, do func(*ssh.Client, []byte) (outcome, error)) (int, error) {
	defer client.Close()
	data, err := io.ReadAll(os.Stdin)
	if err != nil {
		return 0, err
	}
	return tell(do(client, data))
}

func run(client *ssh.Client, wanted wishes, command string) (int, error) {
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		return 0, err
	}
	session.Stdin, session.Stdout, session.Stderr = os.Stdin, os.Stdout, os.Stderr
	if wanted.signal != "" {
		session.Stdout = &signalling{session: session, name: ssh.Signal(wanted.signal)}
	}
	if wanted.agent != "" {
		if err := agent.ForwardToRemote(client, wanted.agent); err != nil {
			return 0, err
		}
		if err := agent.RequestAgentForwarding(session); err != nil {
			return 0, err
		}
	}
	if wanted.asking {
		go ask(client)
	}
	if wanted.pty {
		if err := session.RequestPty("xterm", 33, 99, ssh.TerminalModes{ssh.ECHO: 0}); err != nil {
			return 0, err
		}
	}
	if command == "" {
		err = session.Shell()
	} else {
		err = session.Start(command)
	}
	if err == nil {
		err = session.Wait()
	}
	var exit *ssh.ExitError
	if errors.As(err, &exit) {
		return exit.ExitStatus(), nil
	}
	return 0, err
}

// signalling passes output on, and answers the first with a signal.
type signalling struct {
	session *ssh.Session
	name    ssh.Signal
	sent    bool
}

func (s *signalling) Write(data []byte) (int, error) {
	count, err := os.Stdout.Write(data)
	if err == nil && !s.sent {
		s.sent = true
		err = s.session.Signal(s.name)
	}
	return count, err
}

func ask(client *ssh.Client) {
	for {
		if _, _, err := client.SendRequest("keepalive@openssh.com", true, nil); err != nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}
