"""What a guest sees and may do, tried from inside, with each runtime."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from containerssh.backends.oci.runtime import has_capability
from containerssh.core.errors import BackendError
from tests.support.oci import RUNTIMES, Done, logged_in, needs_root, run, short_folder

pytestmark = [needs_root, pytest.mark.root, pytest.mark.oci]


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def tried(runtime: str, command: str, **changes: Any) -> Done:
    async with logged_in(runtime=runtime, **changes) as connection:
        return await run(connection, command)


async def test_the_guest_is_confined_by_the_kernel(runtime: str) -> None:
    done = await tried(runtime, "cat /proc/self/status /proc/self/uid_map /proc/self/gid_map; id -u")
    lines = done.stdout.splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert status["Seccomp"] == "2"
    assert status["NoNewPrivs"] == "1"
    default = sum(1 << bit for bit in (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31))
    assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == default
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    maps = [line.split() for line in lines if line.split()[-1:] == ["65536"]]
    assert len(maps) == 2
    for inside, outside, _ in maps:
        assert inside == "0"
        assert int(outside) >= 0x70000000
    assert lines[-1] == "0"


async def test_guests_are_other_users_than_one_another_unless_they_share_folders(runtime: str, tmp_path: Path) -> None:
    async def ids(**changes: Any) -> list[str]:
        async with logged_in(runtime=runtime, **changes) as one, logged_in(runtime=runtime, **changes) as other:
            done = [await run(connection, "cat /proc/self/uid_map; touch /own") for connection in (one, other)]
        assert [guest.status for guest in done] == [0, 0]
        return [guest.stdout.split()[1] for guest in done]

    # Without CAP_SYS_RESOURCE it is runc that makes the namespace, and one range is for all.
    one, other = await ids()
    assert (one != other) is (runtime == "crun" or has_capability(24))
    one, other = await ids(binds=[f"{tmp_path}:/shared"])
    assert one == other == str(0x70000000)


async def test_other_users_hold_no_capabilities(runtime: str) -> None:
    done = await tried(runtime, "id -un; pwd; echo $HOME; grep CapEff /proc/self/status", user="demo")
    assert done.stdout.split() == ["demo", "/", "/home/demo", "CapEff:", "0" * 16]


async def test_the_guest_sees_only_its_own_processes_and_no_network(runtime: str) -> None:
    done = await tried(
        runtime, "ps -o pid | tail -n +2; echo; ls /sys/class/net; echo; cat /proc/net/tcp /proc/net/unix"
    )
    processes, interfaces, _ = done.stdout.split("\n\n")
    assert all(int(pid) < 100 for pid in processes.split())
    assert interfaces.split() == ["lo"]


@asynccontextmanager
async def greeting() -> AsyncIterator[int]:
    """A port of the host's loopback that says hello."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello from the host\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_the_guest_cannot_reach_a_listener_of_the_host(runtime: str) -> None:
    async with greeting() as port:
        done = await tried(runtime, f"nc -w 2 127.0.0.1 {port} </dev/null")
    assert done.stdout == ""
    assert done.status != 0


async def test_an_abstract_socket_of_the_host_is_out_of_reach(runtime: str) -> None:
    name = f"containerssh-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen()
        with_host = await tried(runtime, "cat /proc/net/unix", network="host")
        alone = await tried(runtime, "cat /proc/net/unix")
    assert name in with_host.stdout
    assert name not in alone.stdout


async def test_the_guest_sees_no_mount_or_path_of_the_host(runtime: str) -> None:
    done = await tried(runtime, "cat /proc/self/mountinfo; ls -A /mnt /boot 2>&1")
    assert "/upper" in done.stdout  # the overlay's own options, by their names in the helper's private folder
    points = [line.split()[4] for line in done.stdout.splitlines() if re.match(r"\d+ \d+ ", line)]
    allowed = ("/", "/proc", "/dev", "/sys", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/.containerssh")
    assert all(point in allowed or point.startswith(("/proc/", "/dev/", "/sys/")) for point in points), points


ATTEMPTS = [
    "mount -t tmpfs none /tmp",
    "mount -o remount,rw /proc/sys",
    "umount /proc/sys",
    "unshare -U true",
    "unshare -m true",
    "unshare -n true",
    "echo 1 > /proc/sys/kernel/panic",
    "echo x > /proc/sysrq-trigger",
    "echo core > /proc/sys/kernel/core_pattern",
    "touch /sys/x",
    "echo 1 > /sys/kernel/mm/ksm/run",
    "touch /.containerssh/x",
    "echo > /.containerssh/agent",
    "rm /.containerssh/socket",
    "chmod 777 /.containerssh",
    "mknod /tmp/sda b 8 0",
    "cat /dev/vda",
    "hostname elsewhere",
    "ip link set lo down",
    "chroot /proc/1/root mount -t tmpfs none /tmp",
    "nsenter -t 1 -m true",
    "kill -9 1; kill -0 1 && false",
    "ls /proc/1/root/../../../work",
    "head -c1 /proc/kcore",
    "dmesg",
    "reboot -f",
    "swapoff -a; swapon /etc/passwd",
    "insmod /etc/passwd",
    "adjtimex -f 1",
    "echo > /etc/resolv.conf",
]


async def test_what_would_reach_beyond_the_container_fails(runtime: str) -> None:
    async with logged_in(runtime=runtime) as connection:
        done = {attempt: await run(connection, attempt) for attempt in ATTEMPTS}
    assert {attempt: result for attempt, result in done.items() if result.status == 0} == {}


async def test_masked_files_are_empty(runtime: str) -> None:
    done = await tried(runtime, "cat /proc/keys /proc/interrupts /proc/timer_list; ls -A /sys/firmware")
    assert done.stdout == ""


async def test_setuid_gives_nothing(runtime: str) -> None:
    async with logged_in(runtime=runtime) as connection:
        await run(connection, "cp /bin/busybox /tmp/su && chmod 4755 /tmp/su")
        done = await run(connection, "setuidgid demo /tmp/su id -u 2>&1; grep NoNew /proc/self/status")
    assert "NoNewPrivs:\t1" in done.stdout
    async with logged_in(runtime=runtime, user="demo") as connection:
        assert (await run(connection, "id -u")).stdout == "1000\n"


async def test_the_limit_of_processes_holds_and_the_login_survives_it(runtime: str) -> None:
    """Without threads in reserve, one login in twenty lost its agent."""
    async with logged_in(runtime=runtime, resources={"pids": 30}) as connection:
        for _ in range(4):
            assert "fork" in (await run(connection, "for i in $(seq 60); do sleep 20 & done; wait")).stderr
        assert (await run(connection, "echo alive")).stdout == "alive\n"


async def test_the_limit_of_memory_holds_and_the_login_survives_it(runtime: str) -> None:
    async with logged_in(runtime=runtime, resources={"memory": "64m"}) as connection:
        hog = await run(connection, "head -c 200m /dev/zero | tail -c 190m | wc -c")
        assert hog.stdout.strip() != str(190 << 20)
        assert (await run(connection, "echo alive")).stdout == "alive\n"


async def test_shared_memory_has_its_size(runtime: str) -> None:
    done = await tried(runtime, "df -k /dev/shm | tail -1", resources={"shmSize": "1m"})
    assert done.stdout.split()[1] == "1024"


async def test_open_files_are_limited(runtime: str) -> None:
    assert (await tried(runtime, "ulimit -n; ulimit -c", resources={"openFiles": 64})).stdout.split() == ["64", "0"]


async def test_binds_and_memory_file_systems_are_where_they_should_be(runtime: str) -> None:
    with short_folder() as folder:
        (folder / "file").write_text("from outside")
        folder.chmod(0o755)
        binds = [f"{folder}:/data:ro", f"{folder}/file:/etc/one:ro"]
        command = "cat /data/file /etc/one; touch /data/new || echo ro; mount | grep ' /scratch '"
        done = await tried(runtime, command, binds=binds, tmpfs={"/scratch": "size=1m,mode=1777"})
    assert done.stdout.startswith("from outsidefrom outsidero\n")
    assert "nosuid,nodev" in done.stdout
    assert "size=1024k" in done.stdout


async def test_a_bind_below_a_private_folder_works(runtime: str) -> None:
    with short_folder() as folder:  # 0700: the container's root could never walk there
        (folder / "file").write_text("reached")
        assert (await tried(runtime, "cat /one", binds=[f"{folder}/file:/one"])).stdout == "reached"


async def test_a_read_only_root_is_read_only(runtime: str) -> None:
    done = await tried(runtime, "touch /x; touch /t/x && echo t", readOnlyRoot=True, tmpfs={"/t": ""})
    assert done.stdout == "t\n"
    assert "Read-only" in done.stderr


async def test_the_hosts_network_is_there_when_asked_for(runtime: str) -> None:
    async with greeting() as port:
        command = f"nc -w 2 127.0.0.1 {port} </dev/null; ls -A /sys; ip link set lo down"
        done = await tried(runtime, command, network="host")
    assert done.stdout == "hello from the host\n"
    assert done.status != 0


async def test_without_a_user_namespace_root_is_root_but_still_confined(runtime: str) -> None:
    command = "cat /proc/self/uid_map; stat -c %u /; mount -t tmpfs none /tmp || echo no; unshare -U true || echo no"
    done = await tried(runtime, command, userNamespace={"enabled": False})
    assert done.stdout.split() == ["0", "0", "4294967295", "0", "no", "no"]


async def test_capabilities_can_be_taken_and_given(runtime: str) -> None:
    command = "grep -E 'Cap(Bnd|Eff)' /proc/self/status"
    none = await tried(runtime, command, capDrop=["ALL"])
    assert none.stdout.count("0" * 16) == 2
    one = await tried(runtime, command, capDrop=["ALL"], capAdd=["NET_ADMIN"])
    assert one.stdout.count("0000000000001000") == 2


async def test_a_working_directory_that_an_image_links_to_the_host_is_refused(runtime: str) -> None:
    with pytest.raises(BackendError, match="working directory"):
        await tried(runtime, "pwd", workingDirectory="/proc/self/fd/7")
    assert (await tried(runtime, "pwd", workingDirectory="/new/folder")).stdout == "/new/folder\n"


async def test_no_descriptor_of_the_host_gets_in(runtime: str) -> None:
    done = await tried(runtime, "ls -l /proc/1/fd /proc/self/fd")
    targets = {line.split(" -> ")[1].split(":")[0] for line in done.stdout.splitlines() if " -> " in line}
    allowed = {"/dev/null", "pipe", "socket", "anon_inode"}
    if runtime == "crun":
        # Where the container's own output goes: a file system for this one container, with nothing else on it.
        allowed.add("/mnt/output")
    assert {target for target in targets if not target.startswith("/proc/")} <= allowed


async def test_a_containers_own_output_goes_to_a_small_file_system_of_its_own() -> None:
    """Its first program has it for appending only, and the file system has no path inside. (runc makes pipes.)"""
    look = (
        "for number in 1 2; do readlink /proc/1/fd/$number; sed -n 's/flags:.//p' /proc/1/fdinfo/$number; done;"
        " stat -L -c '%d %h' /proc/1/fd/1; stat -L -f -c '%t %b %S' /proc/1/fd/1;"
        " sed -n 's/mnt_id:.//p' /proc/1/fdinfo/1;"
        " ls /proc/1/fd/1/.. >/dev/null 2>&1; echo $?; cut -d ' ' -f 1 /proc/self/mountinfo;"
        " head -c 3000000 /dev/zero >> /proc/1/fd/1; echo; wc -c < /proc/1/fd/1"
    )
    devices = []
    async with logged_in(runtime="crun") as one, logged_in(runtime="crun") as other:
        for connection in (one, other):
            done = await run(connection, look)
            path, flags, *same, device, links, kind, blocks, size, mount, entered = done.stdout.split()[:11]
            *mounts, written = done.stdout.split()[11:]
            assert [path, flags] == same
            assert path == "/mnt/output"
            assert int(flags, 8) & (os.O_ACCMODE | os.O_APPEND) == os.O_WRONLY | os.O_APPEND
            assert links == "1"
            assert kind == "1021994", "a tmpfs, by statfs(2)"
            assert int(blocks) * int(size) == 1 << 20
            assert mounts
            assert mount not in mounts
            assert entered != "0"
            assert int(written) == 1 << 20, "all that there is, and no more"
            assert done.stderr.startswith("head: standard output: ")
            devices.append(device)
    assert len(set(devices)) == 2


async def test_the_runtime_holds_nothing_of_the_helper(runtime: str) -> None:
    async with logged_in(runtime=runtime) as connection:
        await run(connection, "true")
        [helper] = [pid for pid in _children(os.getpid()) if _name(pid).startswith("containerssh-oc")]
        [keeper] = [pid for pid in _children(helper) if _name(pid).startswith(runtime)]
        theirs = set(_socket_inodes(helper))
        assert theirs
        assert not theirs & set(_socket_inodes(keeper))


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text()


def _socket_inodes(pid: int) -> list[str]:
    links = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    return [link for link in links if link.startswith("socket:")]
