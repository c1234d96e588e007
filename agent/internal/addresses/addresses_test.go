package addresses

import (
	"net/netip"
	"testing"
)

func rules(t *testing.T, restricted bool, allowed, denied []string) Rules {
	t.Helper()
	allow, err := Parse(allowed)
	if err != nil {
		t.Fatal(err)
	}
	deny, err := Parse(denied)
	if err != nil {
		t.Fatal(err)
	}
	return Rules{restricted, allow, deny}
}

func TestNetworksDecideHoweverAnAddressIsWritten(t *testing.T) {
	inside := []string{"10.0.0.0/8", "2001:db8::/32"}
	loopback := []string{"127.0.0.0/8", "::1/128"}
	for _, one := range []struct {
		name            string
		restricted      bool
		allowed, denied []string
		address         string
		want            bool
	}{
		{"no rules", false, nil, nil, "10.0.0.1", true},
		{"nothing allowed", true, nil, nil, "10.0.0.1", false},
		{"allowed", true, inside, nil, "10.255.0.1", true},
		{"not allowed", true, inside, nil, "11.0.0.1", false},
		{"mapped, allowed", true, inside, nil, "::ffff:10.0.0.1", true},
		{"allowed IPv6", true, inside, nil, "2001:db8::5", true},
		{"with a zone", false, nil, []string{"fe80::/10"}, "fe80::1%eth0", false},
		{"denied wins", true, inside, []string{"10.1.0.0/16"}, "10.1.0.1", false},
		{"denied", false, nil, loopback, "127.0.0.9", false},
		{"mapped, denied", false, nil, loopback, "::ffff:127.0.0.1", false},
		{"this machine", false, nil, loopback, "0.0.0.0", false},
		{"this machine, IPv6", false, nil, loopback, "::", false},
		{"this machine, mapped", false, nil, loopback, "::ffff:0.0.0.0", false},
		{"not denied", false, nil, loopback, "128.0.0.1", true},
	} {
		t.Run(one.name, func(t *testing.T) {
			got := rules(t, one.restricted, one.allowed, one.denied).Permits(netip.MustParseAddr(one.address))
			if got != one.want {
				t.Fatalf("Permits(%s) is %v", one.address, got)
			}
		})
	}
}

func TestWhatIsNoNetworkIsRefused(t *testing.T) {
	for _, text := range []string{"", "10.0.0.1", "10.0.0.0/33", "name/8", "fe80::%eth0/64"} {
		if _, err := Parse([]string{text}); err == nil {
			t.Errorf("%q was taken for a network", text)
		}
	}
}
