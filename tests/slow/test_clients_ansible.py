"""Ansible on twenty hosts at once, as an ordinary user who becomes root, by each of its ways to send files."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.docker import build_image
from tests.support.images import zoo_image
from tests.support.openssh import OpenSSH, run
from tests.support.server import Server, serving
from tests.support.services import Engine
from tests.support.shared_folder import complaints
from tests.support.tools import tool

pytestmark = [pytest.mark.root, pytest.mark.docker, pytest.mark.timeout(300)]

LIMIT = 200.0
ROOTS_PASSWORD = "root and nobody else"
TEMPLATE = """# {{ ansible_user_id }}'s
host = {{ inventory_hostname }}
way = {{ way }}
{% for number in range(3) %}
line {{ number }} of {{ ansible_user_id }}
{% endfor %}
"""
RENDERED = "# deploy's\nhost = {host}\nway = {way}\nline 0 of deploy\nline 1 of deploy\nline 2 of deploy\n"
ROOTS: dict[str, Any] = {"become": True, "become_method": "su"}
PLACE = "/data/{{ way }}-{{ inventory_hostname }}"
FILE = {"src": "text.j2", "dest": PLACE, "mode": "0600"}
REPORT = "{{ {'first': first, 'again': again, 'read': read, 'name': name} | to_json }}"
WRITTEN = "{{ playbook_dir }}/report-{{ inventory_hostname }}"
PLAY = [
    {
        "hosts": "all",
        "gather_facts": False,
        "tasks": [
            {"name": "facts", "setup": {"gather_subset": ["!all", "!min", "user"]}},
            {"name": "template", "template": FILE, "register": "first", **ROOTS},
            {"name": "again", "template": FILE, "register": "again", **ROOTS},
            {"name": "root's", "command": f"cat {PLACE}", "register": "read", "failed_when": "not read.rc"},
            {"name": "deploy's", "command": "id -un", "register": "name", **ROOTS, "become_user": "deploy"},
            # The callback that prints JSON is in a collection of its own, which Debian's ansible-core lacks.
            {"name": "report", "copy": {"content": REPORT, "dest": WRITTEN}, "delegate_to": "localhost"},
        ],
    }
]  # fmt: skip


@dataclass(frozen=True)
class Way:
    """How Ansible is told to work, and on how many hosts at once."""

    name: str
    hosts: int
    pipelining: bool
    transfer: str


@asynccontextmanager
async def hosts(engine: Engine, openssh: OpenSSH, data: Path) -> AsyncIterator[Server]:
    """A server with containers of Debian, whose user is an ordinary one; root has a password."""
    key = await openssh.make_key()
    base = await asyncio.to_thread(zoo_image, engine, "debian")
    accounts = f"RUN useradd -m -u 1000 -s /bin/bash deploy && echo 'root:{ROOTS_PASSWORD}' | chpasswd"
    image = await asyncio.to_thread(build_image, engine, "containerssh-test/accounts:latest", base, accounts)
    execution = {
        "container": {"image": image, "User": "deploy", "WorkingDir": "/home/deploy", "Env": ["HOME=/home/deploy"]},
        "host": {"NetworkMode": "none", "Binds": [f"{data}:/data"]},
        "shellCommand": ["/bin/bash"],
        "imagePullPolicy": "Never",
    }
    docker = {"connection": {"host": engine.address}, "execution": execution}
    users = {"deploy": {"authorizedKeys": [key.with_suffix(".pub").read_text().strip()]}}
    async with serving({"backend": "docker", "docker": docker}, users) as server:
        yield server


async def play(openssh: OpenSSH, server: Server, way: Way) -> dict[str, Any]:
    """What the tasks of :data:`PLAY` registered, by the names of the hosts."""
    folder = server.folder / way.name
    await asyncio.to_thread(folder.mkdir)
    (folder / "text.j2").write_text(TEMPLATE)
    (folder / "play.yml").write_text(json.dumps(PLAY))
    common = f"ansible_host=127.0.0.1 ansible_port={server.port} ansible_user=deploy"
    common += f" ansible_become_password={ROOTS_PASSWORD!r}"
    common += f" ansible_ssh_private_key_file={openssh.folder / 'id'} ansible_python_interpreter=/usr/bin/python3"
    # All are the same address: without a name of its own each would share the first one's connection.
    lines = [f"h{number} {common} ansible_control_path={folder}/h{number}" for number in range(way.hosts)]
    (folder / "hosts").write_text("\n".join(lines))
    environment = {
        "HOME": str(folder),
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_FORKS": str(way.hosts),
        "ANSIBLE_HOST_KEY_CHECKING": "False",
        "ANSIBLE_PIPELINING": str(way.pipelining),
        "ANSIBLE_SSH_TRANSFER_METHOD": way.transfer,
        "ANSIBLE_TIMEOUT": "60",
        "ANSIBLE_SSH_ARGS": "-F /dev/null -o ControlMaster=auto -o ControlPersist=120 -o LogLevel=ERROR"
        " -o UserKnownHostsFile=/dev/null",
    }
    done = await run(
        *(tool("ansible-playbook"), "-i", folder / "hosts", "-e", f"way={way.name}", folder / "play.yml"),
        env=environment,
        limit=LIMIT,
    )
    # On a busy machine more time goes by between two tasks than a master should wait for after the last.
    leave = (tool("ssh"), "-F", "/dev/null", "-O", "exit")
    await asyncio.gather(*(run(*leave, "-S", folder / f"h{number}", "nobody") for number in range(way.hosts)))
    said = re.findall(r'"msg": "[^"]*', done.stdout.decode())
    assert done.status == 0, (way, said[:3], done.stderr.decode()[-1000:])
    recap = re.findall(r"(?m)^(h\d+) +: ok=6 +changed=4 +unreachable=0 +failed=0 ", done.stdout.decode())
    names = [f"h{number}" for number in range(way.hosts)]
    assert sorted(recap) == sorted(names), done.stdout.decode()[-3000:]
    return {name: json.loads((folder / f"report-{name}").read_bytes()) for name in names}


def check(way: Way, told: dict[str, Any], data: Path) -> None:
    """Every host did everything, and the files are there, root's."""
    for host, report in told.items():
        assert (report["first"]["changed"], report["again"]["changed"]) == (True, False)
        assert "Permission denied" in report["read"]["stderr"]
        assert report["name"]["stdout"] == "deploy"
        made = data / f"{way.name}-{host}"
        assert made.read_text() == RENDERED.format(host=host, way=way.name)
        assert (made.stat().st_uid, made.stat().st_mode & 0o777) == (0, 0o600)


FORKS = [Way("forks", 20, pipelining=False, transfer="sftp")]
OTHERS = [Way("pipelined", 2, pipelining=True, transfer="sftp"), Way("piped", 2, pipelining=False, transfer="piped")]


@pytest.mark.parametrize("ways", [FORKS, OTHERS], ids=["twenty at once", "pipelined, and piped"])
async def test_templates_arrive_as_root_on_every_host(engine: Engine, tmp_path: Path, ways: list[Way]) -> None:
    openssh, data = OpenSSH(tmp_path, password=None), tmp_path / "data"
    data.mkdir()
    async with hosts(engine, openssh, data) as server:
        told = await asyncio.gather(*(play(openssh, server, way) for way in ways))
        logins = {line["details"]["connectionId"] for line in server.logged("SSH_HANDSHAKE_SUCCESSFUL")}
        assert len(logins) == sum(way.hosts for way in ways), (
            "each host has a connection, which serves all of its tasks"
        )
        assert complaints(server) == []

        def left() -> list[str]:
            labels = engine.docker("ps", "-a", "--format", '{{.Label "containerssh_connection_id"}}').split()
            return [label for label in labels if label in logins]

        await server.until(lambda: not left(), "the masters have ended, and their containers")
    for way, report in zip(ways, told, strict=True):
        check(way, report, data)
    shutil.rmtree(data)
