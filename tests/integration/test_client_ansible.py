"""Ansible as its users run it: modules with and without pipelining, files by each way that it knows."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.images import zoo_image
from tests.support.openssh import OpenSSH, run
from tests.support.server import Server, serving
from tests.support.services import Engine
from tests.support.tools import tool

pytestmark = pytest.mark.docker

LIMIT = 120.0
CONTENT = os.urandom(300_000)
PLAY = [
    {
        "hosts": "all",
        "gather_facts": False,
        "tasks": [
            {"name": "ping", "ping": None, "register": "ping"},
            {"name": "command", "command": "sh -c 'id -un; echo $0'", "register": "done"},
            {"name": "told", "assert": {"that": ["done.stdout_lines == ['root', 'sh']"]}},
            {"name": "copy", "copy": {"src": "sent", "dest": "/data/{{ way }}", "mode": "0640"}, "register": "copy"},
            {"name": "again", "copy": {"src": "sent", "dest": "/data/{{ way }}", "mode": "0640"}, "register": "again"},
            {"name": "fetch", "fetch": {"src": "/data/{{ way }}", "dest": "fetched-{{ way }}", "flat": True}},
            # The callback that prints JSON is in a collection of its own, which Debian's ansible-core lacks.
            {
                "name": "report",
                "delegate_to": "localhost",
                "copy": {
                    "content": "{{ {'ping': ping, 'copy': copy, 'again': again} | to_json }}",
                    "dest": "{{ playbook_dir }}/report",
                },
            },
        ],
    }
]


@dataclass(frozen=True)
class Way:
    """How Ansible is told to work."""

    pipelining: bool
    transfer: str
    scp_arguments: str = ""
    user: str = "root"
    remote_tmp: str = "~/.ansible/tmp"


WAYS = {
    "pipelined, sftp": Way(True, "sftp"),
    "sftp": Way(False, "sftp"),
    "scp": Way(False, "scp"),
    "scp, the old protocol": Way(False, "scp", "-O"),
    # It looks for the home of the user that it logged in as, and the container knows none of this name.
    "a name that the container does not know": Way(False, "scp", user="alice", remote_tmp="/tmp/.ansible"),
}


@asynccontextmanager
async def debian(engine: Engine, openssh: OpenSSH, data: Path) -> AsyncIterator[Server]:
    """A server with containers of Debian, which share the folder *data* as ``/data``."""
    key = await openssh.make_key()
    execution = {
        "container": {"image": zoo_image(engine, "debian")},
        "host": {"NetworkMode": "none", "Binds": [f"{data}:/data"]},
        "shellCommand": ["/bin/bash"],
        "imagePullPolicy": "Never",
    }
    docker = {"connection": {"host": engine.address}, "execution": execution}
    known = {"authorizedKeys": [key.with_suffix(".pub").read_text().strip()]}
    users = {"alice": known, "root": known}
    async with serving({"backend": "docker", "docker": docker}, users) as server:
        yield server


async def play(openssh: OpenSSH, server: Server, name: str, way: Way) -> tuple[dict[str, Any], bytes]:
    """What the tasks of :data:`PLAY` registered, by their names; and what was fetched at the end."""
    # Short, for the sockets of ssh's masters.
    folder = server.folder / name.replace(" ", "-").replace(",", "")
    folder.mkdir()
    (folder / "play.yml").write_text(json.dumps(PLAY))
    (folder / "sent").write_bytes(CONTENT)
    (folder / "hosts").write_text(
        f"guest ansible_host=127.0.0.1 ansible_port={server.port} ansible_user={way.user}"
        f" ansible_ssh_private_key_file={openssh.folder / 'id'} ansible_python_interpreter=/usr/bin/python3\n"
    )
    environment = {
        "HOME": str(folder),
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_HOST_KEY_CHECKING": "False",
        "ANSIBLE_PIPELINING": str(way.pipelining),
        "ANSIBLE_SSH_TRANSFER_METHOD": way.transfer,
        "ANSIBLE_REMOTE_TMP": way.remote_tmp,
        "ANSIBLE_SCP_EXTRA_ARGS": way.scp_arguments,
        # One connection for all tasks, as Ansible does it by itself; its master ends with them.
        "ANSIBLE_SSH_ARGS": "-F /dev/null -o ControlMaster=auto -o ControlPersist=5 -o LogLevel=ERROR"
        " -o UserKnownHostsFile=/dev/null",
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(folder / "cp"),
    }
    done = await run(
        *(tool("ansible-playbook"), "-i", folder / "hosts", "-e", f"way={folder.name}", folder / "play.yml"),
        env=environment,
        limit=LIMIT,
    )
    assert done.status == 0, (name, *re.findall(r'"msg": "[^"]*', done.stdout.decode()), done.stderr.decode()[-1000:])
    report: dict[str, Any] = json.loads((folder / "report").read_bytes())
    return report, (folder / f"fetched-{folder.name}").read_bytes()


@pytest.mark.timeout(240)
async def test_modules_run_and_files_arrive_by_each_way_that_ansible_knows(engine: Engine, tmp_path: Path) -> None:
    openssh, data = OpenSSH(tmp_path, password=None), tmp_path / "data"
    data.mkdir()
    async with debian(engine, openssh, data) as server:
        done = await asyncio.gather(*(play(openssh, server, name, way) for name, way in WAYS.items()))
        errors = [line for line in server.log if line["level"] in ("error", "warning")]
    for tasks, fetched in done:
        assert tasks["ping"]["ping"] == "pong"
        assert tasks["copy"]["changed"]
        assert tasks["copy"]["checksum"] == hashlib.sha1(CONTENT).hexdigest()
        assert not tasks["again"]["changed"], "it is there already, with its mode"
        assert fetched == CONTENT
    assert sorted((path.read_bytes() == CONTENT, path.stat().st_mode & 0o777) for path in data.iterdir()) == [
        (True, 0o640)
    ] * len(WAYS)
    assert [line for line in errors if line["code"] != "CORE_NO_HOST_KEYS"] == []
