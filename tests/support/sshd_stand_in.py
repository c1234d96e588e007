#!/usr/bin/env python3
"""Called as sshd by OpenSSH's regression scripts, leads them to the server of ``STAND_IN_PORT``.

``-i`` joins standard input and output with it; without, a relay listens on the port of the scripts' configuration
until it is told to stop, and keeps the pid file that they look for. What only asks about sshd is sshd's own to answer.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

QUESTIONS = {"-t", "-T", "-V", "-G"}


def main() -> None:
    arguments = sys.argv[1:]
    if QUESTIONS & set(arguments):
        real = os.environ["STAND_IN_SSHD"]
        os.execv(real, [real, *arguments])
    if "-i" in arguments:
        asyncio.run(_join())
        return
    settings = _settings(Path(arguments[arguments.index("-f") + 1]))
    if os.fork():
        return
    os.setsid()
    asyncio.run(_relay(int(settings["port"]), Path(settings["pidfile"])))


def _server_port() -> int:
    return int(os.environ["STAND_IN_PORT"])


def _settings(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in path.read_text().splitlines():
        words = line.replace("=", " ").split()
        if len(words) > 1:
            # The first counts, as with sshd.
            found.setdefault(words[0].lower(), words[1])
    return found


async def _join() -> None:
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection("127.0.0.1", _server_port())
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


async def _relay(port: int, pid_file: Path) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        their_reader, their_writer = await asyncio.open_connection("127.0.0.1", _server_port())
        await asyncio.gather(_carry(reader, their_writer), _carry(their_reader, writer))
        their_writer.close()
        writer.close()

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = await asyncio.start_server(accept, "127.0.0.1", port)
    await asyncio.to_thread(pid_file.write_text, f"{os.getpid()}\n")
    await stop.wait()
    server.close()
    await asyncio.to_thread(pid_file.unlink)
    os._exit(0)


if __name__ == "__main__":
    main()
