"""The images and the compose file: what is in them, and that a server which runs so lets a real client in."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from containerssh.auth.hashes import hash_password
from tests.support.deployed import AGENT_IMAGE, DEPLOY, SERVER_IMAGE, VERSION, Client, Place, image_file
from tests.support.services import Engine, wait_until
from tests.support.tools import tool

pytestmark = [pytest.mark.docker, pytest.mark.root, pytest.mark.timeout(240)]

COMPOSE = DEPLOY / "compose.yaml"


def files_in(image: Path) -> dict[str, tarfile.TarInfo]:
    """What the layer of *image* has, by name."""
    with tarfile.open(image) as archive:
        listing = archive.extractfile("manifest.json")
        assert listing is not None
        (description,) = json.load(listing)
        with tarfile.open(fileobj=archive.extractfile(description["Layers"][0])) as layer:
            return {entry.name: entry for entry in layer.getmembers()}


def test_the_servers_image_has_no_shell_nothing_with_others_rights_and_nothing_to_write_to() -> None:
    entries = files_in(image_file("server"))
    assert not {"usr/bin/sh", "usr/bin/bash", "usr/bin/dash", "usr/bin/dpkg", "usr/bin/apt"} & set(entries)
    assert [name for name, entry in entries.items() if entry.mode & 0o6000] == []
    writable = [name for name, entry in entries.items() if not entry.issym() and entry.mode & 0o022]
    assert writable == ["tmp"]
    owned = {name for name, entry in entries.items() if entry.uid}
    assert owned == {"etc/containerssh", "run/containerssh", "var/lib/containerssh"}
    assert {entry.mtime for entry in entries.values()} == {0}


def test_the_same_sources_give_the_same_image(tmp_path: Path) -> None:
    again = tmp_path / "agent.tar"
    subprocess.run([sys.executable, DEPLOY / "image/build", "agent", again], check=True, capture_output=True)
    assert again.read_bytes() == image_file("agent").read_bytes()


def test_the_servers_image_runs_with_a_read_only_root_and_trusts_the_usual_authorities(engine: Engine) -> None:
    load(engine)
    walls = ("--rm", "--read-only", "--network", "none", "--cap-drop", "ALL")
    assert engine.docker("run", *walls, SERVER_IMAGE, "--version").startswith("ContainerSSH ")
    text = "import os, ssl, uvloop; print(os.getuid(), len(ssl.create_default_context().get_ca_certs()) > 50)"
    assert engine.docker("run", *walls, "--entrypoint", "/usr/bin/python3", SERVER_IMAGE, "-c", text) == "10001 True"
    assert engine.docker("run", *walls, AGENT_IMAGE, "version")


def load(engine: Engine) -> None:
    for kind in ("server", "agent"):
        engine.docker("load", "--quiet", "--input", str(image_file(kind)))


def test_the_chart_and_the_compose_file_name_the_image_that_this_version_makes() -> None:
    assert f"appVersion: {VERSION}\n" in (DEPLOY / "helm/containerssh/Chart.yaml").read_text()
    assert f":-{SERVER_IMAGE}}}" in COMPOSE.read_text()


# -- compose -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def composed(engine: Engine, folder: Path) -> AsyncIterator[tuple[Place, list[str], dict[str, str]]]:
    """deploy/compose.yaml, up with a port of its own; where it listens, and the command with its variables."""
    await asyncio.to_thread(load, engine)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "DOCKER_HOST": engine.address,
        "DOCKER_SOCKET": str(engine.socket),
        "DOCKER_GROUP": str(engine.socket.stat().st_gid),
        "CONTAINERSSH_CONFIG": str(folder),
        "CONTAINERSSH_PORT": f"127.0.0.1:{port}",
        "CONTAINERSSH_IMAGE": SERVER_IMAGE,
    }
    project = f"compose{secrets.token_hex(4)}"
    command = [tool("docker-compose"), "--project-name", project, "--file", str(COMPOSE)]
    try:
        await compose(command, environment, "up", "--detach")
        yield Place("127.0.0.1", port), command, environment
    finally:
        await compose(command, environment, "down", "--volumes")


async def compose(command: list[str], environment: dict[str, str], *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, *arguments, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


def configured(folder: Path) -> Path:
    """A new *folder* with the configuration beside the compose file, an image that is here in it, and a users file."""
    folder.mkdir()
    config = (DEPLOY / "compose/config.yaml").read_text()
    assert "debian:12" in config
    config = config.replace("debian:12", "bb:latest").replace("/bin/bash", "/bin/sh")
    users = json.dumps({"users": {"alice": {"password": hash_password("secret")}}})
    for name, content in (("config.yaml", config), ("users.yaml", users)):
        file = folder / name
        file.write_text(content)
        os.chown(file, 10001, 10001)
    # Whatever the rights of its own folder are, the server's user has to get in.
    folder.chmod(0o755)
    return folder


def answers(place: Place) -> bool:
    with suppress(OSError), socket.create_connection((place.host, place.port), timeout=5) as connection:
        return connection.recv(4) == b"SSH-"
    return False


async def test_a_real_client_logs_in_to_what_compose_started_and_finds_the_same_key_after_a_restart(
    engine: Engine, tmp_path: Path
) -> None:
    folder = configured(tmp_path / "config")
    client = Client(tmp_path)
    async with composed(engine, folder) as (place, command, environment):
        await asyncio.to_thread(wait_until, lambda: answers(place), within=30, what="the server")
        assert (await client.log_in(place, "id -u; exit 3")).status == 3
        known = (tmp_path / "known_hosts").read_text()
        await compose(command, environment, "up", "--detach", "--force-recreate")
        await asyncio.to_thread(wait_until, lambda: answers(place), within=30, what="the server")
        again = await client.log_in(place, "id -u")
        assert (again.status, again.stdout) == (0, b"0\n")
        assert (tmp_path / "known_hosts").read_text() == known
