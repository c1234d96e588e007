//go:build direct

package link

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"testing"

	"containerssh.io/agent/internal/wire"
)

func identity(t *testing.T) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{certificate}, PrivateKey: key}, encoded
}

// gateway accepts one connection and tells what came on it.
func gateway(t *testing.T, settings *tls.Config) (uint16, <-chan string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	came := make(chan string, 1)
	go func() {
		connection, err := listener.Accept()
		if err != nil {
			return
		}
		defer connection.Close()
		first := make([]byte, len(wire.DirectPreamble)+wire.TicketSize)
		if _, err := io.ReadFull(connection, first); err != nil {
			came <- err.Error()
			return
		}
		inner := make([]byte, len(wire.Preamble))
		if _, err := io.ReadFull(tls.Server(connection, settings), inner); err != nil {
			came <- "refused"
			return
		}
		came <- string(first) + string(inner)
	}()
	return uint16(listener.Addr().(*net.TCPAddr).Port), came
}

func TestTheGatewayIsKnownByItsCertificate(t *testing.T) {
	own, _ := identity(t)
	mine, key := identity(t)
	settings := &tls.Config{Certificates: []tls.Certificate{own}, ClientAuth: tls.RequireAnyClientCert}
	for _, right := range []bool{true, false} {
		port, came := gateway(t, settings)
		request := wire.DirectRequest{
			Milliseconds: 5000, Host: "127.0.0.1", Port: port,
			Certificate: string(mine.Certificate[0]), Key: string(key),
		}
		copy(request.Ticket[:], "0123456789abcdef0123456789ABCDEF")
		if right {
			request.Pin = sha256.Sum256(own.Certificate[0])
		}
		link, err := Direct(request)
		if (err == nil) != right {
			t.Fatalf("right %v: %v", right, err)
		}
		wanted := "refused"
		if right {
			wanted = wire.DirectPreamble + "0123456789abcdef0123456789ABCDEF" + wire.Preamble
		}
		if seen := <-came; seen != wanted {
			t.Fatalf("right %v: the gateway saw %q", right, seen)
		}
		if link != nil {
			link.Close()
		}
	}
}

func TestAGatewayThatSaysNothingIsGivenUp(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, key := identity(t)
	port := uint16(listener.Addr().(*net.TCPAddr).Port)
	_, err = Direct(wire.DirectRequest{Milliseconds: 100, Host: "127.0.0.1", Port: port, Key: string(key)})
	if err == nil {
		t.Fatal("connected to nobody")
	}
	if _, err = Direct(wire.DirectRequest{Milliseconds: 100, Host: "127.0.0.1", Port: port, Key: "none"}); err == nil {
		t.Fatal("a key that is none was taken")
	}
}
