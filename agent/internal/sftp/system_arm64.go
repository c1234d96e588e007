package sftp

const (
	sysFstatat       = 79
	sysRenameat2     = 276
	sysCopyFileRange = 285
)
