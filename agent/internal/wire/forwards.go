package wire

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// Rules restrict the addresses that may be connected to. Without Limited, every address is allowed unless denied.
type Rules struct {
	Limited         bool
	Allowed, Denied []netip.Prefix
}

// ConnectRequest asks for a connection to a TCP port, or to a unix socket by its path.
type ConnectRequest struct {
	Stream StreamRef
	Within time.Duration
	Host   string
	Port   uint16
	Rules  Rules
	Path   string
}

func (d *Decoder) within() time.Duration { return time.Duration(d.Word()) * time.Millisecond }

func (d *Decoder) networks() []netip.Prefix {
	var networks []netip.Prefix
	for _, text := range d.Texts() {
		network, err := netip.ParsePrefix(text)
		if err != nil {
			d.failed = true
			return nil
		}
		networks = append(networks, network)
	}
	return networks
}

// DecodeConnectTCP reads a ConnectTCP.
func DecodeConnectTCP(payload []byte) (ConnectRequest, error) {
	d := Decode(payload)
	request := ConnectRequest{Stream: d.Stream(), Within: d.within(), Host: d.Text(), Port: d.Short()}
	request.Rules = Rules{Limited: d.Byte() != 0, Allowed: d.networks(), Denied: d.networks()}
	return request, d.Done()
}

// DecodeConnectUnix reads a ConnectUnix.
func DecodeConnectUnix(payload []byte) (ConnectRequest, error) {
	d := Decode(payload)
	request := ConnectRequest{Stream: d.Stream(), Within: d.within(), Path: d.Text()}
	return request, d.Done()
}

// ListenRequest asks for a listener; which fields it has depends on its type.
type ListenRequest struct {
	Host     string // ListenTCP: as in RFC 4254 section 7.1
	Port     uint16
	Path     string // ListenUnix
	Protocol string // ListenX11
	Cookie   string
	Screen   uint32
	Once     bool
}

// DecodeListen reads a ListenTCP, ListenUnix, ListenAgent or ListenX11.
func DecodeListen(kind Type, payload []byte) (ListenRequest, error) {
	d := Decode(payload)
	var request ListenRequest
	switch kind {
	case ListenTCP:
		request.Host, request.Port = d.Text(), d.Short()
	case ListenUnix:
		request.Path = d.Text()
	case ListenX11:
		request.Protocol, request.Cookie, request.Screen, request.Once = d.Text(), d.Text(), d.Word(), d.Byte() != 0
	}
	return request, d.Done()
}

// AcceptRequest is the gateway's decision about a connection of a listener. A Decline has no stream.
type AcceptRequest struct {
	Listener   uint32
	Connection uint32
	Stream     StreamRef
}

// DecodeAccept reads an Accept.
func DecodeAccept(payload []byte) (AcceptRequest, error) {
	d := Decode(payload)
	request := AcceptRequest{Listener: d.Word(), Connection: d.Word(), Stream: d.Stream()}
	return request, d.Done()
}

// DecodeDecline reads a Decline.
func DecodeDecline(payload []byte) (AcceptRequest, error) {
	d := Decode(payload)
	request := AcceptRequest{Listener: d.Word(), Connection: d.Word()}
	return request, d.Done()
}

// DecodeUnlisten reads an Unlisten, which names a listener by the id of its request.
func DecodeUnlisten(payload []byte) (uint32, error) { return DecodeProgram(payload) }

// EncodeListening encodes a Listening: the actual port (or 0), and variables for programs that use the listener.
func EncodeListening(port uint16, environment ...string) []byte {
	payload := binary.BigEndian.AppendUint16(nil, port)
	payload = binary.BigEndian.AppendUint32(payload, uint32(len(environment)))
	for _, variable := range environment {
		payload = AppendText(payload, variable)
	}
	return payload
}

// EncodeAccepted encodes an Accepted: the connection and its source, which is empty for a unix socket.
func EncodeAccepted(connection uint32, host string, port uint16) []byte {
	payload := binary.BigEndian.AppendUint32(nil, connection)
	return binary.BigEndian.AppendUint16(AppendText(payload, host), port)
}
