//go:build direct

package link

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strconv"
	"syscall"
	"time"

	"containerssh.io/agent/internal/wire"
)

const (
	tcpUserTimeout             = 18 // TCP_USER_TIMEOUT, which package syscall does not name
	unacknowledgedMilliseconds = 60_000
)

// Direct connects to the gateway over the network and returns the link over that connection. The gateway's certificate
// must match request.Pin.
func Direct(request wire.DirectRequest) (Link, error) {
	key, err := x509.ParsePKCS8PrivateKey([]byte(request.Key))
	if err != nil {
		return nil, err
	}
	settings := &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{{Certificate: [][]byte{[]byte(request.Certificate)}, PrivateKey: key}},
		// The gateway's certificate is self-signed and pinned instead.
		InsecureSkipVerify:     true,
		VerifyConnection:       pinned(request.Pin),
		SessionTicketsDisabled: true,
	}
	deadline := time.Now().Add(time.Duration(request.Milliseconds) * time.Millisecond)
	dialer := net.Dialer{Deadline: deadline, Control: noticeSilence}
	connection, err := dialer.Dial("tcp", net.JoinHostPort(request.Host, strconv.Itoa(int(request.Port))))
	if err != nil {
		return nil, err
	}
	_ = connection.SetDeadline(deadline)
	encrypted := tls.Client(connection, settings)
	_, err = connection.Write(append([]byte(wire.DirectPreamble), request.Ticket[:]...))
	if err == nil {
		err = encrypted.Handshake()
	}
	var framed Link
	if err == nil {
		framed, err = Frame(encrypted, encrypted)
	}
	if err == nil {
		err = connection.SetDeadline(time.Time{})
	}
	if err != nil {
		connection.Close()
		return nil, err
	}
	return framed, nil
}

// noticeSilence makes the kernel close the connection when the gateway acknowledges nothing for a minute. An idle
// gateway is probed by keep-alives, which the dialer enables.
func noticeSilence(_, _ string, connection syscall.RawConn) error {
	return connection.Control(func(descriptor uintptr) {
		_ = syscall.SetsockoptInt(int(descriptor), syscall.IPPROTO_TCP, tcpUserTimeout, unacknowledgedMilliseconds)
	})
}

func pinned(pin [sha256.Size]byte) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 || sha256.Sum256(state.PeerCertificates[0].Raw) != pin {
			return errors.New("the certificate is not the gateway's")
		}
		return nil
	}
}
