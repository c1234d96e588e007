"""
OpenSSH's own regression scripts (Debian's package openssh-tests) against our server.

They start sshd themselves, from the path that ``TEST_SSH_SSHD`` names; ``tests/support/sshd_stand_in.py`` stands there
and leads them to ours. Their files have to be where a session runs: containers see the host's programs and the folder
of the scripts. Many run an SFTP server by its path, without any sshd: it is our agent's, where ours has such an option.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from containerssh.agent.binaries import agent_binary
from containerssh.config.ssh import CIPHERS, KEX, OTHER_KEX
from tests.support import sshd_stand_in
from tests.support.openssh import run
from tests.support.server import Server, free_port, serving
from tests.support.services import Engine
from tests.support.tools import tool

pytestmark = [pytest.mark.docker, pytest.mark.root, pytest.mark.timeout(600)]

REGRESS = Path("/usr/lib/openssh/regress")
KEYS = {"ssh-ed25519": (), "ssh-rsa": ("-b", "2048"), "ecdsa-sha2-nistp256": (), "ecdsa-sha2-nistp384": ()}
SCRIPTS = (
    *("connect", "connect-uri", "exit-status", "exit-status-signal", "transfer", "stderr-data", "stderr-after-eof"),
    *("broken-pipe", "yes-head", "portnum", "proto-version", "scp", "scp3", "scp-uri"),
    *("sftp", "sftp-cmds", "sftp-badcmds", "sftp-batch", "sftp-glob", "sftp-perm", "sftp-uri"),
    *("putty-transfer", "putty-kex", "putty-ciphers"),
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A copy of the scripts, in a place that containers see at the same path."""
    path = Path(f"/tmp/regress-{os.getpid()}")
    if not REGRESS.is_dir():
        pytest.fail("OpenSSH's regression scripts are missing; make soak installs them (Debian package openssh-tests)")
    shutil.copytree(REGRESS, path, symlinks=True)
    yield path
    shutil.rmtree(path)


async def putty_key(folder: Path) -> str:
    """A key of PuTTY's, public. The scripts make a new one each time; here they get this one."""
    real, made = tool("puttygen"), folder / "made.rsa2"
    (await run(real, "-t", "rsa", "-o", made, "--new-passphrase", "/dev/null")).check()
    wrapper = folder / "puttygen"
    wrapper.write_text(f'#!/bin/sh\n[ "$1" = -t ] && exec cp {made} {folder}/putty.rsa2\nexec {real} "$@"\n')
    wrapper.chmod(0o755)
    return (await run(real, "-O", "public-openssh", made)).check().stdout.decode().strip()


def sftp_server(folder: Path) -> Path:
    """Our agent's, to be called as OpenSSH's is; lists of requests, which ours does not have, are for that one."""
    wrapper = folder / "sftp-server"
    wrapper.write_text(f"""\
#!/bin/sh
case " $* " in
*" -p "* | *" -P "*) exec /usr/lib/openssh/sftp-server "$@" ;;
*" -R "*) exec {agent_binary()} sftp --read-only ;;
*) exec {agent_binary()} sftp ;;
esac
""")
    wrapper.chmod(0o755)
    return wrapper


@asynccontextmanager
async def host_in_a_container(engine: Engine, folder: Path) -> AsyncIterator[Server]:
    """A server whose containers have the host's programs and *folder*; it knows the keys in there."""
    keys = {}
    for kind, more in KEYS.items():
        (await run(tool("ssh-keygen"), "-q", "-t", kind, "-N", "", *more, "-f", folder / kind)).check()
        keys[kind] = folder / kind
    putty = await putty_key(folder)
    binds = ["/usr:/usr:ro", "/usr/bin:/bin:ro", "/usr/lib:/lib:ro", "/usr/lib64:/lib64:ro", f"{folder}:{folder}"]
    execution = {
        "container": {"image": "bb:latest"},
        "host": {"networkMode": "none", "binds": binds},
        "shellCommand": ["/bin/sh"],
        "subsystems": {"sftp": "/usr/lib/openssh/sftp-server"},
        "imagePullPolicy": "Never",
    }
    config = {
        # PuTTY's scripts ask for old algorithms too.
        "ssh": {
            "hostkeys": [str(path) for path in keys.values()],
            "kex": [*KEX, *OTHER_KEX],
            "ciphers": [*CIPHERS, "aes256-cbc", "3des-cbc"],
        },
        "backend": "docker",
        "docker": {"connection": {"host": f"unix://{engine.socket}"}, "execution": execution},
    }
    public = [path.with_suffix(".pub").read_text().strip() for path in keys.values()]
    async with serving(config, {"root": {"authorizedKeys": [*public, putty]}}) as server:
        yield server


@pytest.mark.parametrize("script", SCRIPTS)
async def test_a_script_passes(engine: Engine, folder: Path, script: str) -> None:
    stand_in = folder / "sshd-stand-in"
    stand_in.write_text(f'#!/bin/sh\nexec {sys.executable} {sshd_stand_in.__file__} "$@"\n')
    stand_in.chmod(0o755)
    async with host_in_a_container(engine, folder) as server:
        environment = {
            "TEST_SHELL": "sh",
            "TEST_SSH_SSHD": str(stand_in),
            "TEST_SSH_PORT": str(free_port()),
            "TEST_SSH_PLINK": tool("plink"),
            "TEST_SSH_PUTTYGEN": str(folder / "puttygen"),
            "TEST_SSH_SFTPSERVER": str(sftp_server(folder)),
            "TEST_SSH_UNSAFE_PERMISSIONS": "1",
            "BUILDDIR": str(folder),
            "STAND_IN_SSHD": tool("sshd"),
            "STAND_IN_PORT": str(server.port),
            "HOME": str(folder),
            "USER": "root",
            "LOGNAME": "root",
        }
        command = ("sh", str(folder / "test-exec.sh"), str(folder), str(folder / f"{script}.sh"))
        done = await run(*command, env=environment, limit=300)
    assert done.status == 0, (done.stdout.decode()[-3000:], done.stderr.decode()[-1000:])
    assert b"SKIPPED" not in done.stdout
    assert done.stdout.splitlines()[-1].startswith(b"ok "), done.stdout
