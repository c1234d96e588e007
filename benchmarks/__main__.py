"""Each backend beside OpenSSH's sshd, in one run and with the same clients: time, bytes, processor, memory.

make bench
make bench ARGS="--backends oci --parts login,transfer --logins 30 --size 512"
make bench ARGS="--backends kubernetes --parts pods,pods-crowd,pods-watch"
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks import (
    connections,
    crowd,
    forward,
    kubernetes,
    measure,
    modes,
    pods_crowd,
    pods_link,
    pods_watch,
    sessions,
    sftp,
    start,
)
from benchmarks.processes import cpu_seconds
from benchmarks.report import Report
from benchmarks.servers import KEX, Client, Server, containerssh, openssh
from tests.support.services import Engine, running_engine

KEPT = Path(__file__).parents[1] / ".cache" / "bench"
# Memory comes first: what a server has freed it would give to the next connections.
PARTS = ("start", "memory", "login", "session", "storm", "crowd", "transfer", "echo", "modes", "sftp", "forward")
POD_PARTS = ("pods", "pods-link", "pods-crowd", "pods-watch")
CIPHERS = ("aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com")


def main() -> int:
    options = _options()
    report = Report()
    start.compile_package()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="containerssh-bench-")))
        client = Client.make(folder / "client")
        engine = stack.enter_context(running_engine()) if "docker" in options.backends else None
        ground = stack.enter_context(kubernetes.ground()) if "kubernetes" in options.backends else None
        sections = {"kubernetes": ground.section()} if ground is not None else {}
        servers = []
        if set(options.parts) - set(POD_PARTS):
            servers = [stack.enter_context(openssh(folder / "sshd", client))]
            servers += [
                stack.enter_context(containerssh(name, folder / name, client, section=sections.get(name)))
                for name in options.backends
            ]
        parts: dict[str, Callable[[], None]] = {
            "start": lambda: _starts(report, client, servers, folder, options),
            "login": lambda: _logins(report, client, servers, engine, options.logins),
            "session": lambda: asyncio.run(_sessions(report, client, servers, options)),
            "storm": lambda: asyncio.run(_storms(report, client, servers, options)),
            "crowd": lambda: crowd.compare(report, client, folder, seconds=options.seconds, idle=options.crowd),
            "transfer": lambda: _transfers(report, client, servers, options),
            "echo": lambda: asyncio.run(_echoes(report, client, servers, options)),
            "modes": lambda: modes.compare(report, client, servers, folder, options.logins, options.size),
            "sftp": lambda: sftp.compare(report, client, servers, folder, options),
            "forward": lambda: forward.compare(report, client, servers, options),
            "memory": lambda: asyncio.run(_memory(report, client, servers, options)),
        }
        if ground is not None:
            parts |= {
                "pods": lambda: kubernetes.compare(report, client, ground, folder, options.rounds),
                "pods-link": lambda: pods_link.compare(
                    report, client, ground, folder, rounds=options.transfers, size=options.size
                ),
                "pods-crowd": lambda: pods_crowd.compare(report, client, ground, folder, options.pods),
                "pods-watch": lambda: pods_watch.compare(report, ground, options.watched),
            }
        for name in options.parts:
            parts[name]()
    print(f"\n{report.conditions()}\n\n{report.table()}\n\nall samples: {report.save(KEPT)}")
    return 0


def _starts(report: Report, client: Client, servers: list[Server], folder: Path, options: argparse.Namespace) -> None:
    what = "start until a connection is answered, ms"
    for server in servers:
        report.add(what, server.name, server.answering_ms)
    for number in range(options.rounds):
        for server in servers:
            if server.name in ("oci", "docker"):
                with containerssh(server.name, folder / f"start-{server.name}-{number}", client) as another:
                    report.add(what, server.name, another.answering_ms)
        report.add("--version, ms", "oci", start.version())


async def _sessions(report: Report, client: Client, servers: list[Server], options: argparse.Namespace) -> None:
    for number in range(options.rounds):
        _progress(f"sessions {number + 1}/{options.rounds}")
        for server in servers:
            times = await sessions.further_sessions(client, server, options.sessions)
            report.add("further session to first byte, p50 ms", server.name, statistics.median(times))
            report.add("further session to first byte, p99 ms", server.name, _p99(times))


async def _storms(report: Report, client: Client, servers: list[Server], options: argparse.Namespace) -> None:
    # One of ours is enough: the backend has no part in it but for its start, which a login without session waits for.
    for number in range(options.rounds):
        for server in servers:
            _progress(f"storm {number + 1}/{options.rounds} {server.name}")
            denied = await connections.storm(client, server, options.storm, accepted=False)
            report.add("denied logins per second", server.name, denied.per_second)
            report.add("denied login, server CPU ms", server.name, denied.cpu_ms)
    for number in range(options.rounds):
        for server in servers:
            if server.name not in ("docker", "kubernetes"):
                _progress(f"storm {number + 1}/{options.rounds} {server.name}")
                accepted = await connections.storm(client, server, options.storm // 4, accepted=True)
                report.add("accepted logins per second", server.name, accepted.per_second)
                report.add("accepted login, server CPU ms", server.name, accepted.cpu_ms)


async def _echoes(report: Report, client: Client, servers: list[Server], options: argparse.Namespace) -> None:
    for number in range(options.rounds):
        for server in servers:
            _progress(f"keystrokes {number + 1}/{options.rounds} {server.name}")
            _add_echo(report, "idle", server, await sessions.keystrokes(client, server, options.keys))
            async with sessions.bulk(client, server):
                times = await sessions.keystrokes(client, server, options.keys)
            _add_echo(report, "beside bulk", server, times)


def _add_echo(report: Report, when: str, server: Server, times: list[float]) -> None:
    report.add(f"keystroke echo {when}, p50 ms", server.name, statistics.median(times))
    report.add(f"keystroke echo {when}, p99 ms", server.name, _p99(times))


async def _memory(report: Report, client: Client, servers: list[Server], options: argparse.Namespace) -> None:
    for server in servers:
        _progress(f"memory {server.name}")
        # With kubernetes a login is there long before its pod.
        count = 0 if server.name in ("docker", "kubernetes") else options.idle
        idle, shell = await connections.memory_of_each(client, server, idle=count, shells=options.shells)
        report.add("connection with a shell, KiB", server.name, shell)
        if count:
            report.add("idle connection, KiB", server.name, idle)
        growth = await sessions.unread_growth(client, server, options.unread)
        report.add(f"growth in {options.unread:g} s for a client that takes nothing, MiB", server.name, growth)


def _p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100, method="inclusive")[98]


def _logins(report: Report, client: Client, servers: list[Server], engine: Engine | None, rounds: int) -> None:
    for server in servers:
        # The first login pays for what is done once: unpacking the image, loading code.
        taken = measure.login(client, server, kex=KEX)
        report.add("first login after the start, ms", server.name, taken.total)
    for number in range(rounds):
        _progress(f"logins {number + 1}/{rounds}")
        # Taken in turn, so that whatever else the machine does meets all alike.
        for server in servers:
            taken = measure.login(client, server, kex=KEX)
            report.add("login to first byte, ms", server.name, taken.first_byte)
            report.add("login to exit status, ms", server.name, taken.total)
            chosen = measure.login(client, server, kex="")
            report.add("login to first byte, key exchange as ssh likes, ms", server.name, chosen.first_byte)
        if engine is not None:
            floor = measure.engine_start(engine.socket, "bb:latest")
            report.add("create and start, ms", "engine alone", floor)


def _transfers(report: Report, client: Client, servers: list[Server], options: argparse.Namespace) -> None:
    for cipher in options.ciphers:
        short = cipher.partition("@")[0]
        for number in range(options.transfers):
            _progress(f"{short} {number + 1}/{options.transfers}")
            for server in servers:
                for way, measured in (("down", measure.download), ("up", measure.upload)):
                    before = cpu_seconds(server.pid, with_ended_children=server.forks)
                    speed = measured(client, server, cipher, options.size)
                    # A process of its own for the connection counts when it has ended.
                    time.sleep(connections.PAUSE if server.forks else 0)
                    spent = cpu_seconds(server.pid, with_ended_children=server.forks) - before
                    report.add(f"{way}, {short}, MiB/s", server.name, speed)
                    report.add(f"{way}, {short}, server CPU s/GiB", server.name, spent * 1024 / options.size)


def _progress(text: str) -> None:
    end = "" if sys.stderr.isatty() else "\n"
    print(f"\r{text:<40}", end=end, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description="Measure logins and throughput beside sshd.")
    parser.add_argument(
        "--backends", type=_words, default=["oci", "docker"], metavar="A,B", help="oci,docker,kubernetes"
    )
    parser.add_argument("--parts", type=_words, default=list(PARTS), metavar="A,B", help=",".join((*PARTS, *POD_PARTS)))
    parser.add_argument("--rounds", type=int, default=3, help="of sessions, storms, keystrokes (default: %(default)s)")
    parser.add_argument("--sessions", type=int, default=30, help="on one connection (default: %(default)s)")
    parser.add_argument("--storm", type=int, default=200, help="logins of a storm (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=5, help="of a storm of a crowd (default: %(default)s)")
    parser.add_argument("--crowd", type=int, default=2000, help="idle logins at once (default: %(default)s)")
    parser.add_argument("--keys", type=int, default=200, help="keystrokes (default: %(default)s)")
    parser.add_argument("--idle", type=int, default=40, help="idle connections (default: %(default)s)")
    parser.add_argument("--shells", type=int, default=20, help="connections with a shell (default: %(default)s)")
    parser.add_argument("--unread", type=float, default=10, metavar="SECONDS", help="(default: %(default)s)")
    parser.add_argument("--logins", type=int, default=15, help="logins per server (default: %(default)s)")
    parser.add_argument("--transfers", type=int, default=3, help="transfers per direction (default: %(default)s)")
    parser.add_argument("--size", type=int, default=256, metavar="MIB", help="of a transfer (default: %(default)s)")
    parser.add_argument("--pods", type=int, default=100, help="logins to pods at once (default: %(default)s)")
    parser.add_argument("--watched", type=int, default=1000, help="pods of a watch (default: %(default)s)")
    parser.add_argument("--files", type=int, default=10_000, help="small files by SFTP (default: %(default)s)")
    parser.add_argument("--ciphers", type=_words, default=list(CIPHERS), metavar="A,B")
    options = parser.parse_args()
    if unknown := set(options.backends) - {"oci", "docker", "kubernetes"}:
        parser.error(f"unknown backend: {', '.join(unknown)}")
    if unknown := set(options.parts) - {*PARTS, *(POD_PARTS if "kubernetes" in options.backends else ())}:
        parser.error(f"unknown part: {', '.join(unknown)}")
    return options


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


if __name__ == "__main__":
    sys.exit(main())
