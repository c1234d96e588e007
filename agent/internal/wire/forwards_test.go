package wire

import (
	"bytes"
	"testing"
	"time"
)

func connectPayload() []byte {
	payload := append(ref(3), 0, 0, 0x13, 0x88)
	payload = AppendText(payload, "db.internal")
	payload = append(payload, 0x15, 0x38, 1)
	payload = append(payload, texts("10.0.0.0/8")...)
	return append(payload, texts("10.1.0.0/16", "fd00::/8")...)
}

func TestAConnectHoldsWhatWasAskedFor(t *testing.T) {
	request, err := DecodeConnectTCP(connectPayload())
	if err != nil || request.Host != "db.internal" || request.Port != 5432 || request.Within != 5*time.Second {
		t.Fatal(request, err)
	}
	if rules := request.Rules; !rules.Limited || len(rules.Allowed) != 1 || len(rules.Denied) != 2 {
		t.Fatal(rules)
	}
}

func TestANetworkThatIsNoneIsMalformed(t *testing.T) {
	for _, text := range []string{"", "10.0.0.1", "10.0.0.0/33", "name/8", "fe80::%eth0/64"} {
		payload := append(ref(3), 0, 0, 0, 1)
		payload = append(AppendText(payload, "host"), 0, 1, 1)
		payload = append(append(payload, texts(text)...), texts()...)
		if _, err := DecodeConnectTCP(payload); err == nil {
			t.Errorf("%q was taken for a network", text)
		}
	}
}

func TestEveryRequestIsReadWholeOrNotAtAll(t *testing.T) {
	listenTCP := append(AppendText(nil, "localhost"), 0, 80)
	x11 := append(AppendText(AppendText(nil, "MIT-MAGIC-COOKIE-1"), "00ff"), 0, 0, 0, 1, 1)
	for kind, whole := range map[Type][]byte{ListenTCP: listenTCP, ListenUnix: AppendText(nil, "/x"), ListenX11: x11} {
		if _, err := DecodeListen(kind, whole); err != nil {
			t.Fatal(kind, err)
		}
		for length := range whole {
			if _, err := DecodeListen(kind, whole[:length]); err == nil {
				t.Fatal(kind, length)
			}
		}
		if _, err := DecodeListen(kind, append(bytes.Clone(whole), 0)); err == nil {
			t.Fatal(kind, "something was left")
		}
	}
	if _, err := DecodeListen(ListenAgent, []byte{0}); err == nil {
		t.Fatal("something was left")
	}
}

func FuzzForwards(f *testing.F) {
	f.Add(connectPayload())
	f.Add(append(AppendText(nil, "localhost"), 0, 80))
	f.Fuzz(func(t *testing.T, payload []byte) {
		if request, err := DecodeConnectTCP(payload); err == nil {
			for _, network := range append(request.Rules.Allowed, request.Rules.Denied...) {
				if !network.IsValid() {
					t.Fatal(network)
				}
			}
		}
		_, _ = DecodeConnectUnix(payload)
		for _, kind := range []Type{ListenTCP, ListenUnix, ListenAgent, ListenX11} {
			_, _ = DecodeListen(kind, payload)
		}
		_, _ = DecodeAccept(payload)
		_, _ = DecodeDecline(payload)
		_, _ = DecodeUnlisten(payload)
	})
}
