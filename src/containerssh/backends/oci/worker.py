# Plain system calls: most of this runs in a child between fork and exec.
# ruff: noqa: PTH208, PTH123, S606
"""
The helper process: mounts, starts and ends the containers of one gateway (see the package's docstring).

It is single-threaded and never blocks: anything that may take long runs in a child. It speaks JSON, one object per
packet, over an inherited socket:

- in: ``{"task": n, "do": "run"|"check"|"exec"|"call", ...}`` starts a child, ``{"task": n, "do": "stop"|"kill"}`` ends
it;

- out: ``{"task": n, "ended": status, "output": the end of its output}``, once.

When the gateway ends for any reason, the socket closes: the helper then kills all containers and exits. A container's
output is a file on a small file system of its own, which is read once, at the end. It is not a pipe: a guest that
writes to a pipe from memory whose pages are slow to load (userfaultfd, FUSE) holds the pipe's lock and blocks even a
non-blocking reader. Nor is it a socket, which can carry descriptors whose closing can block (``SO_LINGER``).

Without root, the helper first creates a user namespace, for which the gateway writes the id maps: it sends ``{"map":
pid}`` and waits for ``{"mapped": true}``.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from containerssh.backends.oci import syscalls, trees
from containerssh.backends.oci.assembly import assemble, hide_unified, new_user_namespace

PACKET = 128 * 1024
_TAIL = 8 * 1024
_GIVE_UP = 5.0


@dataclass(eq=False)
class _Task:
    number: int
    pid: int
    words: socket.socket
    """
    The error messages of the child itself. Only the helper and host programs that it starts hold the other end; it is
    closed before a container starts.
    """
    is_runtime: bool
    output: int | None = None
    """The file with a container's output, opened for reading; guests may have it open too and modify it in any way."""
    tail: bytearray = field(default_factory=bytearray)

    def hear(self) -> bool:
        """Read available data and keep the end of it; False at EOF."""
        try:
            data, files, _, _ = socket.recv_fds(self.words, 65_536, 1)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        if files:
            self.output = files[0]
        self.tail += data
        del self.tail[:-_TAIL]
        return bool(data)

    def close(self) -> bytes:
        """Close all descriptors; return the messages followed by the end of the output."""
        self.words.close()
        if self.output is None:
            return bytes(self.tail)
        try:
            start = max(0, os.fstat(self.output).st_size - _TAIL)
            return bytes(self.tail) + os.pread(self.output, _TAIL, start)
        finally:
            os.close(self.output)


class Worker:
    """The state of the helper process."""

    def __init__(self, gateway: socket.socket) -> None:
        self._gateway = gateway
        self._tasks: dict[int, _Task] = {}
        self._idmaps: dict[tuple[int, int], int] = {}
        self._events = selectors.DefaultSelector()

    def enter_user_namespace(self) -> None:
        """Create a user namespace and become root in it; the gateway maps the ids that it may use."""
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        self._say({"map": os.getpid()})
        if json.loads(self._gateway.recv(PACKET)) != {"mapped": True}:
            sys.exit(1)
        os.setresgid(0, 0, 0)
        os.setgroups([])
        os.setresuid(0, 0, 0)

    def serve(self) -> None:
        """Process orders until the gateway has gone; then end all children."""
        woken, wakes = socket.socketpair()
        for end in (woken, wakes):
            end.setblocking(False)
        signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._events.register(self._gateway, selectors.EVENT_READ)
        self._events.register(woken, selectors.EVENT_READ)
        self._say({"ready": True})
        while True:
            for key, _ in self._events.select():
                if key.fileobj is self._gateway:
                    if not (packet := self._receive()):
                        self._end_all()
                        return
                    self._obey(json.loads(packet))
                elif key.fileobj is woken:
                    with contextlib.suppress(BlockingIOError):
                        woken.recv(4096)
                    self._reap()
                else:
                    self._hear(key.data)

    def _receive(self) -> bytes:
        try:
            return self._gateway.recv(PACKET)
        except ConnectionError:
            return b""

    def _hear(self, task: _Task) -> None:
        # The task may have ended in the same batch of events; its descriptor may be closed or reused.
        if self._tasks.get(task.number) is task and not task.hear():
            self._events.unregister(task.words)

    def _say(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the end of the socket shows that the gateway has gone
            self._gateway.send(json.dumps(message).encode())

    # Children

    def _obey(self, order: dict[str, Any]) -> None:
        number, action = order["task"], order["do"]
        if action in ("stop", "kill"):
            if task := self._tasks.get(number):
                _end(task, at_once=action == "kill")
                self._kill_orphans()
            else:
                self._say({"task": number, "ended": 125, "output": "it was never started"})
            return
        try:
            if action in ("run", "check") and (idmap := order.get("idmap")) and not order.get("user_namespace"):
                order["idmap_fd"] = self._idmap(*idmap)
            task = self._fork(number, action, order)
        except OSError as exc:
            self._say({"task": number, "ended": 125, "output": str(exc)})
            return
        self._tasks[number] = task

    def _fork(self, number: int, action: str, order: dict[str, Any]) -> _Task:
        words, said = socket.socketpair()
        with said:
            pid = os.fork()
            if pid == 0:
                _become(action, order, said)
        words.setblocking(False)
        task = _Task(number, pid, words, action in ("run", "check"))
        self._events.register(words, selectors.EVENT_READ, task)
        return task

    def _reap(self) -> None:
        by_pid = {task.pid: task for task in self._tasks.values()}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if task := by_pid.get(pid):
                self._ended(task, os.waitstatus_to_exitcode(status))

    def _ended(self, task: _Task, status: int) -> None:
        # Read what is available, without waiting for EOF: orphans of a host program may hold the other end.
        with contextlib.suppress(KeyError):
            self._events.unregister(task.words)
        for _ in range(16):
            before = len(task.tail)
            if not task.hear() or len(task.tail) == before:
                break
        output = task.close()
        del self._tasks[task.number]
        if task.is_runtime:
            self._kill_orphans()
        self._say({"task": task.number, "ended": status, "output": output.decode(errors="replace")})

    def _kill_orphans(self) -> None:
        """Kill children without a task: their runtime has died, so nothing manages their container."""
        known = {task.pid for task in self._tasks.values()}
        for pid in _children(os.getpid()):
            if pid not in known:
                _kill_child(pid, os.getpid())

    def _end_all(self) -> None:
        deadline = time.monotonic() + _GIVE_UP
        while self._tasks or _children(os.getpid()):
            late = time.monotonic() > deadline
            for task in list(self._tasks.values()):
                _end(task, at_once=late or not task.is_runtime)
            self._kill_orphans()
            self._reap()
            if late and time.monotonic() > deadline + _GIVE_UP:
                return
            time.sleep(0.01)

    def _idmap(self, base: int, size: int) -> int:
        """A descriptor of a user namespace with the map 0 -> *base*; created once."""
        if (base, size) not in self._idmaps:
            self._idmaps[base, size] = new_user_namespace(base, size)
        return self._idmaps[base, size]


def _children(pid: int) -> list[int]:
    """The children of all threads of *pid*: runc may fork from any of its threads."""
    children: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                children += map(int, file.read().split())
    return children


def _end(task: _Task, *, at_once: bool) -> None:
    """
    End a task: for a runtime, kill the container's first process and let the runtime clean up; kill other children.
    """
    children = _children(task.pid) if task.is_runtime else []
    for child in children:
        _kill_child(child, task.pid)
    if at_once:
        with contextlib.suppress(ProcessLookupError):
            os.kill(task.pid, signal.SIGKILL)


def _kill_child(pid: int, parent: int) -> None:
    """Kill *pid* if it is still a child of *parent*; uses a pidfd, since process ids are reused."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with open(f"/proc/{pid}/stat") as file:
            current = int(file.read().rpartition(")")[2].split()[1])
        if current == parent:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
        return
    finally:
        os.close(descriptor)


# In the child


def _become(action: str, order: dict[str, Any], words: socket.socket) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for source, target in ((nothing, 0), (words.fileno(), 1), (words.fileno(), 2)):
            os.dup2(source, target)
        os.umask(0o022)
        if action == "call":
            _CALLS[order["function"]](**order["arguments"])
            os._exit(0)
        if action in ("run", "check") or order.get("hide_unified"):
            syscalls.unshare(syscalls.CLONE_NEWNS)
            syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_SLAVE)
            if order.get("hide_unified"):
                hide_unified()
        if action in ("run", "check"):
            assemble(order)
        if action == "check":
            os._exit(0)
        if action == "run":
            _end_input()
            _hand_over_output(f"{order['at']}/output", words)
        argv = order["argv"]
        os.execvpe(argv[0], argv, order["environment"])
    except BaseException as exc:  # noqa: BLE001  a forked child must never return into the worker's loop
        reason = f"{exc}" if isinstance(exc, OSError) else f"{type(exc).__name__}: {exc}"
        words.send(f"{reason}\n".encode(errors="replace"))
    os._exit(125)


def _end_input() -> None:
    """
    Make standard input a pipe at its end. crun gives standard streams to the container's root: with ``/dev/null``, that
    would become the owner of the host's device.
    """
    reading, writing = os.pipe()
    os.dup2(reading, 0)
    os.close(writing)


def _hand_over_output(path: str, words: socket.socket) -> None:
    """Redirect output to the new file *path*; send the worker a descriptor for reading."""
    output = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    # Programs may also open it by the name /dev/stdout.
    os.fchmod(output, 0o666)
    reading = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    socket.send_fds(words, [b"\n"], [reading])
    for target in (1, 2):
        os.dup2(output, target)


_CALLS: dict[str, Callable[..., None]] = {
    "remove": trees.remove,
    "copy": trees.copy,
    "rename": os.rename,
    "shift": trees.shift,
    "bound": trees.bound,
}


def main(descriptor: int, *, user_namespace: bool) -> None:
    """Run the helper process until the gateway has gone."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the gateway decides when we end
    syscalls.set_process_name("containerssh-oci")
    syscalls.become_subreaper()
    os.set_inheritable(descriptor, False)  # inherited from the gateway; children must not inherit it
    worker = Worker(socket.socket(fileno=descriptor))
    if user_namespace:
        worker.enter_user_namespace()
    worker.serve()
