package sftp

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestReadOnlyChangesNothing(t *testing.T) {
	_, root := tree(t)
	s := open(t, Rules{Root: root, ReadOnly: true, Umask: -1}, false)
	for name, one := range map[string]packet{
		"write":    request(typeOpen).text("relative").word(flagWrite).word(0),
		"create":   request(typeOpen).text("new").word(flagRead | flagCreate).word(0),
		"truncate": request(typeOpen).text("relative").word(flagRead | flagTrunc).word(0),
		"append":   request(typeOpen).text("relative").word(flagAppend).word(0),
		"mkdir":    request(typeMkdir).text("new").word(0),
		"rmdir":    request(typeRmdir).text("folder"),
		"remove":   request(typeRemove).text("relative"),
		"rename":   request(typeRename).text("relative").text("new"),
		"posix":    request(typeExtended).text("posix-rename@openssh.com").text("relative").text("new"),
		"link":     request(typeExtended).text("hardlink@openssh.com").text("relative").text("new"),
		"symlink":  request(typeSymlink).text("relative").text("new"),
		"setstat":  request(typeSetstat).text("relative").word(attrPermissions).word(0),
		"lsetstat": request(typeExtended).text("lsetstat@openssh.com").text("relative").word(attrTimes).word(0).word(0),
	} {
		if status := s.status(one); status != statusDenied {
			t.Error(name, status)
		}
	}
	if content, _ := s.content("relative"); content != "inside" {
		t.Fatal("not readable")
	}
	handle := s.handleOf(request(typeOpen).text("relative").word(flagRead).word(0))
	for _, one := range []packet{
		request(typeFsetstat).text(handle).word(attrPermissions).word(0),
		request(typeWrite).text(handle).long(0).text("x"),
	} {
		if status := s.status(one); status == statusOK {
			t.Error("changed")
		}
	}
}

func TestUploadOnlyTakesNewFilesAndShowsNoOthers(t *testing.T) {
	_, root := tree(t)
	s := open(t, Rules{Root: root, UploadOnly: true, Umask: -1}, false)
	for name, one := range map[string]packet{
		"read":       request(typeOpen).text("folder/deep/file").word(flagRead).word(0),
		"overwrite":  request(typeOpen).text("folder/deep/file").word(flagWrite | flagCreate | flagTrunc).word(0),
		"not new":    request(typeOpen).text("folder/deep/file").word(flagWrite).word(0),
		"list":       request(typeOpendir).text("folder"),
		"readlink":   request(typeReadlink).text("good"),
		"remove":     request(typeRemove).text("folder/deep/file"),
		"rename":     request(typeRename).text("folder/deep/file").text("new"),
		"posix":      request(typeExtended).text("posix-rename@openssh.com").text("folder/deep/file").text("new"),
		"link":       request(typeExtended).text("hardlink@openssh.com").text("folder/deep/file").text("new"),
		"symlink":    request(typeSymlink).text("folder/deep/file").text("new"),
		"attributes": request(typeSetstat).text("folder/deep/file").word(attrPermissions).word(0),
		"truncate":   request(typeSetstat).text("folder/deep/file").word(attrSize).long(0),
	} {
		if status := s.status(one); status != statusDenied {
			t.Error(name, status)
		}
	}
	if status := s.status(request(typeStat).text("folder/deep/file")); status != statusNoSuchFile {
		t.Error("shown", status)
	}
	if a := s.ask(request(typeStat).text("folder")); a.kind != typeAttrs {
		t.Error("a folder has to be known")
	}
	handle := s.handleOf(request(typeOpen).text("part").word(flagRead | flagWrite | flagCreate | flagTrunc).word(0))
	for _, one := range []packet{
		request(typeWrite).text(handle).long(0).text("content"),
		request(typeFsetstat).text(handle).word(attrPermissions).word(0o600),
		request(typeClose).text(handle),
		request(typeSetstat).text("part").word(attrTimes).word(1).word(2),
		request(typeExtended).text("posix-rename@openssh.com").text("part").text("whole"),
		request(typeMkdir).text("mine").word(0),
		request(typeSetstat).text("mine").word(attrPermissions).word(0o700),
	} {
		if status := s.status(one); status != statusOK {
			t.Errorf("%q: %d", one.data, status)
		}
	}
	if a := s.ask(request(typeStat).text("whole")); a.kind != typeAttrs || a.attributes().size != 7 {
		t.Error("a client wants to see what it has brought")
	}
	again := request(typeExtended).text("posix-rename@openssh.com").text("whole").text("folder/deep/file")
	if status := s.status(again); status == statusOK {
		t.Error("replaced by a rename")
	}
	if _, status := s.content("whole"); status != statusDenied {
		t.Error("read back")
	}
}

func TestASessionMovesNoMoreThanItMay(t *testing.T) {
	_, root := tree(t)
	s := open(t, Rules{Root: root, Session: 10, Umask: -1}, false)
	handle := s.handleOf(request(typeOpen).text("new").word(flagWrite | flagCreate).word(0))
	if s.status(request(typeWrite).text(handle).long(0).text("12345")) != statusOK {
		t.Fatal("refused too early")
	}
	if s.status(request(typeWrite).text(handle).long(5).text("678901")) != statusDenied {
		t.Fatal("too much was written")
	}
	reading := s.handleOf(request(typeOpen).text("relative").word(flagRead).word(0))
	if a := s.ask(request(typeRead).text(reading).long(0).word(100)); a.text() != "insid" {
		t.Fatal("not what was left")
	}
	if s.status(request(typeRead).text(reading).long(5).word(100)) != statusDenied {
		t.Fatal("too much was read")
	}
	if s.status(request(typeRead).text(reading).long(6).word(100)) != statusEOF {
		t.Fatal("the end of a file is no content")
	}
}

func TestHandlesAreLimitedAndUsedAgain(t *testing.T) {
	_, root := tree(t)
	limit := syscall.Rlimit{}
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil || limit.Cur < maxHandles+100 {
		t.Skip("this machine allows too few descriptors")
	}
	s := open(t, Rules{Root: root, Umask: -1}, false)
	one := request(typeOpen).text("relative").word(flagRead).word(0)
	var handle string
	for range maxHandles {
		handle = s.handleOf(one)
	}
	if s.status(one) != statusFailure || s.status(request(typeOpendir).text("/")) != statusFailure {
		t.Fatal("one more")
	}
	s.status(request(typeClose).text(handle))
	if s.handleOf(one) != handle {
		t.Fatal("not used again")
	}
	s.status(request(typeClose).text(handle))
	for _, bad := range []string{handle, "", "\xff\xff\xff\xff", "12345", strings.Repeat("x", 300)} {
		if s.status(request(typeClose).text(bad)) != statusFailure {
			t.Errorf("%q", bad)
		}
	}
}

func TestAListIsGivenInPartsThatClientsCanTake(t *testing.T) {
	_, root := tree(t)
	for number := range 500 {
		write(t, root+"/folder/"+strings.Repeat("n", 200)+string(rune('a'+number%26))+strings.Repeat("m", number/26), "")
	}
	s := open(t, Rules{Root: root, Umask: -1}, false)
	handle := s.handleOf(request(typeOpendir).text("folder"))
	names := map[string]bool{}
	for {
		a := s.ask(request(typeReaddir).text(handle))
		if a.kind == typeStatus {
			if a.word() != statusEOF {
				t.Fatal("no end")
			}
			break
		}
		if len(s.reply.buffer) > 34000 {
			t.Fatal(len(s.reply.buffer))
		}
		for count := a.word(); count > 0; count-- {
			names[a.text()] = true
			a.text()
			a.attributes()
		}
		if a.failed {
			t.Fatal("malformed")
		}
	}
	if len(names) != 503 {
		t.Fatal(len(names))
	}
}

func TestPipesAndProcessMemoryAreNoFiles(t *testing.T) {
	folder := t.TempDir()
	if err := syscall.Mkfifo(folder+"/pipe", 0o666); err != nil {
		t.Fatal(err)
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	defer writer.Close()
	s := open(t, Rules{Umask: -1}, false)
	for _, path := range []string{
		folder + "/pipe", "/proc/self/mem", "/proc/self/comm", "/proc/self/fd/" + decimal(writer.Fd()),
	} {
		if s.status(request(typeOpen).text(path).word(flagWrite).word(0)) == statusOK {
			t.Error(path)
		}
		if s.status(request(typeSetstat).text(path).word(attrSize).long(0)) == statusOK {
			t.Error(path)
		}
	}
	if s.status(request(typeOpen).text(folder+"/pipe").word(flagRead).word(0)) == statusOK {
		t.Error("a pipe can be read")
	}
}

func decimal(number uintptr) string { return string(appendNumber(nil, uint64(number))) }

func TestAnEventIsOneLineOfJSONWhateverThePath(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	defer writer.Close()
	e := &events{descriptor: int(writer.Fd())}
	path := "/a \"b\"\\c\n\r\t\x00\x1f\x7fé😀\xff\xc3\xed\xa0\x80"
	e.begin("file").text("path", path).number("read", 18446744073709551615).number("written", 0).truth("created").end()
	e.flush()
	line := make([]byte, 4096)
	count, err := reader.Read(line)
	if err != nil || bytes.Count(line[:count], []byte("\n")) != 1 || line[count-1] != '\n' {
		t.Fatalf("%q", line[:count])
	}
	var found struct {
		Path          string
		Read, Written uint64
		Created       bool
	}
	if err := json.Unmarshal(line[:count], &found); err != nil || found.Read != 1<<64-1 || !found.Created {
		t.Fatal(err, found)
	}
	want := strings.ToValidUTF8(path[:len(path)-5], "") + strings.Repeat("\ufffd", 5)
	if found.Path != want {
		t.Fatalf("%q", found.Path)
	}
}

func TestHomesAreKnownButBehindARootThereIsOne(t *testing.T) {
	home := func(s *session, path string) string {
		a := s.ask(request(typeExtended).text("expand-path@openssh.com").text(path))
		if a.kind != typeName {
			t.Fatalf("%s: status %d", path, a.word())
		}
		a.word()
		return a.text()
	}
	t.Setenv("HOME", "/usr")
	s := open(t, Rules{Umask: -1}, false)
	s.names.load()
	s.names.homes["ada"] = "/etc"
	if home(s, "~") != "/usr" || home(s, "~/x") != "/usr/x" || home(s, "~ada/x") != "/etc/x" || home(s, "/etc") != "/etc" {
		t.Fatal("not at home")
	}
	if s.status(request(typeExtended).text("expand-path@openssh.com").text("~nobody-of-this-name")) != statusFailure {
		t.Fatal("a stranger has a home")
	}
	_, root := tree(t)
	s = open(t, Rules{Root: root, Umask: -1}, false)
	if home(s, "~") != "/" || home(s, "~ada/folder") != "/folder" {
		t.Fatal("another home")
	}
	a := s.ask(request(typeExtended).text("home-directory").text("ada"))
	if a.word(); a.text() != "/" {
		t.Fatal("another home")
	}
}

func TestUsersAndGroupsHaveNamesOrNone(t *testing.T) {
	s := open(t, Rules{Umask: -1}, false)
	a := s.ask(request(typeExtended).text("users-groups-by-id@openssh.com").text("\x00\x00\x00\x00\xff\xff\xff\xf0").text(""))
	names := &fields{rest: a.bytes()}
	if a.kind != typeExtendedReply || names.text() != "root" || names.text() != "" || len(names.rest) > 0 || a.text() != "" {
		t.Fatal(s.reply.buffer)
	}
	many := strings.Repeat("\x00\x00\x00\x00", 60000)
	if s.status(request(typeExtended).text("users-groups-by-id@openssh.com").text(many).text("")) != statusFailure {
		t.Fatal("an answer that is too long")
	}
}

func TestFilesAreCopiedButNotOntoThemselves(t *testing.T) {
	_, root := tree(t)
	content := strings.Repeat("0123456789", 100000)
	write(t, root+"/from", content)
	s := open(t, Rules{Root: root, Umask: -1}, false)
	from := s.handleOf(request(typeOpen).text("from").word(flagRead).word(0))
	to := s.handleOf(request(typeOpen).text("to").word(flagWrite | flagCreate).word(0))
	again := s.handleOf(request(typeOpen).text("from").word(flagWrite).word(0))
	copying := func(from string, offset, size uint64, to string, target uint64) uint32 {
		p := request(typeExtended).text("copy-data").text(from).long(offset).long(size)
		return s.status(p.text(to).long(target))
	}
	if copying(from, 10, 0, to, 5) != statusOK || copying(from, 0, 5, to, 0) != statusOK {
		t.Fatal("not copied")
	}
	if found, err := os.ReadFile(root + "/to"); err != nil || string(found) != content[:5]+content[10:] {
		t.Fatal(err, len(found))
	}
	for _, status := range []uint32{
		copying(from, 0, 0, again, 1), copying(from, 0, 0, from, 1), copying(to, 0, 0, from, 0),
		copying(from, 1<<63, 0, to, 0), copying(from, 0, 1<<63, to, 0), copying(from, 0, 0, to, 1<<63),
	} {
		if status == statusOK {
			t.Error("copied")
		}
	}
}

func TestARequestBeforeTheGreetingAndASecondGreetingEndTheSession(t *testing.T) {
	s := open(t, Rules{Umask: -1}, false)
	if s.handle(request(typeInit).data) == nil {
		t.Fatal("greeted twice")
	}
	s.greeted = false
	if s.handle(request(typeStat).text("/").data) == nil || s.handle([]byte{typeInit}) == nil {
		t.Fatal("not greeted")
	}
	if s.handle([]byte{typeInit, 0, 0, 0, 2}) == nil {
		t.Fatal("version 2")
	}
	if err := s.handle([]byte{typeInit, 0, 0, 0, 6}); err != nil || !s.greeted {
		t.Fatal(err)
	}
}

func TestOptionsThatCannotBeAreRefused(t *testing.T) {
	for _, bad := range [][]string{
		{"--root"}, {"--root", "relative"}, {"--max-file-size", "-1"}, {"--umask", "9"}, {"--umask", "1000"}, {"--what"},
		{"--what", "x"}, {"--read-only", "--upload-only"}, {""},
	} {
		if _, err := Parse(bad); err == nil {
			t.Error(bad)
		}
	}
	rules, err := Parse(strings.Fields("--root /x --max-file-size 5 --max-session-size 6 --umask 027 --digest --events"))
	want := Rules{Root: "/x", FileSize: 5, Session: 6, Umask: 0o27, Digest: true, Events: true}
	if err != nil || rules != want {
		t.Fatal(rules, err)
	}
}

// FuzzServe feeds whatever it likes, cut into packets of its own choice, to a server in a folder of its own.
func FuzzServe(f *testing.F) {
	for _, seed := range []packet{
		request(typeOpen).text("a").word(flagWrite | flagCreate | flagRead).word(attrPermissions).word(0o644),
		request(typeWrite).text("\x00\x00\x00\x00").long(0).text("data"),
		request(typeRead).text("\x00\x00\x00\x00").long(0).word(1 << 31),
		request(typeOpendir).text("."), request(typeReaddir).text("\x00\x00\x00\x01"),
		request(typeSetstat).text("a").word(0x8000000f).long(5).word(0).word(0).word(0o600).word(1).word(2).word(1).text("x").text("y"),
		request(typeSymlink).text("../../x").text("link"), request(typeRename).text("a").text("link/b"),
		request(typeExtended).text("copy-data").text("\x00\x00\x00\x00").long(0).long(0).text("\x00\x00\x00\x01").long(1 << 62),
		request(typeExtended).text("users-groups-by-id@openssh.com").text("\x00\x00\x00\x00").text(""),
		request(typeExtended).text("expand-path@openssh.com").text("~root/x"),
		request(typeExtended).text("lsetstat@openssh.com").text("a").word(attrOwner).word(0).word(0),
		request(typeFstat).text("\x00\x00\x00\x00"), request(typeClose).text("\x00\x00\x00\x00"),
	} {
		f.Add(append([]byte{byte(len(seed.data) >> 8), byte(len(seed.data))}, seed.data...), false)
	}
	f.Fuzz(func(t *testing.T, stream []byte, walk bool) {
		root := t.TempDir()
		t.Cleanup(func() {
			// Whoever is not root could not remove folders that lost their rights.
			_ = filepath.WalkDir(root, func(path string, _ os.DirEntry, _ error) error {
				if found, err := os.Lstat(path); err == nil && found.IsDir() {
					return os.Chmod(path, 0o755)
				}
				return nil
			})
		})
		s := open(t, Rules{Root: root, Umask: -1, Session: 1 << 20}, walk)
		for len(stream) >= 2 {
			size := min(int(stream[0])<<8|int(stream[1]), len(stream)-2)
			packet := stream[2 : 2+size]
			stream = stream[2+size:]
			if size == 0 {
				continue
			}
			s.reply.buffer = s.reply.buffer[:0]
			if s.handle(packet) != nil {
				continue
			}
			answer := &fields{rest: s.reply.buffer}
			if length := answer.word(); int(length) != len(answer.rest) || length < 5 {
				t.Fatalf("%q has the answer %q", packet, s.reply.buffer)
			}
		}
	})
}

func TestUploadOnlyKnowsItsFilesFromOthersOfTheSameNumber(t *testing.T) {
	root := t.TempDir()
	s := open(t, Rules{Root: root, UploadOnly: true, Umask: -1}, false)
	place := filepath.Join(root, "new")
	for range 16 {
		handle := s.handleOf(request(typeOpen).text("/new").word(flagWrite | flagCreate).word(0))
		s.ask(request(typeClose).text(handle))
		var ours, other syscall.Stat_t
		if err := syscall.Lstat(place, &ours); err != nil {
			t.Fatal(err)
		}
		// Whoever collects what was uploaded takes it away, and something else gets its number. File systems tell times in
		// ticks of the system's clock.
		time.Sleep(20 * time.Millisecond)
		if err := os.Remove(place); err != nil {
			t.Fatal(err)
		}
		write(t, place, "secret")
		if err := syscall.Lstat(place, &other); err != nil {
			t.Fatal(err)
		}
		if identityOf(&ours) == identityOf(&other) {
			if got := s.ask(request(typeStat).text("/new")).kind; got != typeStatus {
				t.Error("another's file is shown")
			}
			if got := s.status(request(typeSetstat).text("/new").word(attrSize).long(0)); got != statusDenied {
				t.Errorf("another's file is cut: %d", got)
			}
			if got := s.status(request(typeSetstat).text("/new").word(attrPermissions).word(0o777)); got != statusDenied {
				t.Errorf("another's file gets another mode: %d", got)
			}
			if got := s.status(request(typeRename).text("/new").text("/taken")); got != statusDenied {
				t.Errorf("another's file gets another name: %d", got)
			}
			return
		}
		os.Remove(place)
	}
	t.Skip("this file system does not give numbers again")
}
