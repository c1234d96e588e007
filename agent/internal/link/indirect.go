//go:build !direct

package link

import (
	"errors"

	"containerssh.io/agent/internal/wire"
)

// Direct is for agents that are built with TLS, which nearly doubles their size.
func Direct(wire.DirectRequest) (Link, error) {
	return nil, errors.New("this agent is built without TLS")
}
