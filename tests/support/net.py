"""What tests do to the network of this machine: packets dropped, proxies in front of a server."""

from __future__ import annotations

import asyncio
import subprocess
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from tests.support.server import free_port
from tests.support.tools import tool


@contextmanager
def dropped(port: int, other: int) -> Iterator[None]:
    """While it lasts no packet goes between these two TCP ports of the loopback interface. Needs root."""
    ends = [(port, other), (other, port)]
    rules = [["-i", "lo", "-p", "tcp", "--sport", str(a), "--dport", str(b), "-j", "DROP"] for a, b in ends]
    added: list[list[str]] = []
    try:
        for rule in rules:
            subprocess.run([tool("iptables"), "-w", "-I", "INPUT", *rule], check=True)
            added.append(rule)
        yield
    finally:
        for rule in added:
            subprocess.run([tool("iptables"), "-w", "-D", "INPUT", *rule], check=True)


@asynccontextmanager
async def haproxy(folder: Path, server: int, option: str) -> AsyncIterator[int]:
    """HAProxy in front of the port *server*; *option* is ``send-proxy`` or ``send-proxy-v2``. Gives its own port."""
    port = free_port()
    config = folder / "haproxy.cfg"
    text = f"""
        defaults
            mode tcp
            timeout connect 5s
            timeout client 60s
            timeout server 60s
        listen ssh
            bind 127.0.0.1:{port}
            server front 127.0.0.1:{server} {option}
    """
    config.write_text(textwrap.dedent(text).strip() + "\n")
    process = await asyncio.create_subprocess_exec(
        tool("haproxy"), "-db", "-f", config, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(10):
            while True:
                assert process.returncode is None, "haproxy ended"
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.02)
                    continue
                writer.close()
                break
        yield port
    finally:
        process.kill()
        await process.wait()
