package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// outcome is what came of it, for the test to judge.
type outcome map[string]any

func tell(what outcome, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	return 0, json.NewEncoder(os.Stdout).Encode(what)
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// forwards asks for a port and a socket of the container that lead here, and connects to them.
func forwards(client *ssh.Client, data []byte) (outcome, error) {
	port, err := client.Listen("tcp", "localhost:0")
	if err != nil {
		return nil, err
	}
	socket, err := client.ListenUnix("/tmp/go.sock")
	if err != nil {
		return nil, err
	}
	told := outcome{}
	for _, listener := range []net.Listener{port, socket} {
		network, address := listener.Addr().Network(), listener.Addr().String()
		if network == "tcp" {
			address = fmt.Sprintf("localhost:%d", listener.Addr().(*net.TCPAddr).Port)
		}
		go echo(listener)
		connection, err := client.Dial(network, address)
		if err != nil {
			return nil, err
		}
		back, err := talk(connection, data)
		if err != nil {
			return nil, err
		}
		told[network] = digest(back)
		if err := listener.Close(); err != nil {
			return nil, err
		}
		_, err = client.Dial(network, address)
		var refused *ssh.OpenChannelError
		if !errors.As(err, &refused) {
			return nil, fmt.Errorf("after the listener was closed: %v", err)
		}
		told[network+" refused"] = uint32(refused.Reason)
	}
	return told, nil
}

func echo(listener net.Listener) {
	for {
		connection, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			io.Copy(connection, connection)
			connection.(interface{ CloseWrite() error }).CloseWrite()
		}()
	}
}

// talk sends data and the end of file, and reads what comes back until its end.
func talk(connection net.Conn, data []byte) ([]byte, error) {
	go func() {
		io.Copy(connection, bytes.NewReader(data))
		connection.(interface{ CloseWrite() error }).CloseWrite()
	}()
	back, err := io.ReadAll(connection)
	connection.Close()
	return back, err
}

// files sends a file, renames it over another one and fetches it, many requests at once.
func files(client *ssh.Client, data []byte) (outcome, error) {
	remote, err := sftp.NewClient(client, sftp.UseConcurrentWrites(true), sftp.UseConcurrentReads(true))
	if err != nil {
		return nil, err
	}
	defer remote.Close()
	if err := remote.MkdirAll("/tmp/g/deep"); err != nil {
		return nil, err
	}
	for _, name := range []string{"/tmp/g/deep/a", "/tmp/g/deep/b"} {
		file, err := remote.Create(name)
		if err != nil {
			return nil, err
		}
		if _, err := file.ReadFrom(bytes.NewReader(data)); err != nil {
			return nil, err
		}
		if err := file.Close(); err != nil {
			return nil, err
		}
	}
	told := outcome{}
	told["rename over"] = remote.Rename("/tmp/g/deep/a", "/tmp/g/deep/b") != nil
	if err := remote.PosixRename("/tmp/g/deep/a", "/tmp/g/deep/b"); err != nil {
		return nil, err
	}
	file, err := remote.Open("/tmp/g/deep/b")
	if err != nil {
		return nil, err
	}
	var back bytes.Buffer
	if _, err := file.WriteTo(&back); err != nil {
		return nil, err
	}
	told["back"] = digest(back.Bytes())
	if err := file.Close(); err != nil {
		return nil, err
	}
	var names []string
	for walk := remote.Walk("/tmp/g"); walk.Step(); {
		names = append(names, walk.Path())
	}
	told["names"] = names
	space, err := remote.StatVFS("/tmp")
	if err != nil {
		return nil, err
	}
	told["space"] = space.TotalSpace() > 0
	_, err = remote.Stat("/tmp/g/deep/a")
	told["missing"] = errors.Is(err, os.ErrNotExist)
	return told, remote.RemoveAll("/tmp/g")
}
