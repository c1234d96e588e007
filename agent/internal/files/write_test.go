package files

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestAFileIsWholeOrNotThere(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "a", "b")
	if err := Write(path, strings.NewReader("content and more"), 7, 0o4750, nil); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil || string(content) != "content" {
		t.Fatal(string(content), err)
	}
	found, err := os.Stat(path)
	if err != nil || found.Mode() != 0o750|os.ModeSetuid {
		t.Fatal(found.Mode(), err)
	}
	if err := Write(path, strings.NewReader("short"), 6, 0o600, nil); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	content, _ = os.ReadFile(path)
	entries, _ := os.ReadDir(filepath.Dir(path))
	if string(content) != "content" || len(entries) != 1 {
		t.Fatal(string(content), entries)
	}
}

func TestAPathMustBeAbsoluteAndNameAFile(t *testing.T) {
	for _, path := range []string{"", "relative", "/", "/folder/", "/nul\x00"} {
		if err := Write(path, strings.NewReader(""), 0, 0o600, nil); !errors.Is(err, syscall.EINVAL) {
			t.Fatal(path, err)
		}
	}
}
