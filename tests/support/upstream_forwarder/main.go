// The forwarding part of a stand-in for the agent of ContainerSSH 0.5 and 0.6, from agent.md section 3: what that does
// and what it leaves out, so one dial after another, no half-close, and success before it listens.
package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
)

const (
	setup = iota
	success
	failure
	data
	newConnection
	closeConnection
	noMore
)

type field struct {
	name  string
	value any
}

func head(kind byte, n uint64) []byte {
	switch {
	case n < 24:
		return []byte{kind<<5 | byte(n)}
	case n < 1<<8:
		return []byte{kind<<5 | 24, byte(n)}
	case n < 1<<16:
		return binary.BigEndian.AppendUint16([]byte{kind<<5 | 25}, uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32([]byte{kind<<5 | 26}, uint32(n))
	}
	return binary.BigEndian.AppendUint64([]byte{kind<<5 | 27}, n)
}

func encode(fields ...field) []byte {
	out := head(5, uint64(len(fields)))
	for _, f := range fields {
		out = append(append(out, head(3, uint64(len(f.name)))...), f.name...)
		switch value := f.value.(type) {
		case uint64:
			out = append(out, head(0, value)...)
		case string:
			out = append(append(out, head(3, uint64(len(value)))...), value...)
		case []byte:
			if value == nil {
				out = append(out, 0xf6)
			} else {
				out = append(append(out, head(2, uint64(len(value)))...), value...)
			}
		}
	}
	return out
}

type values map[string]any

func (v values) number(name string) uint64 { n, _ := v[name].(uint64); return n }
func (v values) text(name string) string   { s, _ := v[name].(string); return s }

func readFully(in io.Reader, count uint64) ([]byte, error) {
	out := make([]byte, count)
	_, err := io.ReadFull(in, out)
	return out, err
}

func item(in io.Reader) (any, error) {
	first, err := readFully(in, 1)
	if err != nil {
		return nil, err
	}
	kind, n := first[0]>>5, uint64(first[0]&31)
	if n >= 24 && n < 28 && kind != 7 {
		long, err := readFully(in, 1<<(n-24))
		if err != nil {
			return nil, err
		}
		n = binary.BigEndian.Uint64(append(make([]byte, 8-len(long)), long...))
	}
	switch kind {
	case 0:
		return n, nil
	case 2:
		return readFully(in, n)
	case 3:
		text, err := readFully(in, n)
		return string(text), err
	case 5:
		found := values{}
		for ; n > 0; n-- {
			name, err := item(in)
			if err != nil {
				return nil, err
			}
			if found[name.(string)], err = item(in); err != nil {
				return nil, err
			}
		}
		return found, nil
	case 7:
		return first[0] == 0xf5, nil
	}
	return nil, fmt.Errorf("an unknown item: %x", first)
}

type connection struct {
	id      uint64
	inside  net.Conn
	started chan bool
	once    sync.Once
	close   sync.Once
	closing atomic.Bool
}

func (c *connection) start(yes bool) { c.once.Do(func() { c.started <- yes; close(c.started) }) }

var (
	output  sync.Mutex
	table   sync.Mutex
	known   = map[uint64]*connection{}
	counter uint64
	alive   sync.WaitGroup
)

func send(kind, id uint64, payload []byte) {
	output.Lock()
	defer output.Unlock()
	os.Stdout.Write(encode(field{"Type", kind}, field{"ConnectionId", id}, field{"Payload", payload}))
}

func (c *connection) carry() {
	buffer := make([]byte, 32768)
	for {
		n, err := c.inside.Read(buffer)
		if n > 0 {
			send(data, c.id, buffer[:n])
		}
		if err != nil {
			c.close.Do(func() { c.inside.Close(); c.closing.Store(true); send(closeConnection, c.id, nil) })
			return
		}
	}
}

func lookUp(id uint64) *connection {
	table.Lock()
	defer table.Unlock()
	return known[id]
}

func forget(c *connection) {
	table.Lock()
	defer table.Unlock()
	if known[c.id] == c {
		delete(known, c.id)
		alive.Done()
	}
}

func receive(in io.Reader, wanted chan<- values, ids chan<- uint64) {
	stopped := false
	for {
		found, err := item(in)
		if err != nil {
			return
		}
		packet := found.(values)
		payload, _ := packet["Payload"].([]byte)
		id := packet.number("ConnectionId")
		c := lookUp(id)
		switch kind := packet.number("Type"); {
		case kind == newConnection:
			details, err := item(bufio.NewReader(&reader{payload}))
			if err == nil {
				wanted <- details.(values)
				ids <- id
			}
		case kind == noMore && !stopped:
			stopped = true
			close(wanted)
		case c == nil:
		case kind == data:
			c.inside.Write(payload)
		case kind == success && c.closing.Load():
			forget(c)
		case kind == success:
			c.start(true)
		case kind == failure:
			c.start(false)
			c.inside.Close()
			forget(c)
		case kind == closeConnection:
			c.start(false)
			c.close.Do(func() { c.inside.Close() })
			forget(c)
			send(success, id, nil)
		}
	}
}

type reader struct{ left []byte }

func (r *reader) Read(into []byte) (int, error) {
	if len(r.left) == 0 {
		return 0, io.EOF
	}
	n := copy(into, r.left)
	r.left = r.left[n:]
	return n, nil
}

func address(protocol, host string, port uint64) string {
	if protocol == "unix" {
		return host
	}
	return fmt.Sprintf("%s:%d", host, port)
}

func add(id uint64, inside net.Conn) *connection {
	c := &connection{id: id, inside: inside, started: make(chan bool, 1)}
	table.Lock()
	known[id] = c
	table.Unlock()
	alive.Add(1)
	return c
}

func dial(wanted <-chan values, ids <-chan uint64) {
	for details := range wanted {
		id := <-ids
		protocol := details.text("Protocol")
		inside, err := net.Dial(protocol, address(protocol, details.text("ConnectedAddress"), details.number("ConnectedPort")))
		if err != nil {
			send(failure, id, nil)
			continue
		}
		c := add(id, inside)
		send(success, id, nil)
		go c.carry()
	}
}

func listen(how values, wanted <-chan values, ids <-chan uint64) {
	protocol, host, port := how.text("Protocol"), how.text("BindHost"), how.number("BindPort")
	listener, err := net.Listen(protocol, address(protocol, host, port))
	if err != nil {
		fmt.Fprintf(os.Stderr, "{\"message\":\"%v\"}\n", err)
		os.Exit(1)
	}
	go func() {
		for range wanted {
			send(failure, <-ids, nil)
		}
		listener.Close()
	}()
	for {
		inside, err := listener.Accept()
		if err != nil {
			return
		}
		counter++
		c := add(counter, inside)
		from, fromPort := "", uint64(0)
		if tcp, ok := inside.RemoteAddr().(*net.TCPAddr); ok {
			from, fromPort = tcp.IP.String(), uint64(tcp.Port)
		}
		send(newConnection, c.id, encode(
			field{"Protocol", protocol}, field{"ConnectedAddress", host}, field{"ConnectedPort", port},
			field{"OriginatorAddress", from}, field{"OriginatorPort", fromPort},
		))
		go func() {
			if <-c.started {
				c.carry()
			}
		}()
		if how["SingleConnection"] == true {
			return
		}
	}
}

func main() {
	in := bufio.NewReader(os.Stdin)
	first, err := item(in)
	if err != nil || first.(values).number("Type") != setup {
		os.Exit(2)
	}
	payload, _ := first.(values)["Payload"].([]byte)
	found, err := item(&reader{payload})
	if err != nil {
		os.Exit(2)
	}
	how := found.(values)
	send(success, 0, nil)
	wanted, ids := make(chan values), make(chan uint64)
	go receive(in, wanted, ids)
	switch how.number("ConnectionType") {
	case 0:
		add := exec.Command("/usr/bin/xauth", "add", ":10."+how.text("Screen"), how.text("AuthProtocol"), how.text("AuthCookie"))
		if err := add.Run(); err != nil {
			os.Exit(2)
		}
		how["BindHost"], how["BindPort"] = "127.0.0.1", uint64(6010)
		listen(how, wanted, ids)
	case 1, 3:
		listen(how, wanted, ids)
	case 2, 4:
		dial(wanted, ids)
	}
	alive.Wait()
}
