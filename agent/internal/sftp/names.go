package sftp

import (
	"io"
	"os"
	"strconv"
	"strings"
)

// maxDatabase limits how much of /etc/passwd and /etc/group is read, since they come from the image.
const maxDatabase = 1 << 20

// names holds users and groups, for listings and home folders. The files are read when first needed.
type names struct {
	users, groups map[uint32]string
	homes         map[string]string
}

func (n *names) load() {
	if n.users != nil {
		return
	}
	n.users, n.groups, n.homes = map[uint32]string{}, map[uint32]string{}, map[string]string{}
	each("/etc/passwd", 6, func(id uint32, fields []string) {
		if _, known := n.users[id]; !known {
			n.users[id] = fields[0]
		}
		if _, known := n.homes[fields[0]]; !known {
			n.homes[fields[0]] = fields[5]
		}
	})
	each("/etc/group", 3, func(id uint32, fields []string) {
		if _, known := n.groups[id]; !known {
			n.groups[id] = fields[0]
		}
	})
}

func each(path string, least int, add func(uint32, []string)) {
	file, err := os.Open(path)
	if err != nil {
		return
	}
	defer file.Close()
	content, _ := io.ReadAll(io.LimitReader(file, maxDatabase))
	for rest := string(content); rest != ""; {
		line, after, _ := strings.Cut(rest, "\n")
		rest = after
		fields := strings.SplitN(line, ":", 8)
		if len(fields) < least || fields[0] == "" || len(fields[0]) > 256 {
			continue
		}
		if id, err := strconv.ParseUint(fields[2], 10, 32); err == nil {
			add(uint32(id), fields)
		}
	}
}

func (n *names) findUser(id uint32) (string, bool) {
	n.load()
	name, known := n.users[id]
	return name, known
}

func (n *names) findGroup(id uint32) (string, bool) {
	n.load()
	name, known := n.groups[id]
	return name, known
}

func (n *names) user(id uint32) string {
	if name, known := n.findUser(id); known {
		return name
	}
	return strconv.FormatUint(uint64(id), 10)
}

func (n *names) group(id uint32) string {
	if name, known := n.findGroup(id); known {
		return name
	}
	return strconv.FormatUint(uint64(id), 10)
}

// home returns the home folder of a user; with an empty name, that of the current user.
func (n *names) home(name string) string {
	n.load()
	if name == "" {
		if home := os.Getenv("HOME"); home != "" {
			return home
		}
		name = n.users[uint32(os.Getuid())]
	}
	return n.homes[name]
}
