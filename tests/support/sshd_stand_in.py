#!/usr/bin/env python3
"""Called as sshd by OpenSSH's regression scripts, leads them to the server of ``STAND_IN_PORT``.

``-i`` joins standard input and output with it; without, a relay listens on the port of the scripts' configuration
until it is told to stop, and keeps the pid file that they look for. What only asks about sshd is sshd's own to answer.

With ``STAND_IN_USERS``, each connection finds a users file there that says what sshd's configuration says then, and
comes with a PROXY header: one that is joined is from nowhere, as far as sshd would know.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

QUESTIONS = {"-t", "-T", "-V", "-G"}


def main() -> None:
    arguments = sys.argv[1:]
    if QUESTIONS & set(arguments):
        real = os.environ["STAND_IN_SSHD"]
        os.execv(real, [real, *arguments])
    path = Path(arguments[arguments.index("-f") + 1])
    if "-i" in arguments:
        asyncio.run(_join(path))
        return
    if os.fork():
        return
    os.setsid()
    asyncio.run(_relay(path))


def _server_port() -> int:
    return int(os.environ["STAND_IN_PORT"])


def _settings(path: Path) -> dict[str, list[str]]:
    """What sshd would go by: the first of a name counts, unless it is in a ``Match``, which here is always met."""
    found: dict[str, list[str]] = {}
    matched = False
    for line in path.read_text().splitlines():
        name, *words = line.replace("=", " ").split() or ["#"]
        if name.lower() == "match":
            matched = True
        elif words and (matched or name.lower() not in found):
            found[name.lower()] = words
    return found


def _tell_rules(settings: dict[str, list[str]]) -> None:
    """Write the users file, if there is to be one."""
    path = os.environ.get("STAND_IN_USERS")
    # In a container it is not to be seen, and has been written for the connection that leads there.
    if path is None or not Path(path).parent.is_dir():
        return
    ways = settings.get("allowtcpforwarding", ["yes"])[0]
    forwarding: dict[str, Any] = dict.fromkeys(("socketForwardingMode", "socketListenMode"), "enable")
    for kind, way, option in (("forwarding", "local", "permitopen"), ("reverseForwarding", "remote", "permitlisten")):
        forwarding[f"{kind}Mode"] = "disable" if ways not in ("yes", way) else "enable"
        if option in settings and ways in ("yes", way):
            forwarding[f"{kind}Mode"] = "filter"
            forwarding[f"{kind}Allow"] = settings[option]
    security = {"forwarding": forwarding, "forceCommand": " ".join(settings.get("forcecommand", []))}
    keys = settings["authorizedkeysfile"][0].replace("%u", "root")
    users = {"users": {"root": {"authorizedKeysFile": keys, "config": {"security": security}}}}
    fresh = Path(f"{path}.{os.getpid()}")
    fresh.write_text(json.dumps(users))
    fresh.chmod(0o600)
    fresh.rename(path)


def _header(host: str) -> bytes:
    return f"PROXY TCP4 {host} 127.0.0.1 1 22\r\n".encode() if "STAND_IN_USERS" in os.environ else b""


async def _join(path: Path) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(lambda: _tell_rules(_settings(path)))
    reader, writer = await asyncio.open_connection("127.0.0.1", _server_port())
    writer.write(_header("192.0.2.1"))
    own = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(own), sys.stdin.buffer)
    forth = asyncio.create_task(_carry(own, writer))
    while data := await reader.read(65536):
        await asyncio.to_thread(_write, data)
    forth.cancel()
    # The reader of standard input may wait for ever.
    os._exit(0)


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.close()


async def _relay(path: Path) -> None:
    settings = await asyncio.to_thread(_settings, path)
    pid_file = Path(settings["pidfile"][0])

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if "STAND_IN_USERS" in os.environ and not (first := await reader.read(65536)).startswith(b"SSH-"):
            # By these words of sshd's a script knows where it has come to; ours has none for strangers.
            writer.write(b"Invalid SSH identification string.\r\n")
            writer.close()
            return
        await asyncio.to_thread(lambda: _tell_rules(_settings(path)))
        their_reader, their_writer = await asyncio.open_connection("127.0.0.1", _server_port())
        if "STAND_IN_USERS" in os.environ:
            their_writer.write(_header("127.0.0.1") + first)
        await asyncio.gather(_carry(reader, their_writer), _carry(their_reader, writer))
        their_writer.close()
        writer.close()

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = await asyncio.start_server(accept, "127.0.0.1", int(settings["port"][0]))
    await asyncio.to_thread(pid_file.write_text, f"{os.getpid()}\n")
    await stop.wait()
    server.close()
    await asyncio.to_thread(pid_file.unlink)
    os._exit(0)


if __name__ == "__main__":
    main()
