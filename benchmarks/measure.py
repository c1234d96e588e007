"""What is measured: how long a login takes, and how fast bytes flow through one session.

The client is OpenSSH's in every case, so its own cost is in every figure.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks.servers import Client, Server

MIB = 1 << 20
LOGIN_CIPHER = "aes128-gcm@openssh.com"
LIMIT = 120.0
"""Seconds that one login or one transfer may take."""


class MeasurementError(Exception):
    """The server answered wrongly; the figure would mean nothing."""


@dataclass(frozen=True)
class LoginTime:
    """In milliseconds since the client was started."""

    first_byte: float
    total: float


def login(client: Client, server: Server, *, kex: str) -> LoginTime:
    """One whole ssh command that prints a word; *kex* as in :meth:`Client.command`."""
    began = time.perf_counter()
    with _client(client.command(server, "echo ready", cipher=LOGIN_CIPHER, kex=kex)) as process:
        first = _stdout(process).readline()
        first_byte = time.perf_counter()
        process.communicate(timeout=LIMIT)
        total = time.perf_counter()
    _check(process, server, first == b"ready\n")
    return LoginTime((first_byte - began) * 1000, (total - began) * 1000)


def download(client: Client, server: Server, cipher: str, size: int) -> float:
    """MiB/s out of the session, from the first byte on; *size* in MiB."""
    remote = f"echo ready; dd if=/dev/zero bs=65536 count={size * 16} 2>/dev/null"
    with _client(client.command(server, remote, cipher=cipher)) as process, Path(os.devnull).open("wb") as sink:
        stdout = _stdout(process)
        ready = _line(stdout)
        began = time.perf_counter()
        received = 0
        # splice: the bytes never pass through this process, which shares the processor with client and server.
        while count := os.splice(stdout.fileno(), sink.fileno(), MIB):
            received += count
        seconds = time.perf_counter() - began
        process.wait(LIMIT)
    _check(process, server, ready == b"ready\n" and received == size * MIB)
    return size / seconds


def upload(client: Client, server: Server, cipher: str, size: int) -> float:
    """MiB/s into the session, until the program has read the last byte and said so; *size* in MiB."""
    remote = "echo ready; dd of=/dev/null bs=65536 2>/dev/null; echo done"
    with tempfile.TemporaryFile() as source:
        source.truncate(size * MIB)
        with _client(client.command(server, remote, cipher=cipher), stdin=subprocess.PIPE) as process:
            stdout, stdin = _stdout(process), process.stdin
            assert stdin is not None
            ready = _line(stdout)
            began = time.perf_counter()
            left = size * MIB
            while left:
                left -= os.splice(source.fileno(), stdin.fileno(), min(left, MIB))
            stdin.close()
            done = _line(stdout)
            seconds = time.perf_counter() - began
            process.wait(LIMIT)
    _check(process, server, (ready, done) == (b"ready\n", b"done\n"))
    return size / seconds


def engine_start(engine_socket: Path, image: str) -> float:
    """Milliseconds that the Docker engine itself needs to create and start a container: the floor of a login there."""
    connection = http.client.HTTPConnection("localhost", timeout=LIMIT)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(LIMIT)
    connection.sock.connect(str(engine_socket))

    def call(method: str, path: str, body: dict[str, object] | None = None) -> bytes:
        headers = {"Content-Type": "application/json"}
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status >= 300:
            raise MeasurementError(f"the engine answered {answer.status} to {path}: {content.decode(errors='replace')}")
        return content

    spec: dict[str, object] = {"Image": image, "Cmd": ["sleep", "60"], "HostConfig": {"NetworkMode": "none"}}
    try:
        began = time.perf_counter()
        identity = json.loads(call("POST", "/containers/create", spec))["Id"]
        try:
            call("POST", f"/containers/{identity}/start", {})
            seconds = time.perf_counter() - began
        finally:
            call("DELETE", f"/containers/{identity}?force=true&v=true")
    finally:
        connection.close()
    return seconds * 1000


@contextmanager
def _client(command: list[str], stdin: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, bufsize=0) as process:
        try:
            yield process
        finally:
            process.kill()


def _stdout(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdout is not None
    return process.stdout


def _line(stream: IO[bytes]) -> bytes:
    """One line, and not a byte more: what follows is counted by splice."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(stream.fileno(), 1)):
        line += byte
    return line


def _check(process: subprocess.Popen[bytes], server: Server, complete: bool) -> None:
    if process.returncode != 0 or not complete:
        raise MeasurementError(
            f"{server.name}: ssh ended with status {process.returncode}, output complete: {complete}"
        )
