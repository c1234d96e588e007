package forward

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"

	"containerssh.io/agent/internal/wire"
)

// refusal is an error with an errno for the gateway and a text for the user.
type refusal struct {
	number syscall.Errno
	text   string
}

func (r refusal) Error() string { return r.text }

func (r refusal) Unwrap() error { return r.number }

// dialTCP resolves names as configured in the container, and checks each address before it connects.
func dialTCP(request wire.ConnectRequest) (net.Conn, error) {
	if strings.ContainsRune(request.Host, 0) {
		return nil, syscall.EINVAL
	}
	ctx, cancel := context.WithTimeout(context.Background(), request.Within)
	defer cancel()
	forbidden := false
	dialer := net.Dialer{Control: func(_, address string, _ syscall.RawConn) error {
		target, err := netip.ParseAddrPort(address)
		if err == nil && permits(request.Rules, target.Addr()) {
			return nil
		}
		forbidden = true
		return syscall.EPERM
	}}
	// One address after another: Control sets forbidden and must not run concurrently.
	dialer.FallbackDelay = -1
	hosts := []string{request.Host}
	if request.Host == "" || strings.EqualFold(strings.TrimSuffix(request.Host, "."), "localhost") {
		// An image without /etc/hosts cannot resolve it.
		hosts = []string{"127.0.0.1", "::1"}
	}
	var failed error
	for _, host := range hosts {
		connection, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(request.Port))))
		if err == nil {
			return connection, nil
		}
		if failed == nil {
			failed = err
		}
	}
	return nil, explain(failed, forbidden)
}

func explain(err error, forbidden bool) error {
	var name *net.DNSError
	var number syscall.Errno
	var timeout net.Error
	switch {
	case forbidden:
		return refusal{syscall.EPERM, "the address is not allowed"}
	case errors.As(err, &name) && name.IsNotFound:
		return refusal{syscall.ENOENT, "there is no such host"}
	case errors.As(err, &number) && number != 0:
		return refusal{number, number.Error()}
	case errors.As(err, &timeout) && timeout.Timeout():
		return refusal{syscall.ETIMEDOUT, syscall.ETIMEDOUT.Error()}
	case name != nil:
		return refusal{syscall.EHOSTUNREACH, "the name cannot be resolved"}
	}
	return refusal{syscall.EHOSTUNREACH, "cannot connect to this address"}
}

// permits applies the rules as the gateway does: IPv4-mapped addresses count as IPv4, unspecified ones as loopback.
func permits(rules wire.Rules, address netip.Addr) bool {
	address = address.Unmap().WithZone("")
	if address.IsUnspecified() {
		if address.Is4() {
			address = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		} else {
			address = netip.IPv6Loopback()
		}
	}
	return !contains(rules.Denied, address) && (!rules.Limited || contains(rules.Allowed, address))
}

func contains(networks []netip.Prefix, address netip.Addr) bool {
	for _, network := range networks {
		if network.Contains(address) {
			return true
		}
	}
	return false
}

func dialUnix(request wire.ConnectRequest) (net.Conn, error) {
	path, err := socketPath(request.Path)
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{Timeout: request.Within}
	connection, err := dialer.Dial("unix", path)
	if err != nil {
		return nil, explain(err, false)
	}
	return connection, nil
}

// socketPath makes sure that a path names a file: a leading NUL or @ would select Linux's abstract namespace.
func socketPath(path string) (string, error) {
	if path == "" || strings.ContainsRune(path, 0) {
		return "", syscall.EINVAL
	}
	if path[0] == '@' {
		path = "." + string(os.PathSeparator) + path
	}
	return path, nil
}
