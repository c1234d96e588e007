package sftp

const (
	sysFstatat       = 262
	sysRenameat2     = 316
	sysStatx         = 332
	sysCopyFileRange = 326
)
