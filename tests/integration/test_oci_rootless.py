"""The embedded backend for an ordinary user: a process of a user made for the test, with ids of its own."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.oci import RUNTIMES, needs_root
from tests.support.users import as_user, ordinary_user, reachable_packages, reachable_python

pytestmark = [
    needs_root,  # to become another user
    pytest.mark.root,
    pytest.mark.oci,
]


PROGRAM = """
import asyncio, json, os, pathlib, sys
sys.path[:0] = json.loads(sys.argv[1])
from tests.support.oci import Told, config, login, open_backend, run
from containerssh.core.errors import ContainerSSHError

async def main(folder, changes, commands):
    async with open_backend(pathlib.Path(folder)) as (backend, instance):
        report = {"uid": os.getuid(), "runtime": await backend.probe(config(**changes)), "done": []}
        async with backend.login(login(), config(**changes), Told()) as connection:
            for command in commands:
                done = await run(connection, command)
                report["done"].append([done.status, done.stdout, done.stderr])
        report["left"] = [str(path) for path in pathlib.Path(folder).glob(f"state/oci/containers/{instance.id}/*")]
    return report

try:
    report = asyncio.run(main(*json.loads(sys.argv[2])))
except ContainerSSHError as exc:
    report = {"error": str(exc)}
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def user() -> Iterator[str]:
    """A user with subordinate ids, gone at the end."""
    with ordinary_user() as name:
        yield name


@pytest.fixture
def home(user: str) -> Iterator[Path]:
    """A folder that this user alone may enter."""
    folder = Path(tempfile.mkdtemp(prefix="cssh-", dir="/tmp"))
    entry = pwd.getpwnam(user)
    os.chown(folder, entry.pw_uid, entry.pw_gid)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


async def as_the_user(
    user: str, home: Path, commands: list[str], path: str | None = None, **changes: Any
) -> dict[str, Any]:
    """What the program reported."""
    arguments = (json.dumps(reachable_packages()), json.dumps([str(home), changes, commands]))
    entry = pwd.getpwnam(user)
    environment = {"HOME": entry.pw_dir, "USER": user, "PATH": path or "/usr/bin:/bin", "TMPDIR": str(home)}
    process = await asyncio.create_subprocess_exec(
        *as_user(user),
        *(reachable_python(), "-B", "-c", PROGRAM, *arguments),
        env=environment,
        cwd="/",
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    report: dict[str, Any] = json.loads(output)
    return report


@pytest.mark.parametrize("runtime", RUNTIMES)
async def test_an_ordinary_user_has_the_same_containers(user: str, home: Path, runtime: str) -> None:
    commands = [
        "id -u; touch /root/x; stat -c %u /root/x /bin/sh; ls /sys/class/net",
        "cat /proc/self/uid_map; grep -E 'Seccomp:|NoNewPrivs|CapBnd' /proc/self/status",
        "mount -t tmpfs none /tmp || unshare -U true || echo 1 > /proc/sys/kernel/panic || touch /.containerssh/x",
        "ls /work /home; echo survived",
    ]
    report = await as_the_user(user, home, commands, runtime=runtime)
    assert report["uid"] == pwd.getpwnam(user).pw_uid
    assert runtime in report["runtime"]
    first, second, third, fourth = report["done"]
    assert first[:2] == [0, "0\n0\n0\nlo\n"]
    # 0 of the helper's user namespace is the server's user; the container's ids begin behind it.
    assert second[1].split("\n")[0].split()[:2] == ["0", "1"]
    assert "Seccomp:\t2" in second[1]
    assert "NoNewPrivs:\t1" in second[1]
    assert third[0] != 0
    assert fourth[1] == "/home:\ndemo\nsurvived\n"
    assert report["left"] == []


async def test_a_users_own_folders_can_be_bound(user: str, home: Path) -> None:
    (home / "shared").mkdir(mode=0o777)
    (home / "shared").chmod(0o777)
    (home / "shared/file").write_text("mine")
    commands = ["cat /data/file; echo theirs > /data/new; cat /ro/new; touch /ro/x"]
    binds = [f"{home}/shared:/data", f"{home}/shared:/ro:ro"]
    report = await as_the_user(user, home, commands, binds=binds)
    assert report["done"][0][1] == "minetheirs\n"
    assert report["done"][0][0] != 0
    # Root inside is not even the user that runs the server.
    assert (home / "shared/new").stat().st_uid not in (0, pwd.getpwnam(user).pw_uid)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"resources": {"memory": "64m"}}, "memory cannot be limited"),
        ({"resources": {"pids": 10, "cpus": 1}}, "pids and cpus cannot be limited"),
        ({"userNamespace": {"enabled": False}}, "without root"),
    ],
)
async def test_what_does_not_hold_without_root_is_refused(
    user: str, home: Path, changes: dict[str, Any], says: str
) -> None:
    report = await as_the_user(user, home, [], **changes)
    assert says in report["error"]


async def test_what_is_missing_is_named_with_its_package(user: str, home: Path) -> None:
    (home / "bin").mkdir()
    (home / "bin").chmod(0o755)
    (home / "bin/busybox").symlink_to("/bin/busybox")
    report = await as_the_user(user, home, [], path=str(home / "bin"))
    assert "apt install uidmap" in report["error"]
