package wire

import "crypto/sha256"

// DirectRequest asks the agent to continue the link on a TLS connection to the gateway.
type DirectRequest struct {
	Milliseconds uint32
	Host         string
	Port         uint16
	Ticket       [TicketSize]byte  // sent before TLS, valid once
	Pin          [sha256.Size]byte // SHA-256 of the gateway's certificate
	Certificate  string            // DER; the agent's
	Key          string            // PKCS #8; the certificate's
}

// DecodeDirect reads a Direct.
func DecodeDirect(payload []byte) (DirectRequest, error) {
	d := Decode(payload)
	request := DirectRequest{Milliseconds: d.Word(), Host: d.Text(), Port: d.Short()}
	copy(request.Ticket[:], d.take(len(request.Ticket)))
	copy(request.Pin[:], d.take(len(request.Pin)))
	request.Certificate, request.Key = d.Text(), d.Text()
	return request, d.Done()
}
