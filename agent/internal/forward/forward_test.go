package forward

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"containerssh.io/agent/internal/link"
	"containerssh.io/agent/internal/wire"
)

// gateway is the other side of the link: it keeps the frames that were sent and gives streams as socket pairs.
type gateway struct {
	frames  chan wire.Frame
	streams chan *net.UnixConn
}

func newGateway() *gateway {
	return &gateway{frames: make(chan wire.Frame, 1000), streams: make(chan *net.UnixConn, 1000)}
}

func (g *gateway) Receive() (wire.Frame, error) { return wire.Frame{}, io.EOF }

func (g *gateway) Send(kind wire.Type, id uint32, payload []byte) error {
	g.frames <- wire.Frame{Type: kind, ID: id, Payload: payload}
	return nil
}

func (g *gateway) Expect(wire.StreamRef) (link.Opener, error) {
	return func() (link.Stream, error) {
		ours, theirs := pair()
		g.streams <- theirs
		return ours, nil
	}, nil
}

func (g *gateway) Close() {}

func pair() (*net.UnixConn, *net.UnixConn) {
	both, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		panic(err)
	}
	connections := make([]*net.UnixConn, 2)
	for index, fd := range both {
		file := os.NewFile(uintptr(fd), "pair")
		connection, err := net.FileConn(file)
		file.Close()
		if err != nil {
			panic(err)
		}
		connections[index] = connection.(*net.UnixConn)
	}
	return connections[0], connections[1]
}

func within(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not within 10 s: " + what)
		}
	}
}

func (g *gateway) next(t *testing.T) wire.Frame {
	t.Helper()
	select {
	case frame := <-g.frames:
		return frame
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was sent")
		return wire.Frame{}
	}
}

func started(t *testing.T) (*Forwards, *gateway) {
	g := newGateway()
	f := New(g, func(id uint32, err error) {
		if err == nil {
			_ = g.Send(wire.OK, id, nil)
			return
		}
		var number syscall.Errno
		errors.As(err, &number)
		_ = g.Send(wire.Error, id, wire.EncodeError(uint16(number), err.Error()))
	})
	t.Cleanup(f.Close)
	return f, g
}

func (g *gateway) ask(t *testing.T, f *Forwards, kind wire.Type, id uint32, payload []byte) wire.Frame {
	t.Helper()
	if ours, err := f.Handle(wire.Frame{Type: kind, ID: id, Payload: payload}); !ours || err != nil {
		t.Fatal(ours, err)
	}
	return g.next(t)
}

func word(value uint32) []byte {
	return []byte{byte(value >> 24), byte(value >> 16), byte(value >> 8), byte(value)}
}

func ref() []byte { return make([]byte, 4+wire.TokenSize) }

func connectPayload(host string, port uint16) []byte {
	payload := append(ref(), word(5000)...)
	payload = wire.AppendText(payload, host)
	payload = append(payload, byte(port>>8), byte(port), 0)
	return append(payload, make([]byte, 8)...)
}

func errorOf(t *testing.T, frame wire.Frame) (syscall.Errno, string) {
	t.Helper()
	if frame.Type != wire.Error {
		t.Fatal("no error but", frame)
	}
	d := wire.Decode(frame.Payload)
	return syscall.Errno(d.Short()), d.Text()
}

func listening(t *testing.T, frame wire.Frame) (uint16, map[string]string) {
	t.Helper()
	if frame.Type != wire.Listening {
		t.Fatal("not listening but", frame)
	}
	d := wire.Decode(frame.Payload)
	port := d.Short()
	variables := map[string]string{}
	for _, one := range d.Texts() {
		name, value, _ := strings.Cut(one, "=")
		variables[name] = value
	}
	return port, variables
}

func TestAConnectionCarriesBothDirectionsAndTheirEnds(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		connection, _ := server.Accept()
		all, _ := io.ReadAll(connection) // the client's end of file comes alone: our direction goes on
		_, _ = connection.Write(bytes.ToUpper(all))
		connection.Close()
	}()
	f, g := started(t)
	port := uint16(server.Addr().(*net.TCPAddr).Port)
	if answer := g.ask(t, f, wire.ConnectTCP, 1, connectPayload("localhost", port)); answer.Type != wire.OK {
		t.Fatal(answer)
	}
	stream := <-g.streams
	data := bytes.Repeat([]byte("abc"), 1<<20)
	go func() {
		_, _ = stream.Write(data)
		_ = stream.CloseWrite()
	}()
	all, err := io.ReadAll(stream)
	if err != nil || !bytes.Equal(all, bytes.ToUpper(data)) {
		t.Fatal(len(all), err)
	}
}

func TestATargetThatRefusesOrIsNotThereIsAnErrorWithItsNumber(t *testing.T) {
	server, _ := net.Listen("tcp", "127.0.0.1:0")
	port := uint16(server.Addr().(*net.TCPAddr).Port)
	server.Close()
	f, g := started(t)
	if number, _ := errorOf(t, g.ask(t, f, wire.ConnectTCP, 1, connectPayload("127.0.0.1", port))); number != syscall.ECONNREFUSED {
		t.Fatal(number)
	}
	payload := wire.AppendText(append(ref(), word(5000)...), filepath.Join(t.TempDir(), "none"))
	if number, _ := errorOf(t, g.ask(t, f, wire.ConnectUnix, 2, payload)); number != syscall.ENOENT {
		t.Fatal(number)
	}
	for _, path := range []string{"", "\x00abstract", "a\x00b"} {
		payload := wire.AppendText(append(ref(), word(5000)...), path)
		if number, _ := errorOf(t, g.ask(t, f, wire.ConnectUnix, 3, payload)); number != syscall.EINVAL {
			t.Fatal(path, number)
		}
	}
}

func TestAnAddressIsJudgedAfterItsNameWasResolved(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	f, g := started(t)
	port := uint16(server.Addr().(*net.TCPAddr).Port)
	for _, host := range []string{"localhost", "127.0.0.1", "::ffff:127.0.0.1", "0.0.0.0", ""} {
		payload := connectPayload(host, port)
		payload = append(payload[:len(payload)-4], 0, 0, 0, 1)
		payload = wire.AppendText(payload, "127.0.0.0/8")
		number, text := errorOf(t, g.ask(t, f, wire.ConnectTCP, 1, payload))
		if host != "localhost" && host != "" && number != syscall.EPERM || !strings.Contains(text, "not allowed") {
			t.Fatal(host, number, text)
		}
	}
}

func TestRulesKnowAnAddressInEveryWriting(t *testing.T) {
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	for _, text := range []string{"127.0.0.1", "127.255.1.2", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::", "::ffff:0.0.0.0", "::1%lo"} {
		address := netip.MustParseAddr(text)
		if permits(wire.Rules{Denied: loopback}, address) || !permits(wire.Rules{Limited: true, Allowed: loopback}, address) {
			t.Fatal(text)
		}
	}
	if permits(wire.Rules{Limited: true}, netip.MustParseAddr("10.0.0.1")) || !permits(wire.Rules{}, netip.MustParseAddr("10.0.0.1")) {
		t.Fatal("an empty list allows nothing, no list everything")
	}
}

func TestATargetIsLetGoOnceTheGatewayHasGivenTheStreamUp(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	ended := make(chan error, 1)
	go func() {
		connection, _ := server.Accept()
		_, _ = io.ReadAll(connection)
		// It neither sends nor closes: only a hang-up ends it.
		_ = connection.SetReadDeadline(time.Now().Add(10 * time.Second))
		for {
			if _, err := connection.Write([]byte("x")); err != nil {
				ended <- err
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	f, g := started(t)
	port := uint16(server.Addr().(*net.TCPAddr).Port)
	g.ask(t, f, wire.ConnectTCP, 1, connectPayload("127.0.0.1", port))
	stream := <-g.streams
	_ = stream.CloseWrite()
	time.Sleep(20 * time.Millisecond)
	stream.Close()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the target was kept")
	}
}

func TestAListenerTellsItsPortAndItsConnectionsAndIsGoneAfterwards(t *testing.T) {
	f, g := started(t)
	port, _ := listening(t, g.ask(t, f, wire.ListenTCP, 7, append(wire.AppendText(nil, "localhost"), 0, 0)))
	address := net.JoinHostPort("127.0.0.1", itoa(port))
	client, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	accepted := g.next(t)
	d := wire.Decode(accepted.Payload)
	number, host, from := d.Word(), d.Text(), d.Short()
	if accepted.Type != wire.Accepted || accepted.ID != 7 || host != "127.0.0.1" ||
		int(from) != client.LocalAddr().(*net.TCPAddr).Port {
		t.Fatal(accepted, host, from)
	}
	request := append(append(word(7), word(number)...), ref()...)
	if answer := g.ask(t, f, wire.Accept, 8, request); answer.Type != wire.OK {
		t.Fatal(answer)
	}
	stream := <-g.streams
	_, _ = client.Write([]byte("ping"))
	_ = client.(*net.TCPConn).CloseWrite()
	if all, err := io.ReadAll(stream); string(all) != "ping" || err != nil {
		t.Fatal(string(all), err)
	}
	if _, text := errorOf(t, g.ask(t, f, wire.Accept, 9, request)); text == "" {
		t.Fatal("twice")
	}
	<-g.streams
	if answer := g.ask(t, f, wire.Unlisten, 10, word(7)); answer.Type != wire.OK {
		t.Fatal(answer)
	}
	if _, err := net.Dial("tcp", address); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatal(err)
	}
	_, _ = stream.Write([]byte("pong")) // what is forwarded already goes on
	_ = stream.CloseWrite()
	if all, _ := io.ReadAll(client); string(all) != "pong" {
		t.Fatal(string(all))
	}
}

func TestConnectionsBeyondThePendingOnesWaitInTheKernel(t *testing.T) {
	f, g := started(t)
	port, _ := listening(t, g.ask(t, f, wire.ListenTCP, 1, append(wire.AppendText(nil, "127.0.0.1"), 0, 0)))
	var clients []net.Conn
	for range wire.MaxPending + 10 {
		client, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", itoa(port)))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		clients = append(clients, client)
	}
	within(t, "all that may be pending are", func() bool { return len(g.frames) == wire.MaxPending })
	time.Sleep(50 * time.Millisecond)
	if len(g.frames) != wire.MaxPending {
		t.Fatal("too many are pending:", len(g.frames))
	}
	number := wire.Decode(g.next(t).Payload).Word()
	_, _ = f.Handle(wire.Frame{Type: wire.Decline, ID: 2, Payload: append(word(1), word(number)...)})
	within(t, "the next one is announced", func() bool { return len(g.frames) == wire.MaxPending+1 })
	f.Close()
	_ = clients[len(clients)-1].SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := clients[len(clients)-1].Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("it still waits:", err)
	}
}

func TestASocketsFileIsTheUsersAloneAndGoesWithTheListener(t *testing.T) {
	f, g := started(t)
	path := filepath.Join(t.TempDir(), "socket")
	listening(t, g.ask(t, f, wire.ListenUnix, 1, wire.AppendText(nil, path)))
	found, err := os.Stat(path)
	if err != nil || found.Mode().Perm() != 0o600 {
		t.Fatal(found, err)
	}
	if number, _ := errorOf(t, g.ask(t, f, wire.ListenUnix, 2, wire.AppendText(nil, path))); number != syscall.EADDRINUSE {
		t.Fatal(number)
	}
	g.ask(t, f, wire.Unlisten, 3, word(1))
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
}

func TestASocketForTheSSHAgentLiesInAFolderOfItsOwn(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	f, g := started(t)
	_, variables := listening(t, g.ask(t, f, wire.ListenAgent, 1, nil))
	path := variables["SSH_AUTH_SOCK"]
	folder, err := os.Stat(filepath.Dir(path))
	if err != nil || folder.Mode().Perm() != 0o700 {
		t.Fatal(path, err)
	}
	client, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if accepted := g.next(t); accepted.Type != wire.Accepted {
		t.Fatal(accepted)
	}
	f.Close()
	if _, err := os.Stat(filepath.Dir(path)); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
}

func TestATemporaryFolderThatCannotBeWrittenToIsNotTheOnlyPlace(t *testing.T) {
	t.Setenv("TMPDIR", "/proc")
	folder, err := privateFolder()
	if err != nil {
		t.Fatal(err)
	}
	os.RemoveAll(folder)
}

func x11Payload(cookie string, once byte) []byte {
	payload := wire.AppendText(nil, "MIT-MAGIC-COOKIE-1")
	payload = wire.AppendText(payload, cookie)
	return append(payload, 0, 0, 0, 2, once)
}

func TestADisplayHasItsCookieInAFileOfItsOwn(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	f, g := started(t)
	number, variables := listening(t, g.ask(t, f, wire.ListenX11, 1, x11Payload("00ff10", 0)))
	if variables["DISPLAY"] != "localhost:"+itoa(number)+".2" || number < firstDisplay {
		t.Fatal(variables)
	}
	other, _ := listening(t, g.ask(t, f, wire.ListenX11, 2, x11Payload("00ff10", 0)))
	if other == number {
		t.Fatal("two have the same display")
	}
	file, err := os.ReadFile(variables["XAUTHORITY"])
	if err != nil || !bytes.HasSuffix(file, []byte("\x00\x12MIT-MAGIC-COOKIE-1\x00\x03\x00\xff\x10")) {
		t.Fatal(file, err)
	}
	if _, text := errorOf(t, g.ask(t, f, wire.ListenX11, 3, x11Payload("not hex", 0))); strings.Contains(text, "not hex") {
		t.Fatal("the cookie was repeated")
	}
	g.ask(t, f, wire.Unlisten, 4, word(1))
	if _, err := os.Stat(variables["XAUTHORITY"]); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
}

func TestOneConnectionMeansOne(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	f, g := started(t)
	number, _ := listening(t, g.ask(t, f, wire.ListenX11, 1, x11Payload("00", 1)))
	address := net.JoinHostPort("127.0.0.1", itoa(displayPorts+number))
	var waiting sync.WaitGroup
	for range 5 {
		waiting.Add(1)
		go func() {
			defer waiting.Done()
			if client, err := net.Dial("tcp", address); err == nil {
				defer client.Close()
				_ = client.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
				_, _ = client.Read(make([]byte, 1))
			}
		}()
	}
	waiting.Wait()
	if len(g.frames) != 1 {
		t.Fatal(len(g.frames))
	}
}

func itoa(number uint16) string { return strconv.Itoa(int(number)) }
