"""Attacks on the whole server, by a user who has logged in and by strangers, with the real OpenSSH client."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from containerssh.auth.hashes import hash_password
from tests.support import server as product
from tests.support.oci import image
from tests.support.openssh import OpenSSH, ssh_options

pytestmark = pytest.mark.oci

OCI: dict[str, Any] = {"backend": "oci", "oci": {"image": str(image())}}
PASSWORD = hash_password("marker-of-a-password")


@pytest.fixture
def openssh(tmp_path: Path) -> OpenSSH:
    return OpenSSH(tmp_path, password="marker-of-a-password")


def command_lines() -> list[bytes]:
    """Of all processes of this machine."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            lines.append(path.read_bytes())
    return lines


async def test_a_forced_command_is_not_replaced_by_way_of_a_variable(openssh: OpenSSH) -> None:
    """The forced command calls a program by its name; a PATH of the client's would make it another one."""
    key = await openssh.make_key()
    line = f'command="report" {key.with_suffix(".pub").read_text().strip()}'
    plant = "; ".join(
        f"mkdir -p /tmp/{name}; printf '#!/bin/sh\\necho {name}\\n' > /tmp/{name}/report; chmod +x /tmp/{name}/report"
        for name in ("good", "evil")
    )
    users = {"alice": {"authorizedKeys": [line], "password": PASSWORD}}
    options = ["-i", str(key), *ssh_options("PreferredAuthentications=publickey")]
    section = {
        **OCI["oci"],
        "entrypoint": ["/bin/sh", "-c", f'{plant}; exec "$@"', "sh"],
        "env": ["PATH=/tmp/good:/bin"],
    }
    async with product.serving({**OCI, "oci": section}, users) as server:
        done = await openssh.run(server, "x", *options, *ssh_options("SetEnv=PATH=/tmp/evil:/bin"))
        assert done.stdout == b"good\n"
        done = await openssh.run(server, "report", *ssh_options("SetEnv=PATH=/tmp/evil:/bin"))
        assert done.stdout == b"evil\n", "without a forced command, variables are the user's own"


async def test_no_secret_reaches_the_log_or_the_process_list(openssh: OpenSSH) -> None:
    secret = "marker-of-a-variable"
    users = {"alice": {"password": PASSWORD, "environment": {"TOKEN": secret}}}
    async with product.serving(OCI, users) as server:
        done = await openssh.run(server, "echo $TOKEN; cat /proc/*/cmdline | tr '\\0' ' '")
        assert done.stdout.decode().count(secret) == 1
        assert not any(secret.encode() in line for line in command_lines())
        log = (server.folder / "server.log").read_text()
    assert "marker-of" not in log


async def test_nothing_that_the_server_makes_is_open_to_others(openssh: OpenSSH) -> None:
    """Whatever the umask: what other users could read or change lies in folders that they cannot enter."""
    before = os.umask(0)
    try:
        async with product.serving(OCI, {"alice": {"password": PASSWORD}}) as server:
            client = openssh.spawn(server, "echo ready; cat")
            client.expect("ready")
            assert opened_to_others(server.folder / "state") == []
            client.close(force=True)
    finally:
        os.umask(before)


def opened_to_others(top: Path) -> list[str]:
    """What others than the owner can get at, below *top*."""
    found = []
    for folder, folders, files in os.walk(top):
        folders[:] = [name for name in folders if Path(folder, name).stat().st_mode & 0o077]
        found += [str(Path(folder, name)) for name in files if Path(folder, name).lstat().st_mode & 0o077]
    return found if top.stat().st_mode & 0o077 else []
