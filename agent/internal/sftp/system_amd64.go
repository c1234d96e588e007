package sftp

const (
	sysFstatat       = 262
	sysRenameat2     = 316
	sysCopyFileRange = 326
)
