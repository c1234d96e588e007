package sftp

import (
	"bytes"
	"syscall"
	"testing"
	"time"
)

var hello = []byte{0, 0, 0, 5, typeInit, 0, 0, 0, 3}

func TestServesOverSocketsAndPipesAtAnyPace(t *testing.T) {
	for name, connect := range map[string]func() (ours, theirs [2]int, err error){
		"socket": func() (ours, theirs [2]int, err error) {
			pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
			return [2]int{pair[0], pair[0]}, [2]int{pair[1], pair[1]}, err
		},
		"pipes": func() (ours, theirs [2]int, err error) {
			var in, out [2]int
			if err = syscall.Pipe(in[:]); err == nil {
				err = syscall.Pipe(out[:])
			}
			return [2]int{out[0], in[1]}, [2]int{in[0], out[1]}, err
		},
	} {
		ours, theirs, err := connect()
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- Serve(theirs[0], theirs[1], -1, Rules{Umask: -1}) }()
		answer := make([]byte, 4096)
		ask := func(request []byte) []byte {
			if err := writeAll(ours[1], request); err != nil {
				t.Fatal(name, err)
			}
			count, err := restart(func() (int, error) { return syscall.Read(ours[0], answer) })
			if err != nil {
				t.Fatal(name, err)
			}
			return answer[:count]
		}
		if told := ask(hello); len(told) < 9 || told[4] != typeVersion {
			t.Fatal(name, told)
		}
		stat := append([]byte{0, 0, 0, 10, typeStat, 0, 0, 0, 1, 0, 0, 0, 1}, '/')
		for _, pause := range []time.Duration{0, 0, 3 * soon * time.Microsecond, 0} {
			time.Sleep(pause)
			if told := ask(stat); len(told) < 9 || told[4] != typeAttrs {
				t.Fatal(name, pause, told)
			}
		}
		// Two at once, the second in two pieces.
		if err := writeAll(ours[1], append(bytes.Clone(stat), stat[:7]...)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * soon * time.Microsecond)
		told := bytes.Clone(ask(stat[7:]))
		for size := 2 * (4 + 5 + 32); len(told) < size; {
			count, err := restart(func() (int, error) { return syscall.Read(ours[0], answer) })
			if err != nil || count == 0 {
				t.Fatal(name, err, len(told))
			}
			told = append(told, answer[:count]...)
		}
		syscall.Close(ours[1])
		if ours[0] != ours[1] {
			defer syscall.Close(ours[0])
		}
		select {
		case err := <-ended:
			if err != nil {
				t.Fatal(name, err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal(name, "its client has gone, and it does not end")
		}
	}
}
