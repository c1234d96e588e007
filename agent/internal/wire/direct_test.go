package wire

import (
	"bytes"
	"testing"
)

func directPayload() []byte {
	payload := []byte{0, 0, 0, 9}
	payload = AppendText(payload, "192.0.2.1")
	payload = append(payload, 1, 2)
	payload = append(payload, bytes.Repeat([]byte{3}, 32)...)
	payload = append(payload, bytes.Repeat([]byte{4}, 32)...)
	return AppendText(AppendText(payload, "certificate"), "key")
}

func TestDirectIsDecoded(t *testing.T) {
	found, err := DecodeDirect(directPayload())
	if err != nil {
		t.Fatal(err)
	}
	if found.Milliseconds != 9 || found.Host != "192.0.2.1" || found.Port != 258 || found.Ticket[31] != 3 ||
		found.Pin[31] != 4 || found.Certificate != "certificate" || found.Key != "key" {
		t.Fatalf("decoded as %+v", found)
	}
}

func FuzzDirect(f *testing.F) {
	f.Add(directPayload())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, payload []byte) {
		if found, err := DecodeDirect(payload); err == nil && len(payload) != 82+len(found.Host)+len(found.Certificate)+len(found.Key) {
			t.Fatalf("%d bytes were read as %+v", len(payload), found)
		}
	})
}
