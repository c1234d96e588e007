package forward

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"
)

func TestAConduitMovesAllOfItAndStopsAtTheEnd(t *testing.T) {
	client, source := pair()
	target, program := pair()
	content := make([]byte, 3<<20+5)
	_, _ = rand.Read(content)
	go func() {
		for rest := content; len(rest) > 0; rest = rest[min(len(rest), 40_001):] {
			_, _ = client.Write(rest[:min(len(rest), 40_001)])
		}
		_ = client.CloseWrite()
	}()
	carried := make(chan bool, 1)
	go func() {
		carried <- carry(target, source)
		target.Close()
	}()
	// Slower than it comes, so that both ends are waited for.
	var got bytes.Buffer
	for block := make([]byte, 30_011); ; {
		count, err := program.Read(block)
		got.Write(block[:count])
		if err != nil {
			break
		}
		runtime.Gosched()
	}
	if !bytes.Equal(got.Bytes(), content) {
		t.Fatal(got.Len(), "bytes, or others")
	}
	within(t, "the end is told", func() bool { return <-carried })
}

func TestWhereThereIsNoDescriptorBytesAreCopied(t *testing.T) {
	near, source := net.Pipe()
	target, far := net.Pipe()
	go func() {
		_, _ = near.Write([]byte("some words"))
		near.Close()
	}()
	go func() {
		carry(target, source)
		target.Close()
	}()
	if got, err := io.ReadAll(far); err != nil || string(got) != "some words" {
		t.Fatal(string(got), err)
	}
}

func TestATargetThatHasGoneEndsAConduit(t *testing.T) {
	client, source := pair()
	target, program := pair()
	program.Close()
	_, _ = client.Write([]byte("for nobody"))
	if carry(target, source) {
		t.Fatal("all is well, it says")
	}
}

// With one thread for all that Go runs, as the agent has, something that never waits must not be alone with it.
func TestOthersHaveTheirTurnBesideABusyConduit(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	run := func(command string, input, output *net.UnixConn) {
		program := exec.Command("sh", "-c", command)
		if input != nil {
			file, _ := input.File()
			defer file.Close()
			program.Stdin = file
		}
		if output != nil {
			file, _ := output.File()
			defer file.Close()
			program.Stdout = file
		}
		if err := program.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = program.Process.Signal(os.Kill)
			_ = program.Wait()
		})
	}
	endless, source := pair()
	target, sink := pair()
	near, ticks := pair()
	run("exec cat /dev/zero", nil, endless)
	run("exec cat >/dev/null", sink, nil)
	run("for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.01; echo; done; exec sleep 60", nil, ticks)
	for _, one := range []*net.UnixConn{endless, sink, ticks} {
		one.Close()
	}
	go carry(target, source)
	began := time.Now()
	_ = near.SetReadDeadline(began.Add(20 * time.Second))
	lines := bufio.NewReader(near)
	for range 10 {
		if _, err := lines.ReadString('\n'); err != nil {
			t.Fatal(err, "after", time.Since(began))
		}
	}
	source.Close()
	target.Close()
}
