//go:build !direct

package link

import (
	"errors"

	"containerssh.io/agent/internal/wire"
)

// Direct needs the build with TLS, which is nearly twice as large.
func Direct(wire.DirectRequest) (Link, error) {
	return nil, errors.New("this agent is built without TLS")
}
