package forward

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"containerssh.io/agent/internal/wire"
)

const (
	firstDisplay = 10 // as with other servers, since lower numbers may be real displays
	lastDisplay  = 999
	displayPorts = 6000
	maxCookie    = 1024
	// Families in Xauthority entries: the machine with the given name, and any machine.
	familyLocal = 256
	familyWild  = 65535
)

// listenAgent opens the socket of the user's ssh-agent.
func (f *Forwards) listenAgent() (*listener, error) {
	path, err := f.place("agent")
	if err != nil {
		return nil, err
	}
	opened, err := listenUnix(path)
	if err != nil {
		return nil, err
	}
	opened.environment = []string{"SSH_AUTH_SOCK=" + path}
	return opened, nil
}

// listenX11 listens on a free display and writes the cookie to an Xauthority file, so the image needs no xauth.
func (f *Forwards) listenX11(request wire.ListenRequest) (*listener, error) {
	cookie, err := hex.DecodeString(request.Cookie)
	if err != nil || len(cookie) > maxCookie || len(request.Protocol) > maxCookie {
		return nil, refusal{syscall.EINVAL, "the X11 cookie is invalid"}
	}
	opened, number, host, err := f.display()
	if err != nil {
		return nil, err
	}
	opened.once = request.Once
	opened.environment = []string{fmt.Sprintf("DISPLAY=%s:%d.%d", host, number, request.Screen)}
	if request.Protocol == "" {
		return opened, nil
	}
	path, err := f.place("xauth")
	if err == nil {
		err = writeOnce(path, authority(number, request.Protocol, cookie))
	}
	if err != nil {
		opened.close()
		return nil, err
	}
	opened.files = []string{path}
	opened.environment = append(opened.environment, "XAUTHORITY="+path)
	return opened, nil
}

// display listens on the first free display: on loopback, or without loopback on an abstract unix socket.
func (f *Forwards) display() (*listener, int, string, error) {
	f.places.Lock()
	defer f.places.Unlock()
	loopback, err := bindAddresses("localhost")
	if err != nil {
		return nil, 0, "", err
	}
	for number := firstDisplay; number <= lastDisplay; number++ {
		opened, err := bindAll(loopback, uint16(displayPorts+number))
		if err == nil {
			opened.port = uint16(number)
			return opened, number, "localhost", nil
		}
		if absent(err) {
			var socket net.Listener
			// X libraries try this socket before the one in the file system.
			if socket, err = net.Listen("unix", "@/tmp/.X11-unix/X"+strconv.Itoa(number)); err == nil {
				return &listener{sockets: []net.Listener{socket}, port: uint16(number)}, number, "", nil
			}
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return nil, 0, "", err
		}
	}
	return nil, 0, "", refusal{syscall.EADDRINUSE, "all displays are in use"}
}

// place returns a new path in a folder that only the agent's user can enter. The folder is created when first needed.
func (f *Forwards) place(name string) (string, error) {
	f.places.Lock()
	defer f.places.Unlock()
	f.mutex.Lock()
	folder, closed := f.folder, f.closed
	f.connection++
	number := f.connection
	f.mutex.Unlock()
	if closed {
		return "", syscall.ECANCELED
	}
	if folder == "" {
		made, err := privateFolder()
		if err != nil {
			return "", err
		}
		folder = made
		f.mutex.Lock()
		f.folder, closed = folder, f.closed
		f.mutex.Unlock()
		if closed {
			os.RemoveAll(folder)
			return "", syscall.ECANCELED
		}
	}
	return filepath.Join(folder, name+"."+strconv.Itoa(int(number))), nil
}

// privateFolder creates a folder with mode 0700. It tries several places, since the root file system may be read-only.
func privateFolder() (string, error) {
	for _, parent := range []string{os.TempDir(), "/tmp", "/dev/shm", "/run", "/var/tmp", "/dev"} {
		if folder, err := os.MkdirTemp(parent, "ssh-"); err == nil {
			return folder, nil
		}
	}
	return "", refusal{syscall.EROFS, "the container has no writable folder"}
}

func writeOnce(path string, content []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	return errors.Join(err, file.Close())
}

// authority returns an Xauthority file for one display (Xau's manual, AuDispose(3)). One entry is for this machine's
// name, which most programs look up, and one for any machine, in case the name changes.
func authority(display int, protocol string, cookie []byte) []byte {
	number := strconv.Itoa(display)
	host, _ := os.Hostname()
	var file []byte
	if host != "" {
		file = authorityEntry(file, familyLocal, host, number, protocol, cookie)
	}
	return authorityEntry(file, familyWild, "", number, protocol, cookie)
}

func authorityEntry(file []byte, family uint16, address, number, protocol string, cookie []byte) []byte {
	file = binary.BigEndian.AppendUint16(file, family)
	for _, field := range []string{address, number, protocol, string(cookie)} {
		file = binary.BigEndian.AppendUint16(file, uint16(len(field)))
		file = append(file, field...)
	}
	return file
}
