"""Forwarded connections by OpenSSH's client: into the container here, to the machine itself with sshd.

What is at the other end is busybox in both cases, so that it costs both the same.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.measure import LIMIT, LOGIN_CIPHER, MIB, MeasurementError
from benchmarks.processes import cpu_seconds
from benchmarks.report import Report
from benchmarks.servers import Client, Server, free_port

_WARM_UP = 20


@dataclass(frozen=True)
class Ports:
    """Ends of forwards on this side, each to a port of its own on the other."""

    source: int
    """Sends so many MiB, and closes."""
    sink: int
    """Takes all, and answers with a line."""
    echo: int


def compare(report: Report, client: Client, servers: list[Server], options: argparse.Namespace) -> None:
    """One large connection each way, and small messages there and back."""
    for _ in range(options.transfers):
        for server in servers:
            with _forwarding(client, server, options.size) as ports:
                before = cpu_seconds(server.pid, with_ended_children=server.forks)
                up, down = _send(ports.sink, options.size), _receive(ports.source, options.size)
                if not server.forks:
                    spent = cpu_seconds(server.pid, with_ended_children=False) - before
                    report.add("forward up and down, server CPU s/GiB", server.name, spent * 512 / options.size)
                report.add("forward up, MiB/s", server.name, options.size / up)
                report.add("forward down, MiB/s", server.name, options.size / down)
                times = _echoes(ports.echo, options.keys)
            report.add("echo through a forward, p50 ms", server.name, statistics.median(times))
            p99 = statistics.quantiles(times, n=100, method="inclusive")[98]
            report.add("echo through a forward, p99 ms", server.name, p99)


@contextmanager
def _forwarding(client: Client, server: Server, size: int) -> Iterator[Ports]:
    ours = [free_port() for _ in range(3)]
    theirs = [free_port() for _ in range(3)]
    nc = "busybox nc -ll -p"
    programs = (
        f"{nc} {theirs[0]} -e busybox dd if=/dev/zero bs=65536 count={size * 16} 2>/dev/null",
        f"{nc} {theirs[1]} -e busybox sh -c 'cat >/dev/null; echo done'",
        f"{nc} {theirs[2]} -e busybox cat",
    )
    remote = " & ".join(programs) + " & echo ready; cat; kill $(jobs -p)"
    argv = client.command(server, remote, cipher=LOGIN_CIPHER)
    for here, there in zip(ours, theirs, strict=True):
        argv[1:1] = ["-L", f"127.0.0.1:{here}:127.0.0.1:{there}"]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if process.stdout.readline() != b"ready\n":
                raise MeasurementError(f"{server.name}: no forwards")
            _wait_for_echo(ours[2])
            yield Ports(*ours)
        finally:
            process.stdin.close()
            try:
                process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), LIMIT)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _wait_for_echo(port: int) -> None:
    """The programs have been started, and are about to listen."""
    end = time.perf_counter() + LIMIT
    while time.perf_counter() < end:
        with _connect(port) as connection:
            try:
                connection.sendall(b"x")
                if connection.recv(1):
                    return
            except ConnectionError:
                pass
        time.sleep(0.05)
    raise MeasurementError("nobody echoes")


def _receive(port: int, size: int) -> float:
    began = time.perf_counter()
    left = size * MIB
    with _connect(port) as connection:
        while data := connection.recv(256 * 1024):
            left -= len(data)
    if left:
        raise MeasurementError(f"{left} bytes are missing")
    return time.perf_counter() - began


def _send(port: int, size: int) -> float:
    block = bytes(MIB)
    began = time.perf_counter()
    with _connect(port) as connection:
        for _ in range(size):
            connection.sendall(block)
        connection.shutdown(socket.SHUT_WR)
        if connection.recv(16) != b"done\n":
            raise MeasurementError("the other end did not get all")
    return time.perf_counter() - began


def _echoes(port: int, count: int) -> list[float]:
    """Milliseconds there and back, of single bytes."""
    times = []
    with _connect(port) as connection:
        for _ in range(count + _WARM_UP):
            began = time.perf_counter()
            connection.sendall(b"x")
            connection.recv(1)
            times.append((time.perf_counter() - began) * 1000)
    return times[_WARM_UP:]
