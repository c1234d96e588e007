"""The default seccomp profile: it allows the system calls that programs in a container need, and no calls that affect
the host.

Unknown system calls return ENOSYS, so that programs fall back to older ones; calls refused on purpose return EPERM.
"""

from __future__ import annotations

import platform
from collections.abc import Collection
from functools import lru_cache
from typing import Any

_ENOSYS = 38
_EPERM = 1

_FILES = """
access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 epoll_create epoll_create1
epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 faccessat faccessat2
fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64
fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate
ftruncate64 futimesat getcwd getdents getdents64 getxattr getxattrat inotify_add_watch inotify_init inotify_init1
inotify_rm_watch ioctl io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit lchown lchown32 lgetxattr
link linkat listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 memfd_create mkdir
mkdirat mknod mknodat name_to_handle_at newfstatat _newselect oldfstat oldlstat oldstat open openat openat2 pipe pipe2
poll ppoll ppoll_time64 pread64 preadv preadv2 pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead
readlink readlinkat readv removexattr removexattrat rename renameat renameat2 rmdir select sendfile sendfile64
setxattr setxattrat splice stat stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range sync_file_range2
arm_sync_file_range syncfs tee truncate truncate64 umask unlink unlinkat utime utimensat utimensat_time64 utimes
vmsplice write writev cachestat landlock_add_rule landlock_create_ruleset landlock_restrict_self
"""

_MEMORY = """
brk get_mempolicy madvise mbind membarrier mincore mlock mlock2 mlockall mmap mmap2 mprotect mremap mseal msync
munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_madvise process_mrelease remap_file_pages
set_mempolicy map_shadow_stack memfd_secret
"""

_PROCESSES = """
alarm arch_prctl capget capset execve execveat exit exit_group fork futex futex_requeue futex_time64 futex_wait
futex_waitv futex_wake getcpu getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer
getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit
get_robust_list getrusage getsid get_thread_area gettid getuid getuid32 ioprio_get ioprio_set kill nanosleep pause
pidfd_open pidfd_send_signal prctl prlimit64 process_vm_readv process_vm_writev ptrace restart_syscall rseq
rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam sched_get_priority_max
sched_get_priority_min sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity
sched_setattr sched_setparam sched_setscheduler sched_yield seccomp setfsgid setfsgid32 setfsuid setfsuid32 setgid
setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid
setresuid32 setreuid setreuid32 setrlimit set_robust_list setsid set_thread_area set_tid_address setuid setuid32
sigaltstack signal signalfd signalfd4 sigpending sigprocmask sigreturn sigsuspend tgkill time times tkill ugetrlimit
vfork wait4 waitid waitpid pidfd_getfd chroot
"""

_IPC_AND_TIME = """
clock_adjtime clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64
gettimeofday ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend
mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat
shmctl shmdt shmget sysinfo timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime
timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 uname adjtimex
"""

_SOCKETS = """
accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmmsg_time64 recvmsg
send sendmmsg sendmsg sendto setsockopt shutdown socketpair
"""

ALLOWED = frozenset(f"{_FILES} {_MEMORY} {_PROCESSES} {_IPC_AND_TIME} {_SOCKETS}".split())

_REFUSED = """
acct add_key bpf clock_settime clock_settime64 create_module delete_module fanotify_init finit_module fsconfig fsmount
fsopen fspick get_kernel_syms init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp
kexec_file_load kexec_load keyctl lookup_dcookie mount mount_setattr move_mount move_pages migrate_pages nfsservctl
open_by_handle_at open_tree open_tree_attr perf_event_open pivot_root query_module quotactl quotactl_fd reboot
request_key set_mempolicy_home_node setdomainname sethostname setns settimeofday statmount listmount stime swapoff
swapon sysfs syslog umount umount2 unshare uselib userfaultfd ustat vhangup vm86 vm86old
"""

REFUSED = frozenset(_REFUSED.split())

BY_CAPABILITY = {
    "CAP_SYS_ADMIN": (
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree "
        "perf_event_open pivot_root quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare"
    ),
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_SYS_BOOT": "reboot kexec_load kexec_file_load",
    "CAP_SYS_MODULE": "delete_module init_module finit_module",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp",
    "CAP_SYS_RAWIO": "ioperm iopl",
    "CAP_SYS_TIME": "clock_settime clock_settime64 settimeofday stime",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYS_NICE": "migrate_pages move_pages set_mempolicy_home_node",
    "CAP_SYSLOG": "syslog",
    "CAP_BPF": "bpf",
    "CAP_PERFMON": "perf_event_open",
}
"""The system calls that a capability requires; they are allowed together with it."""

# Socket families (linux/socket.h) that containers use; others are legacy code, or reach the host (vsock).
_FAMILIES = (1, 2, 10, 16, 17)  # unix, inet, inet6, netlink, packet

# Every CLONE_NEW* flag (linux/sched.h).
_NEW_NAMESPACES = 0x7E02_0000

# Personalities (linux/personality.h): Linux and Linux32, with and without ADDR_NO_RANDOMIZE, and the query.
_PERSONALITIES = (0x0, 0x0008, 0x0004_0000, 0x0004_0008, 0x0002_0000, 0x0002_0008, 0xFFFF_FFFF)

_ARCHITECTURES = {
    "x86_64": "SCMP_ARCH_X86_64",
    "aarch64": "SCMP_ARCH_AARCH64",
    "armv7l": "SCMP_ARCH_ARM",
    "riscv64": "SCMP_ARCH_RISCV64",
    "ppc64le": "SCMP_ARCH_PPC64LE",
    "s390x": "SCMP_ARCH_S390X",
}


def default_profile(capabilities: Collection[str]) -> dict[str, Any]:
    """The seccomp profile (``linux.seccomp`` of the OCI runtime specification) for a container with *capabilities*."""
    return _profile(frozenset(BY_CAPABILITY) & frozenset(capabilities), platform.machine())


@lru_cache(maxsize=64)
def _profile(capabilities: frozenset[str], machine: str) -> dict[str, Any]:
    granted = {call for capability in capabilities for call in BY_CAPABILITY[capability].split()}
    rules: list[dict[str, Any]] = [
        {"names": sorted(ALLOWED | granted), "action": "SCMP_ACT_ALLOW"},
        {"names": sorted(REFUSED - granted), "action": "SCMP_ACT_ERRNO", "errnoRet": _EPERM},
    ]
    rules += [_allow("personality", 0, value) for value in _PERSONALITIES]
    rules += [_allow("socket", 0, family) for family in _FAMILIES]
    if "clone" not in granted:
        # s390 has the flags in the second argument. clone3 passes them in memory, so it is not allowed: programs then
        # use clone.
        flags = 1 if machine == "s390x" else 0
        rules.append(
            {
                "names": ["clone"],
                "action": "SCMP_ACT_ALLOW",
                "args": [{"index": flags, "value": _NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
            }
        )
    profile: dict[str, Any] = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": _ENOSYS, "syscalls": rules}
    if architecture := _ARCHITECTURES.get(machine):
        profile["architectures"] = [architecture]
    return profile


def _allow(name: str, index: int, value: int) -> dict[str, Any]:
    return {
        "names": [name],
        "action": "SCMP_ACT_ALLOW",
        "args": [{"index": index, "value": value, "op": "SCMP_CMP_EQ"}],
    }
