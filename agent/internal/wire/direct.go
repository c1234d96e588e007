package wire

import "crypto/sha256"

// DirectRequest asks for the link to go on through a TLS connection of its own.
type DirectRequest struct {
	Milliseconds uint32
	Host         string
	Port         uint16
	Ticket       [TicketSize]byte  // said before TLS, and good once
	Pin          [sha256.Size]byte // SHA-256 of the gateway's certificate
	Certificate  string            // DER, what the agent shows
	Key          string            // PKCS #8, the certificate's
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
