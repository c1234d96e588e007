"""
OpenSSH's own regression scripts about forwards, agents and the options of keys, against our server.

Like those of ``test_soak_openssh.py``, but their containers have the host's network, where the scripts look for what is
forwarded, and whoever stands in for sshd turns its configuration and its authorized_keys into ours for each connection.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support import sshd_stand_in
from tests.support.openssh import run
from tests.support.server import Server, free_port, serving
from tests.support.services import Engine
from tests.support.tools import tool

pytestmark = [pytest.mark.docker, pytest.mark.root, pytest.mark.timeout(1200)]

REGRESS = Path("/usr/lib/openssh/regress")
REPOSITORY = Path(__file__).parents[2]
SCRIPTS = (
    *("forwarding", "dynamic-forward", "multiplex", "forward-control", "agent"),
    *("key-options", "forcecommand", "brokenkeys", "cert-file", "localcommand", "login-timeout", "host-expand"),
)
HOST_KEYS = ("ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256")

CLIENT = """#!/bin/sh
case " $* " in
*" -Q key-plain ") {ssh} "$@" | grep -v ssh-dss ;;
*" -f "*) exec {ssh} -oExitOnForwardFailure=yes "$@" ;;
*) exec {ssh} "$@" ;;
esac
"""
"""
Knows no DSA keys, which this server does not take. It goes into the background when its forwards are there: the scripts
use them at once, and a container takes longer to start than sshd takes to fork.
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A copy of the scripts, in a place that containers see at the same path."""
    path = Path(f"/tmp/regress-{os.getpid()}")
    if not REGRESS.is_dir():
        pytest.fail("OpenSSH's regression scripts are missing; make soak installs them (Debian package openssh-tests)")
    shutil.copytree(REGRESS, path, symlinks=True)
    yield path
    shutil.rmtree(path)


def program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


@asynccontextmanager
async def host_in_a_container(engine: Engine, folder: Path) -> AsyncIterator[Server]:
    """A server whose containers have the host's programs and network, and *folder*."""
    for kind in HOST_KEYS:
        (
            await run(
                tool("ssh-keygen"),
                "-q",
                "-t",
                kind.removeprefix("ssh-").partition("-")[0],
                "-N",
                "",
                "-f",
                folder / kind,
            )
        ).check()
    ours = {str(path) for path in (sys.prefix, sys.base_prefix, REPOSITORY) if not str(path).startswith("/usr")}
    execution = {
        "container": {"image": "bb:latest", "env": [f"PATH={os.environ['PATH']}"]},
        "host": {
            "networkMode": "host",
            "binds": [
                *("/usr:/usr:ro", "/usr/bin:/bin:ro", "/usr/lib:/lib:ro", "/usr/lib64:/lib64:ro"),
                *(f"{path}:{path}:ro" for path in sorted(ours)),
                f"{folder}:{folder}",
            ],
        },
        "shellCommand": ["/bin/sh"],
        "imagePullPolicy": "Never",
    }
    config = {
        "ssh": {
            "hostkeys": [str(folder / kind) for kind in HOST_KEYS],
            "proxyProtocol": {"trusted": ["127.0.0.0/8"]},
            # The scripts fail as often as they succeed.
            "limits": {"penalties": {"enable": False}},
        },
        "backend": "docker",
        "docker": {"connection": {"host": engine.address}, "execution": execution},
    }
    async with serving(config, {}) as server:
        yield server


@pytest.mark.parametrize("script", SCRIPTS)
async def test_a_script_about_forwards_or_keys_passes(engine: Engine, folder: Path, script: str) -> None:
    async with host_in_a_container(engine, folder) as server:
        # A container's programs find their way to the server with these as well, though not with our variables.
        settings = {
            "STAND_IN_SSHD": tool("sshd"),
            "STAND_IN_PORT": server.port,
            "STAND_IN_USERS": server.folder / "users.yaml",
        }
        exports = " ".join(f"{name}={value}" for name, value in settings.items())
        stand_in = program(
            folder / "sshd-stand-in", f'#!/bin/sh\nexec env {exports} {sys.executable} {sshd_stand_in.__file__} "$@"\n'
        )
        client = program(folder / "ssh-for-scripts", CLIENT.format(ssh=tool("ssh")))
        environment = {
            "TEST_SHELL": "sh",
            "TEST_SSH_SSH": str(client),
            "TEST_SSH_SSHD": str(stand_in),
            "TEST_SSH_PORT": str(free_port()),
            "TEST_SSH_SFTPSERVER": "/usr/lib/openssh/sftp-server",
            "TEST_SSH_UNSAFE_PERMISSIONS": "1",
            "BUILDDIR": str(folder),
            "HOME": str(folder),
            "USER": "root",
            "LOGNAME": "root",
        }
        command = ("sh", str(folder / "test-exec.sh"), str(folder), str(folder / f"{script}.sh"))
        done = await run(*command, env=environment, limit=900)
    assert done.status == 0, (done.stdout.decode()[-3000:], done.stderr.decode()[-1000:])
    assert b"SKIPPED" not in done.stdout
    assert done.stdout.splitlines()[-1].startswith(b"ok "), done.stdout
