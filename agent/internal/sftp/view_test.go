package sftp

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// tree has a root with links that try to lead out, and a secret outside.
func tree(t *testing.T) (outside, root string) {
	t.Helper()
	outside = t.TempDir()
	root = filepath.Join(outside, "root")
	if err := os.MkdirAll(root+"/folder/deep", 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, outside+"/secret", "secret")
	write(t, root+"/folder/deep/file", "inside")
	for name, target := range map[string]string{
		"up": "../..", "out": outside, "to-secret": "../secret", "absolute": outside + "/secret", "loop": "loop",
		"good": "/folder/deep", "relative": "folder/deep/file", "chain": "good/file", "dangling": "folder/new",
		"far": strings.Repeat("../", 40) + "secret", "process": "/proc/self/root",
	} {
		if err := os.Symlink(target, root+"/"+name); err != nil {
			t.Fatal(err)
		}
	}
	return outside, root
}

func bothWays(t *testing.T, run func(t *testing.T, walk bool)) {
	for _, walk := range []bool{false, true} {
		t.Run(fmt.Sprintf("walk=%v", walk), func(t *testing.T) { run(t, walk) })
	}
}

func TestNothingLeadsOutOfARoot(t *testing.T) {
	bothWays(t, func(t *testing.T, walk bool) {
		outside, root := tree(t)
		s := open(t, Rules{Root: root, Umask: -1}, walk)
		for _, path := range []string{
			"../secret", "/../secret", "folder/../../secret", "up/secret", "out/secret", "to-secret", "absolute", "far",
			outside + "/secret", "//..//secret", "folder/deep/../../../secret", "process" + outside + "/secret",
			"up/up/up/secret", "./../../secret", "loop", "loop/secret",
		} {
			if content, status := s.content(path); status != statusNoSuchFile {
				t.Errorf("%s: status %d, %q", path, status, content)
			}
		}
		for _, path := range []string{
			"/folder/deep/file", "folder/deep/file", "good/file", "relative", "chain", "/../folder/./deep//file",
			"folder/../../folder/deep/file", "../../good/file",
		} {
			if content, status := s.content(path); content != "inside" {
				t.Errorf("%s: status %d", path, status)
			}
		}
	})
}

func TestNothingIsChangedOutsideOfARoot(t *testing.T) {
	bothWays(t, func(t *testing.T, walk bool) {
		outside, root := tree(t)
		before, _ := os.Stat(outside + "/secret")
		s := open(t, Rules{Root: root, Umask: -1}, walk)
		none := func(p packet) packet { return p.word(0) }
		for _, one := range []packet{
			none(request(typeOpen).text("to-secret").word(flagWrite | flagTrunc)),
			none(request(typeOpen).text("out/new").word(flagWrite | flagCreate)),
			none(request(typeMkdir).text("out/new")),
			request(typeRemove).text("up/secret"),
			request(typeRemove).text("../secret"),
			request(typeRmdir).text("out/root"),
			request(typeRename).text("../secret").text("mine"),
			request(typeRename).text("folder/deep/file").text("out/new"),
			request(typeExtended).text("posix-rename@openssh.com").text("relative").text("out/secret"),
			request(typeExtended).text("hardlink@openssh.com").text("../secret").text("mine"),
			request(typeExtended).text("hardlink@openssh.com").text("out/secret").text("mine"),
			request(typeSymlink).text("x").text("out/new"),
			request(typeSetstat).text("to-secret").word(attrPermissions).word(0),
			request(typeSetstat).text("to-secret").word(attrSize).long(0),
			request(typeSetstat).text("absolute").word(attrTimes).word(1).word(1),
			request(typeExtended).text("lsetstat@openssh.com").text("out/secret").word(attrTimes).word(1).word(1),
		} {
			if status := s.status(one); status == statusOK {
				t.Errorf("%q was done", one.data)
			}
		}
		// The link itself is the client's, wherever it points.
		if status := s.status(request(typeExtended).text("hardlink@openssh.com").text("to-secret").text("copy")); status != statusOK {
			t.Error("a link cannot be linked", status)
		}
		if content, err := os.ReadFile(outside + "/secret"); err != nil || string(content) != "secret" {
			t.Fatal(err, content)
		}
		after, _ := os.Stat(outside + "/secret")
		if after.Mode() != before.Mode() || !after.ModTime().Equal(before.ModTime()) {
			t.Fatal(after)
		}
		if names, _ := os.ReadDir(outside); len(names) != 2 {
			t.Fatal(names)
		}
	})
}

func TestAFolderThatIsReplacedByALinkMeanwhileLeadsNowhere(t *testing.T) {
	bothWays(t, func(t *testing.T, walk bool) {
		outside, root := tree(t)
		write(t, root+"/folder/secret", "mine")
		if err := os.Symlink(outside, root+"/trap"); err != nil {
			t.Fatal(err)
		}
		s := open(t, Rules{Root: root, Umask: -1}, walk)
		var stop atomic.Bool
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for !stop.Load() {
				// One step for both: there is always a folder or a link of this name.
				_ = atBoth(sysRenameat2, atWorkingFolder, root+"/folder", atWorkingFolder, root+"/trap", 2)
			}
		}()
		seen := map[string]int{}
		for range 20000 {
			content, _ := s.content("folder/secret")
			seen[content]++
			descriptor, name, err := s.view.parent("folder/secret")
			if err == nil {
				found, err := fstatat(descriptor, name, atNoFollow)
				if err == nil && found.Size == int64(len("secret")) {
					t.Fatal("the parent is outside")
				}
				release(descriptor)
			}
		}
		stop.Store(true)
		<-ended
		if seen["secret"] > 0 || seen["mine"] == 0 || seen[""] == 0 {
			t.Fatal(seen)
		}
	})
}

func TestARealPathIsOneBelowTheRoot(t *testing.T) {
	bothWays(t, func(t *testing.T, walk bool) {
		_, root := tree(t)
		s := open(t, Rules{Root: root, Umask: -1}, walk)
		for path, real := range map[string]string{
			"": "/", ".": "/", "/": "/", "..": "/", "good": "/folder/deep", "chain": "/folder/deep/file",
			"good/..": "/folder", "good/new": "/folder/deep/new", "dangling": "/folder/new", "up": "/",
			"folder//deep/./": "/folder/deep",
		} {
			a := s.ask(request(typeRealpath).text(path))
			if a.kind != typeName {
				t.Errorf("%q: status %d", path, a.word())
			} else if a.word(); a.text() != real {
				t.Errorf("%q is not %q", path, real)
			}
		}
		for _, path := range []string{"loop", "none/none", "relative/more"} {
			if status := s.status(request(typeRealpath).text(path)); status == statusOK {
				t.Error(path)
			}
		}
	})
}

func TestAFileIsMadeThroughADanglingLinkButNotWhereItMustBeNew(t *testing.T) {
	bothWays(t, func(t *testing.T, walk bool) {
		_, root := tree(t)
		s := open(t, Rules{Root: root, Umask: -1}, walk)
		exclusive := request(typeOpen).text("dangling").word(flagWrite | flagCreate | flagExcl).word(0)
		if status := s.status(exclusive); status == statusOK {
			t.Fatal("made")
		}
		s.handleOf(request(typeOpen).text("dangling").word(flagWrite | flagCreate).word(0))
		if _, err := os.Lstat(root + "/folder/new"); err != nil {
			t.Fatal(err)
		}
	})
}

func TestWhatIsAboveARootIsNotShown(t *testing.T) {
	outside, root := tree(t)
	if err := os.Chmod(outside, 0o711); err != nil {
		t.Fatal(err)
	}
	s := open(t, Rules{Root: root, Umask: -1}, false)
	handle := s.handleOf(request(typeOpendir).text("/"))
	a := s.ask(request(typeReaddir).text(handle))
	for count := a.word(); count > 0; count-- {
		name, _, found := a.text(), a.text(), a.attributes()
		if name == ".." && found.permissions&0o777 != 0o755 {
			t.Fatalf("%o", found.permissions)
		}
	}
	if a.failed {
		t.Fatal("a malformed list")
	}
}

func TestManyFoldersDeepIsAnErrorAndNotAllDescriptors(t *testing.T) {
	_, root := tree(t)
	s := open(t, Rules{Root: root, Umask: -1}, true)
	deep := "/"
	for range 400 {
		deep += "d/"
		if err := syscall.Mkdir(root+deep, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.view.open(deep, openPath, 0); err != syscall.ENAMETOOLONG {
		t.Fatal(err)
	}
}
