// An SSH client of Go's x/crypto for tests: runs one program, carries its streams, ends with its status.
//
//	client -port N -user NAME -password TEXT [-pty] [-rekey BYTES] [command]
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"golang.org/x/crypto/ssh"
)

func main() {
	port := flag.Int("port", 22, "")
	user := flag.String("user", "", "")
	password := flag.String("password", "", "")
	pty := flag.Bool("pty", false, "")
	rekey := flag.Uint64("rekey", 0, "")
	flag.Parse()
	status, err := run(*port, *user, *password, *pty, *rekey, flag.Arg(0))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 255
	}
	os.Exit(status)
}

func run(port int, user, password string, pty bool, rekey uint64, command string) (int, error) {
	client, err := ssh.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), &ssh.ClientConfig{
		Config:          ssh.Config{RekeyThreshold: rekey},
		User:            user,
		Auth:            []ssh.AuthMethod{ssh.Password(password)},
		HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		return 0, err
	}
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		return 0, err
	}
	session.Stdin, session.Stdout, session.Stderr = os.Stdin, os.Stdout, os.Stderr
	if pty {
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
