"""Attacks of a guest, or of an image, on the machine and on other logins of the embedded backend."""

from __future__ import annotations

import asyncio
import ctypes
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from containerssh.backends.oci import machine
from containerssh.backends.oci.launcher import Launcher
from containerssh.backends.oci.runtime import Runtime, find_runtimes, has_capability
from containerssh.config.oci import OCIConfig
from containerssh.core.errors import BackendError
from containerssh.core.handlers import ConnectionHandler
from tests.support.oci import (
    RUNTIMES,
    Told,
    config,
    image,
    logged_in,
    login,
    needs_root,
    open_backend,
    run,
    short_folder,
)
from tests.support.tools import tool

pytestmark = [needs_root, pytest.mark.root, pytest.mark.oci]

PYTHON = "/usr/bin/python3"
needs_python = pytest.mark.skipif(not Path(PYTHON).exists(), reason=f"no {PYTHON} to be run inside")
WITH_PYTHON = {"binds": [f"{folder}:{folder}:ro" for folder in ("/usr", "/lib", "/lib64") if Path(folder).exists()]}

DISK = Path("/").stat().st_dev


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def two_logins(**changes: Any) -> AsyncIterator[tuple[ConnectionHandler, ConnectionHandler]]:
    """Containers of one server."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(short_folder())
        backend, _ = await stack.enter_async_context(open_backend(folder))
        one, other = [
            await stack.enter_async_context(backend.login(login(), config(**changes), Told())) for _ in range(2)
        ]
        yield one, other


@contextmanager
def hostile_image() -> Iterator[Path]:
    """A copy of the demo's image, to be made hostile."""
    with tempfile.TemporaryDirectory(prefix="cs-image-", dir="/tmp") as name:
        root = Path(name) / "root"
        shutil.copytree(image(), root, symlinks=True)
        yield root


# -- from inside -------------------------------------------------------------------------------------------

TAKE_ALL = """
import ctypes, sys
libc = ctypes.CDLL(None)
count = 0
while libc.inotify_init1(0) >= 0: count += 1
print(count, flush=True)
sys.stdin.read()
"""


@needs_python
async def test_a_guest_that_takes_all_it_may_takes_nothing_from_others(runtime: str) -> None:
    """inotify instances are counted for the user who made the user namespace, too."""
    if runtime == "runc" and not has_capability(24):
        pytest.skip("runc needs CAP_SYS_RESOURCE for this")
    once = f"{PYTHON} -c 'import ctypes; print(ctypes.CDLL(None).inotify_init1(0) >= 0)'"
    async with two_logins(runtime=runtime, **WITH_PYTHON) as (greedy, other):
        script = f"cat > /tmp/take.py; {PYTHON} /tmp/take.py < /dev/zero > /tmp/count & "
        await run(greedy, f"{script} while ! test -s /tmp/count; do sleep 0.05; done", stdin=TAKE_ALL.encode())
        assert int((await run(greedy, "cat /tmp/count")).stdout) > 0
        descriptor = ctypes.CDLL(None).inotify_init1(0)
        assert descriptor >= 0, "root of the host"
        os.close(descriptor)
        assert (await run(other, once)).stdout == "True\n"


async def test_a_guest_cannot_change_the_devices_of_the_machine(runtime: str) -> None:
    """With a user namespace they are the host's own, bind-mounted; and runtimes make standard streams the guest's."""
    devices = [Path("/dev") / name for name in ("null", "zero", "full", "random", "urandom", "tty")]

    def owners() -> dict[Path, tuple[int, int, int]]:
        return {path: (found.st_mode, found.st_uid, found.st_gid) for path in devices if (found := path.stat())}

    before = owners()
    try:
        async with two_logins(runtime=runtime) as (guest, _):
            script = "for path in /dev/* /proc/1/fd/0; do chmod 600 $path; chown 1:1 $path; done; echo tried"
            assert (await run(guest, script)).stdout == "tried\n"
            assert owners() == before
    finally:
        for path, (mode, uid, gid) in before.items():
            os.chown(path, uid, gid)
            path.chmod(stat.S_IMODE(mode))


TAKE_TERMINALS = """
import os, sys
count = 0
try:
    while os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY): count += 1
except OSError: print(count, flush=True)
sys.stdin.read()
"""


@needs_python
async def test_a_guest_cannot_take_all_terminals_of_the_machine(runtime: str) -> None:
    once = f"{PYTHON} -c 'import os; print(os.open(\"/dev/ptmx\", os.O_RDWR) > 0)'"
    async with two_logins(runtime=runtime, **WITH_PYTHON) as (greedy, other):
        script = f"cat > /tmp/take.py; ulimit -n 5000; {PYTHON} /tmp/take.py < /dev/zero > /tmp/count & "
        await run(greedy, f"{script} while ! test -s /tmp/count; do sleep 0.05; done", stdin=TAKE_TERMINALS.encode())
        assert (await run(greedy, "cat /tmp/count")).stdout == "256\n"
        assert (await run(other, once)).stdout == "True\n"


@contextmanager
def slow_folder() -> Iterator[tuple[Path, int]]:
    """A network's file system with one file, and the process that it waits for."""
    server, sshfs = Path("/usr/lib/openssh/sftp-server"), tool("sshfs")
    if not (server.exists() and Path("/dev/fuse").exists()):
        pytest.skip("no sftp-server or no /dev/fuse")
    with short_folder() as folder, ExitStack() as undo:
        (folder / "served").mkdir()
        (folder / "served/file").write_bytes(bytes(4096))
        (folder / "mounted").mkdir()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            serving = subprocess.Popen([server], stdin=theirs.fileno(), stdout=theirs.fileno())
            undo.callback(serving.wait)
            undo.callback(serving.kill)
            mount = [sshfs, "-f", f":{folder}/served", str(folder / "mounted"), "-o", "passive,allow_other"]
            mounting = subprocess.Popen(mount, stdin=ours.fileno(), stdout=ours.fileno())
            undo.callback(mounting.wait)
            undo.callback(lambda: subprocess.run(["umount", "-l", folder / "mounted"], stderr=subprocess.DEVNULL))
            undo.callback(mounting.kill)
        deadline = time.monotonic() + 10
        while not (folder / "mounted/file").exists():
            assert time.monotonic() < deadline, "the folder was not mounted"
            time.sleep(0.01)
        yield folder / "mounted", serving.pid


HOLD = """
import ctypes, mmap, os, time
libc = ctypes.CDLL(None)
memory = mmap.mmap(os.open("/slow/file", os.O_RDWR), 4096)
output = os.open("/proc/1/fd/1", os.O_WRONLY | os.O_APPEND)
print("ready", flush=True)
while not os.path.exists("/tmp/slow"): time.sleep(0.01)
os.write(output, b"listen")
libc.write(output, ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(memory))), ctypes.c_long(1))
"""


@needs_python
async def test_a_guest_that_writes_from_slow_memory_holds_nobody_up(runtime: str) -> None:
    """
    Who writes into a pipe holds its lock while his bytes are copied. They may be on another machine; a guest without
    such a folder can have a page taken away as often as it comes, by punching holes into a file in memory.
    """
    async with AsyncExitStack() as stack:
        slow, server = stack.enter_context(slow_folder())
        folder = stack.enter_context(short_folder())
        backend, _ = await stack.enter_async_context(open_backend(folder))
        with_slow = {"binds": [*WITH_PYTHON["binds"], f"{slow}:/slow"], "runtime": runtime}
        async with backend.login(login(), config(**with_slow), Told()) as guest:
            stack.callback(os.kill, server, signal.SIGCONT)
            script = f"cat > /tmp/hold.py; exec {PYTHON} /tmp/hold.py > /tmp/ready"
            holding = asyncio.create_task(run(guest, script, stdin=HOLD.encode()))
            stack.callback(holding.cancel)
            await run(guest, "while ! grep -q ready /tmp/ready; do sleep 0.05; done")
            os.kill(server, signal.SIGSTOP)
            await run(guest, "touch /tmp/slow; while ! grep -q 'python3) D' /proc/[0-9]*/stat; do sleep 0.05; done")
            for _ in range(3):
                async with asyncio.timeout(10), backend.login(login(), config(runtime=runtime), Told()) as other:
                    assert (await run(other, "echo alive")).stdout == "alive\n"
            assert not holding.done()
            os.kill(server, signal.SIGCONT)
            assert (await holding).status == 0


LINGER = """
import socket, struct, time
def gateway():
    connection = socket.socket(socket.AF_UNIX)
    connection.connect("/.containerssh/socket")
    return connection
first = gateway()  # is taken at once; the others wait until the server expects one, when nobody else has the files
server = socket.create_server(("127.0.0.1", 0))
kept = []
for _ in range(8):
    slow = socket.create_connection(server.getsockname())
    slow.setblocking(False)
    try:
        while True: slow.send(bytes(65536))
    except BlockingIOError: pass
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 20))
    kept.append(gateway())
    try: socket.send_fds(kept[-1], [b"word"], [slow.fileno()])
    except PermissionError:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes(8))
    slow.close()
    print("sent", flush=True)
time.sleep(100)
"""


@needs_python
async def test_open_files_that_a_guest_sends_hold_nobody_up() -> None:
    """Closing a connection whose peer does not read takes as long as it is told to linger."""
    async with two_logins(**WITH_PYTHON) as (guest, other):
        script = f"cat > /tmp/linger.py; exec {PYTHON} /tmp/linger.py > /tmp/sent"
        sending = asyncio.create_task(run(guest, script, stdin=LINGER.encode()))
        try:
            async with asyncio.timeout(10):
                await run(guest, 'until test "$(wc -l < /tmp/sent)" = 8; do sleep 0.05; done')
                for _ in range(3):
                    await run(guest, "true")  # for which the server takes the connections of the guest
                    assert (await run(other, "echo alive")).stdout == "alive\n"
        finally:
            sending.cancel()
            await asyncio.wait((sending,))


async def test_what_a_container_says_is_kept_as_far_as_a_small_file_goes(runtime: str) -> None:
    async with logged_in(runtime=runtime) as connection:
        await run(connection, "timeout 2 cat /dev/zero > /proc/1/fd/1; timeout 2 cat /dev/zero >> /proc/1/fd/2")
        kept = await run(connection, "test -p /proc/1/fd/1 || wc -c < /proc/1/fd/1")
    # runc has pipes of its own for it.
    assert kept.stdout == "" if runtime == "runc" else 0 < int(kept.stdout) <= 1024 * 1024


async def test_guests_of_one_server_cannot_reach_each_other(runtime: str) -> None:
    """Here they share a range of ids: all that keeps them apart is namespaces."""
    async with two_logins(runtime=runtime, userNamespace={"ranges": 1}) as (attacker, victim):
        mark = secrets.token_hex(8)
        await run(victim, f"echo {mark} > /tmp/secret; trap '' HUP; (sleep 100 & echo $! > /tmp/pid)")
        seen = await run(attacker, f"grep -r {mark} /tmp /run /proc/1/root/tmp 2>/dev/null; ps | grep -c 'sleep 10[0]'")
        assert seen.stdout.split() == ["0"]
        await run(
            attacker,
            "kill -9 -1; for pid in $(seq 2 400); do kill -9 $pid; done 2>/dev/null; rm -rf /tmp /.containerssh",
        )
        left = await run(victim, "cat /tmp/secret; kill -0 $(cat /tmp/pid) && echo alive")
        assert left.stdout.split() == [mark, "alive"]


@pytest.mark.parametrize(
    "attempt",
    [
        "echo x > /.containerssh/agent",
        "echo x >> /proc/1/exe",
        "dd if=/dev/zero of=/proc/1/exe count=1",
        "chmod 777 /.containerssh/agent",
        "chown 1 /.containerssh/agent",
        "ln /.containerssh/agent /.containerssh/other",
        "rm /.containerssh/socket",
        "touch /.containerssh/x",
        "mount -o remount,rw /.containerssh",
        "mount -o bind /.containerssh /tmp",
    ],
)
async def test_the_agent_that_all_containers_share_cannot_be_changed(attempt: str) -> None:
    async with logged_in() as connection:
        before = await run(connection, "sha256sum < /.containerssh/agent; ls -l /.containerssh")
        assert (await run(connection, attempt)).status != 0
        after = await run(connection, "sha256sum < /.containerssh/agent; ls -l /.containerssh")
        assert after == before


# -- an image ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "target"),
    [
        (".containerssh", "/etc"),
        (".containerssh", "../../../../../../../../tmp"),
        (".containerssh", "/proc/self/fd"),
        ("etc/hosts", "/proc/sys/kernel/core_pattern"),
        ("etc/resolv.conf", "../../../../../../../../etc/passwd"),
        ("dev", "/tmp"),
    ],
)
async def test_links_where_the_server_mounts_lead_nowhere_outside(runtime: str, name: str, target: str) -> None:
    """The login works or fails; on the host nothing changes."""
    files = [Path("/etc/passwd"), Path("/etc/hosts"), Path("/proc/sys/kernel/core_pattern")]
    with hostile_image() as root:
        before = [file.read_bytes() for file in files]
        place = root / name
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)
        place.symlink_to(target)
        with suppress(BackendError):
            async with asyncio.timeout(30), logged_in(image=str(root), runtime=runtime) as connection:
                done = await run(connection, "id -u; cat /proc/self/uid_map")
                user, inside, outside, size = done.stdout.split()
                assert (user, inside, size) == ("0", "0", "65536")
                assert int(outside) >= 0x70000000
        assert [file.read_bytes() for file in files] == before


async def test_devices_and_setuid_programs_of_an_image_give_nothing(runtime: str) -> None:
    with hostile_image() as root:
        os.mknod(root / "kmsg", 0o20666, os.makedev(1, 11))
        os.mknod(root / "null", 0o20666, os.makedev(1, 3))
        os.mknod(root / "disk", 0o60666, DISK)
        shutil.copyfile(root / "bin/busybox", root / "bin/busybox-su")
        (root / "bin/busybox-su").chmod(0o4755)
        async with logged_in(image=str(root), runtime=runtime, user="demo") as connection:
            done = await run(
                connection, "cat /kmsg; cat /null && echo read; head -c 1 /disk | wc -c; /bin/busybox-su id -u"
            )
    assert done.stdout.split() == ["0", "1000"]


@pytest.mark.parametrize("groups", [True, False])
async def test_root_of_the_host_in_a_container_makes_no_device_of_it(
    runtime: str, groups: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a user namespace; and also where there are no control groups, which otherwise guard devices."""

    async def found(launcher: Launcher, config: OCIConfig) -> list[Runtime]:
        return [one for one in await find_runtimes(launcher, config) if one.cgroups is groups]

    monkeypatch.setattr(machine, "find_runtimes", found)
    async with logged_in(runtime=runtime, userNamespace={"enabled": False}) as connection:
        done = await run(connection, "mknod /dev/x c 10 237; (: < /dev/x) && echo loop; true")
        inside = await run(connection, "mknod /dev/y c 1 11 && (: >> /dev/y) && echo kmsg; cat /proc/self/uid_map")
    assert done.stdout == ""
    assert inside.stdout.split() == ["0", "0", "4294967295"]
