package files

import (
	"os"
	"path/filepath"
)

// Install copies the program that runs into the folder, as the file agent, for everybody to execute. Who looks there
// sees nothing or the whole file.
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
