package program

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"containerssh.io/agent/internal/wire"
)

func TestEachNameComesOnceAndOursWins(t *testing.T) {
	merged := merge([]string{"A=1", "B=2", "A=3", "ODD"}, []string{"B=4", "C=5", "C=6"})
	if !slices.Equal(merged, []string{"A=3", "B=4", "ODD", "C=6"}) {
		t.Fatal(merged)
	}
}

func TestACommandIsLookedForInThePath(t *testing.T) {
	folder := t.TempDir()
	for name, mode := range map[string]os.FileMode{"runs": 0o755, "plain": 0o644} {
		if err := os.WriteFile(filepath.Join(folder, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	environment := []string{"PATH=/no/such:" + folder}
	for name, wanted := range map[string]error{
		"runs": nil, "plain": syscall.EACCES, "missing": syscall.ENOENT, "./anything": nil,
	} {
		path, err := resolve(name, "", environment)
		if !errors.Is(err, wanted) || (wanted == nil && path != name && path != folder+"/"+name) {
			t.Fatal(name, path, err)
		}
	}
	if path, err := resolve("runs", folder, []string{"PATH=."}); err != nil || path != "./runs" {
		t.Fatal(path, err)
	}
	if _, err := resolve("runs", folder+"/plain", environment); !errors.Is(err, syscall.ENOTDIR) {
		t.Fatal(err)
	}
}

func TestAProgramsNameMayLookLikeTheRestOfItsStatus(t *testing.T) {
	one, ok := parseStat(5, []byte("5 (a) Z 1 (x) S 17 5 23 0 -1"))
	if !ok || one != (process{pid: 5, parent: 17, session: 23}) {
		t.Fatal(one, ok)
	}
	for _, stat := range []string{"", "5", "5 (a) Z 1 5 5", "5 (a) S", "5 (a) S x 5 5", "5 (a) S 1 5 x"} {
		if _, ok := parseStat(5, []byte(stat)); ok {
			t.Fatal(stat)
		}
	}
}

func mode(op byte, value uint32) string {
	return string(binary.BigEndian.AppendUint32([]byte{op}, value))
}

func TestModesAreAppliedUpToTheFirstUnknownLength(t *testing.T) {
	var settings syscall.Termios
	setModes(&settings, mode(53, 1)+mode(1, 7)+mode(5, 255)+mode(11, 3)+mode(200, 1)+mode(50, 1))
	if settings.Lflag != syscall.ECHO || settings.Cc[syscall.VINTR] != 7 || settings.Cc[syscall.VEOF] != 0 {
		t.Fatal(settings)
	}
	setModes(&settings, mode(53, 0)+"\x00"+mode(50, 1))
	if settings.Lflag != 0 {
		t.Fatal(settings)
	}
	setModes(&settings, mode(129, 9600)+mode(129, 12345)+mode(91, 1))
	if settings.Cflag != syscall.B9600|syscall.CS8 {
		t.Fatalf("%o", settings.Cflag)
	}
}

func TestEverySignalHasItsNameBack(t *testing.T) {
	for name, number := range signals {
		if SignalName(number) != name {
			t.Fatal(name)
		}
	}
	if SignalName(40) != "RT40" {
		t.Fatal(SignalName(40))
	}
}

func FuzzModes(f *testing.F) {
	f.Add(mode(53, 1) + mode(129, 9600))
	f.Fuzz(func(t *testing.T, encoded string) {
		var settings syscall.Termios
		setModes(&settings, encoded)
	})
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("5 (a) Z 1 (x) S 17 5 23 0 -1"))
	f.Fuzz(func(t *testing.T, stat []byte) { parseStat(5, stat) })
}

func TestAMarkIsReadFromTheLimitsOfAProcess(t *testing.T) {
	const line = "Max file locks            18446744073709551613 unlimited            locks     \n"
	for text, wanted := range map[string]uint64{
		line: 1<<64 - 3, "Limit\n" + line + "Max x 1 2\n": 1<<64 - 3,
		"": 0, "Max file locks": 0, "Max file locks unlimited unlimited locks": 0, "Max file locks -1": 0,
	} {
		if got := parseMark([]byte(text)); got != wanted {
			t.Fatal(text, got)
		}
	}
}

func TestEachProgramGetsAMarkOnceOneIsNeeded(t *testing.T) {
	defer func(before uint64) { marks = before }(marks)
	marks = 0
	if mark(wire.HangUpLeftovers) != 0 {
		t.Fatal("a mark that nobody asked for")
	}
	first := mark(wire.EndLeftovers)
	if first == 0 {
		t.Skip("no limits can be set here")
	}
	// What is started later must not pass for the first one's.
	if second := mark(wire.KeepLeftovers); second == 0 || second == first || markOf(os.Getpid()) != second {
		t.Fatal(first, second, markOf(os.Getpid()))
	}
}
