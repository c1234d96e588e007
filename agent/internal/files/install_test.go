package files

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestTheProgramCopiesItself(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "missing")
	if err := Install(folder); err != nil {
		t.Fatal(err)
	}
	copied, err := os.ReadFile(filepath.Join(folder, "agent"))
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.ReadFile("/proc/self/exe")
	if err != nil || !bytes.Equal(own, copied) {
		t.Fatal("the copy is another file", len(own), len(copied), err)
	}
	found, _ := os.Stat(filepath.Join(folder, "agent"))
	if found.Mode() != 0o755 {
		t.Fatal(found.Mode())
	}
}

func TestWhereNothingCanBeWrittenNothingIsInstalled(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if Install(file) == nil {
		t.Fatal("a file was taken for a folder")
	}
}
