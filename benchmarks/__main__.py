"""Logins and throughput of each backend beside OpenSSH's sshd, in one run and with one client.

make bench
make bench ARGS="--backends oci --logins 30 --size 512"
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks import measure
from benchmarks.report import Report
from benchmarks.servers import KEX, Client, Server, containerssh, openssh
from tests.support.services import Engine, running_engine

KEPT = Path(__file__).parents[1] / ".cache" / "bench"
CIPHERS = ("aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com")


def main() -> int:
    options = _options()
    report = Report()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="containerssh-bench-")))
        client = Client.make(folder / "client")
        engine = stack.enter_context(running_engine(folder / "dockerd.log")) if "docker" in options.backends else None
        servers = [stack.enter_context(openssh(folder / "sshd", client))]
        servers += [stack.enter_context(containerssh(name, folder / name, client)) for name in options.backends]
        _logins(report, client, servers, engine, options.logins)
        for cipher in options.ciphers:
            _transfers(report, client, servers, cipher, options)
    print(f"\n{report.conditions()}\n\n{report.table()}\n\nall samples: {report.save(KEPT)}")
    return 0


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


def _transfers(report: Report, client: Client, servers: list[Server], cipher: str, options: argparse.Namespace) -> None:
    short = cipher.partition("@")[0]
    for number in range(options.transfers):
        _progress(f"{short} {number + 1}/{options.transfers}")
        for server in servers:
            report.add(f"down, {short}, MiB/s", server.name, measure.download(client, server, cipher, options.size))
            report.add(f"up, {short}, MiB/s", server.name, measure.upload(client, server, cipher, options.size))


def _progress(text: str) -> None:
    end = "" if sys.stderr.isatty() else "\n"
    print(f"\r{text:<40}", end=end, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description="Measure logins and throughput beside sshd.")
    parser.add_argument("--backends", type=_words, default=["oci", "docker"], metavar="A,B", help="oci,docker")
    parser.add_argument("--logins", type=int, default=15, help="logins per server (default: %(default)s)")
    parser.add_argument("--transfers", type=int, default=3, help="transfers per direction (default: %(default)s)")
    parser.add_argument("--size", type=int, default=256, metavar="MIB", help="of a transfer (default: %(default)s)")
    parser.add_argument("--ciphers", type=_words, default=list(CIPHERS), metavar="A,B")
    options = parser.parse_args()
    if unknown := set(options.backends) - {"oci", "docker"}:
        parser.error(f"unknown backend: {', '.join(unknown)}")
    return options


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


if __name__ == "__main__":
    sys.exit(main())
