package sftp

const (
	sysFstatat       = 79
	sysRenameat2     = 276
	sysStatx         = 291
	sysCopyFileRange = 285
)
