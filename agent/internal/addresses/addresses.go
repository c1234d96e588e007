// Package addresses judges where a forwarded connection may go once its name has been resolved.
package addresses

import "net/netip"

// Rules are the gateway's; it judges names by itself.
type Rules struct {
	Restricted bool           // only addresses in Allowed
	Allowed    []netip.Prefix // IPv4 networks in their own form
	Denied     []netip.Prefix // wins
}

// Permits tells whether a connection to address may be made.
func (r Rules) Permits(address netip.Addr) bool {
	address = plain(address)
	if within(r.Denied, address) {
		return false
	}
	return !r.Restricted || within(r.Allowed, address)
}

// Parse reads networks such as 10.0.0.0/8.
func Parse(texts []string) ([]netip.Prefix, error) {
	networks := make([]netip.Prefix, 0, len(texts))
	for _, text := range texts {
		network, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, err
		}
		networks = append(networks, network)
	}
	return networks, nil
}

// plain is the address that a connection really reaches: without a zone, an IPv4 address in its own form, and for the
// unspecified address, which the system takes for the machine itself, the loopback address.
func plain(address netip.Addr) netip.Addr {
	address = address.WithZone("").Unmap()
	if !address.IsUnspecified() {
		return address
	}
	if address.Is4() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

func within(networks []netip.Prefix, address netip.Addr) bool {
	for _, network := range networks {
		if network.Contains(address) {
			return true
		}
	}
	return false
}
