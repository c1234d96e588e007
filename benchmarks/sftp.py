"""SFTP by OpenSSH's client: ours, which the agent serves, beside OpenSSH's server, under sshd and as an image's own.

Times are taken by the client between the commands of one batch, so logging in is not part of them. Both sides write to
the same file system: sshd's to a folder of the machine, ours to the containers' file systems above it. On ext4 a new
file takes many times as long in the minutes after others were deleted: for small files TMPDIR should be in memory.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tarfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from itertools import pairwise
from pathlib import Path

from benchmarks.connections import PAUSE
from benchmarks.measure import LIMIT, LOGIN_CIPHER, MIB, MeasurementError
from benchmarks.processes import cpu_seconds
from benchmarks.report import Report
from benchmarks.servers import Client, Server, containerssh
from tests.support.services import busybox_archive
from tests.support.tools import tool

_CLOCK = "!date +%s.%N"
_SMALL = 100
_SFTP_SERVER = Path("/usr/lib/openssh/sftp-server")


def compare(report: Report, client: Client, servers: list[Server], folder: Path, options: argparse.Namespace) -> None:
    """One large file and many small ones, up and down; with the backend oci also by OpenSSH's server in an image."""
    with ExitStack() as stack:
        if any(server.name == "oci" for server in servers):
            servers = [*servers, stack.enter_context(_image_server(folder / "sftp-in-image", client))]
        _compare(report, client, servers, folder, options)


@contextmanager
def _image_server(folder: Path, client: Client) -> Iterator[Server]:
    """The same server of ours, for an image that brings OpenSSH's sftp-server with it."""
    root = folder.with_name("sftp-image")
    with tarfile.open(fileobj=BytesIO(busybox_archive())) as archive:
        archive.extractall(root, filter="tar")
    linked = subprocess.run(["ldd", str(_SFTP_SERVER)], stdout=subprocess.PIPE, text=True, check=True).stdout
    for file in (str(_SFTP_SERVER), *re.findall(r"(/\S+) \(0x", linked)):
        place = root / file.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    section = {"image": str(root), "dataDirectory": str(folder / "data")}
    also = {"sftp": {"server": "image"}}
    with containerssh("oci", folder, client, name="oci, image's own", section=section, also=also) as server:
        yield server


def _compare(report: Report, client: Client, servers: list[Server], folder: Path, options: argparse.Namespace) -> None:
    large, many = folder / "large", folder / "many"
    with large.open("wb") as file:
        # Not sparse: reading holes is quicker than reading.
        for _ in range(options.size):
            file.write(bytes(MIB))
    many.mkdir(exist_ok=True)
    for number in range(options.files):
        (many / f"{number:05}").write_bytes(bytes(_SMALL))
    for number in range(options.transfers):
        for server in servers:
            remote = f"{folder if server.forks else '/tmp'}/{uuid.uuid4().hex}"
            # The client would have to empty it first, which takes it as long as half the transfer.
            (folder / "back").unlink(missing_ok=True)
            before = cpu_seconds(server.pid, with_ended_children=server.forks)
            up, down = _timed(
                client,
                server,
                folder,
                [f"mkdir {remote}"],
                [f"put {large} {remote}/l", f"get {remote}/l {folder}/back"],
            )
            # A process of its own for the connection counts when it has ended.
            time.sleep(PAUSE if server.forks else 0)
            spent = cpu_seconds(server.pid, with_ended_children=server.forks) - before
            if (folder / "back").stat().st_size != options.size * MIB:
                raise MeasurementError(f"{server.name}: the file did not come back whole")
            report.add("sftp up, MiB/s", server.name, options.size / up)
            report.add("sftp down, MiB/s", server.name, options.size / down)
            report.add("sftp up and down, server CPU s/GiB", server.name, spent * 512 / options.size)
            if number == 0:
                up, down = _timed(
                    client,
                    server,
                    folder,
                    [f"mkdir {remote}-many"],
                    [f"put -r {many} {remote}-many/", f"get -r {remote}-many/many {folder}/back-many"],
                )
                if sum(1 for _ in (folder / "back-many").iterdir()) != options.files:
                    raise MeasurementError(f"{server.name}: not all files came back")
                subprocess.run(["rm", "-rf", str(folder / "back-many")], check=True)
                report.add("sftp small files up, per second", server.name, options.files / up)
                report.add("sftp small files down, per second", server.name, options.files / down)
            command = client.command(server, f"rm -rf {remote}*", cipher=LOGIN_CIPHER)
            subprocess.run(command, check=True, timeout=LIMIT)


def _timed(client: Client, server: Server, folder: Path, first: list[str], timed: list[str]) -> list[float]:
    """Seconds that each command of *timed* took."""
    batch = [*first, _CLOCK, *(line for command in timed for line in (command, _CLOCK))]
    shell = client.command(server, "-s", cipher=LOGIN_CIPHER)
    # sftp takes ssh's options, but has letters of its own for the port and the user.
    options = [word for pair in pairwise(shell) if pair[0] == "-o" for word in pair]
    identity = ["-i", str(client.folder / "id_ed25519")]
    command = [tool("sftp"), "-q", "-b", "-", "-F", "none", *identity, *options, "-P", str(server.port)]
    done = subprocess.run(
        [*command, f"{server.user}@127.0.0.1"],
        input="\n".join(batch).encode(),
        stdout=subprocess.PIPE,
        cwd=folder,
        timeout=LIMIT,
        check=False,
    )
    clocks = [float(line) for line in done.stdout.decode().splitlines() if line.replace(".", "", 1).isdigit()]
    if done.returncode != 0 or len(clocks) != len(timed) + 1:
        raise MeasurementError(f"{server.name}: sftp ended with status {done.returncode} after {len(clocks)} steps")
    return [after - before for before, after in pairwise(clocks)]
