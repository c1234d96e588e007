"""
The docker backend with Podman, in processes of their own: as an ordinary user whose service sees the gateway's folders,
and where ``backend: auto`` has to find the service.
"""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.podman import Podman
from tests.support.tools import tool
from tests.support.users import reachable_packages, reachable_python

pytestmark = [pytest.mark.podman, pytest.mark.root]


PROGRAM = """
import asyncio, json, logging, os, pathlib, sys
sys.path[:0] = json.loads(sys.argv[1])
from containerssh.backends.registry import Backends
from containerssh.config.app import AppConfig
from containerssh.core.instance import open_instance
from tests.support.docker import Channel, Seen, a_login

logging.basicConfig(level=logging.INFO, stream=sys.stderr)

async def main(folder, section, commands):
    config = AppConfig.model_validate(section)
    folder = pathlib.Path(folder)
    report = {"uid": os.getuid(), "done": []}
    with open_instance(folder / "state", folder / "gateway") as instance:
        async with Backends.opened(instance) as backends:
            by_name = await backends.choose(config)
            async with by_name[config.backend].login(a_login(), config, Seen()) as connection:
                for command in commands:
                    channel = Channel()
                    async with connection.session(channel) as session:
                        await session.run_command(command)
                        status = await channel.ended()
                    report["done"].append([status, channel.out.data.decode(), channel.err.data.decode()])
    return report

print(json.dumps(asyncio.run(main(*json.loads(sys.argv[2])))))
"""


async def gateway(
    podman: Podman, folder: Path, section: dict[str, Any], *commands: str, before: tuple[str, ...] = ()
) -> tuple[dict[str, Any], str]:
    """What a gateway of *podman*'s user reports after *commands*, and its log. *before* begins the command line."""
    arguments = (json.dumps(reachable_packages()), json.dumps([str(folder), section, commands]))
    python = reachable_python() if podman.user else sys.executable
    process = await asyncio.create_subprocess_exec(
        *(*before, *podman.as_user(), python, "-B", "-c", PROGRAM, *arguments),
        env=podman.environment,
        cwd="/",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        output, log = await process.communicate()
    assert process.returncode == 0, log.decode()
    report: dict[str, Any] = json.loads(output)
    return report, log.decode()


@pytest.fixture
def folder(podman_rootless: Podman) -> Path:
    """A folder that the service's user alone may enter; it goes with the service."""
    made = podman_rootless.state / "gateway"
    made.mkdir(mode=0o700, exist_ok=True)
    os.chown(made, podman_rootless.state.stat().st_uid, -1)
    return made


def section(podman: Podman, **container: Any) -> dict[str, Any]:
    execution = {"container": {"image": "bb:latest", **container}, "host": {"networkmode": "none"}}
    return {"backend": "docker", "docker": {"connection": {"host": podman.address}, "execution": execution}}


@pytest.mark.parametrize("user", ["", "1000:1001"], ids=["root of the container", "another user of it"])
async def test_a_gateway_of_the_same_user_is_dialled_back(podman_rootless: Podman, folder: Path, user: str) -> None:
    """The socket's folder belongs to the service's user, the other is a subordinate id, for whom its parent is shut."""
    commands = ("id -u; cat /proc/self/uid_map", "touch /.containerssh/x || ls /.containerssh", "exit 3")
    report, log = await gateway(podman_rootless, folder, section(podman_rootless, user=user), *commands)
    assert report["uid"] == pwd.getpwnam(podman_rootless.user).pw_uid
    first, second, third = report["done"]
    inside, mapped, *_ = first[1].splitlines()
    assert inside == (user or "0").partition(":")[0]
    assert mapped.split() == ["0", str(report["uid"]), "1"]
    assert (second[0], second[1]) == (0, "agent\nsocket\n")
    assert third[0] == 3
    assert "reached by socket" in log
    assert podman_rootless.docker("ps", "--all", "--quiet") == ""


async def test_auto_finds_the_service_of_the_own_user(podman_rootless: Podman, folder: Path) -> None:
    """Docker's socket, if there is one, is closed to an ordinary user."""
    settings = section(podman_rootless)
    del settings["docker"]["connection"]
    report, log = await gateway(podman_rootless, folder, {**settings, "backend": "auto"}, "echo in")
    assert report["done"] == [[0, "in\n", ""]]
    assert "backend: auto chose docker here (Libpod/" in log
    assert str(podman_rootless.socket) in log


async def test_auto_takes_podman_where_docker_does_not_answer(podman: Podman, tmp_path: Path) -> None:
    """In a mount namespace in which nobody listens on Docker's socket."""
    settings = section(podman)
    del settings["docker"]["connection"]
    hide = (
        "[ ! -e /run/docker.sock ] || mount --bind /dev/null /run/docker.sock; "
        "[ ! -e /run/podman ] || mount -t tmpfs none /run/podman; "
        'exec "$@"'
    )
    apart = (tool("unshare"), "--mount", "sh", "-ec", hide, "sh")
    report, log = await gateway(podman, tmp_path, {**settings, "backend": "auto"}, "echo in", before=apart)
    assert report["done"] == [[0, "in\n", ""]]
    assert str(podman.socket) in log
