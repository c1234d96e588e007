package files

import (
	"os"
	"path/filepath"
)

// Install copies the running binary to the file agent in folder, with mode 0755. Other processes see either no file or
// the complete one.
func Install(folder string) error {
	own, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer own.Close()
	found, err := own.Stat()
	if err != nil {
		return err
	}
	absolute, err := filepath.Abs(folder)
	if err != nil {
		return err
	}
	return Write(filepath.Join(absolute, "agent"), own, found.Size(), 0o755, nil)
}
