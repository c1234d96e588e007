"""The address of an engine, and connecting to it."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from containerssh.backends.docker.half_close import open_tls
from containerssh.backends.docker.wire import Wire
from containerssh.config.docker import DockerConnectionConfig
from containerssh.core.codes import DockerCode
from containerssh.core.errors import ConfigError
from containerssh.web.head import HEAD_LIMIT


@dataclass(frozen=True)
class Endpoint:
    """The parsed address of an engine."""

    url: str
    socket: str
    """The path of a unix socket; empty for TCP."""
    host: str
    port: int
    base: str
    """The prefix of every API path."""
    tls: ssl.SSLContext | None

    @property
    def is_local(self) -> bool:
        """Whether the address is a unix socket, so that the engine probably shares the file system."""
        return bool(self.socket)

    @property
    def authority(self) -> str:
        """The value of the ``Host`` header."""
        if self.socket:
            return "docker"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    async def connect(self, *, half_close: bool = False) -> Wire:
        """
        Open a connection; close it with ``Wire.abort``. With *half_close*, its writing side can be closed separately.

        Raises:
            OSError: the connection or TLS failed.
        """
        if self.socket:
            reader, writer = await asyncio.open_unix_connection(self.socket, limit=HEAD_LIMIT)
        elif half_close and self.tls is not None:
            reader, writer = await open_tls(self.host, self.port, self.tls)
        else:
            reader, writer = await asyncio.open_connection(
                self.host,
                self.port,
                limit=HEAD_LIMIT,
                ssl=self.tls,
                server_hostname=self.host if self.tls else None,
            )
        return Wire(reader, writer)


def open_endpoint(config: DockerConnectionConfig) -> Endpoint:
    """
    The endpoint of *config*. Reading certificates blocks for some milliseconds.

    Raises:
        ConfigError: the certificates cannot be used.
    """
    url = urlsplit(config.host)
    if url.scheme == "unix":
        return Endpoint(config.host, unquote(url.path), "", 0, "", None)
    tls = None
    if url.scheme == "https" or config.cacert or config.cert:
        tls = _tls(config)
    port = url.port or {"http": 80, "https": 443}.get(url.scheme) or (2376 if tls else 2375)
    base = quote(unquote(url.path.rstrip("/")), safe="/")
    return Endpoint(config.host, "", url.hostname or "", port, base, tls)


def _tls(config: DockerConnectionConfig) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cadata=config.cacert or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if config.cert:
            with _in_memory(config.cert) as cert, _in_memory(config.key.get_secret_value()) as key:
                context.load_cert_chain(cert, key, password=_refuse_password)
    except (OSError, ValueError) as exc:
        text = "docker.connection: cacert, cert or key cannot be used"
        raise ConfigError(DockerCode.CONFIG_ERROR, text) from exc
    return context


@contextmanager
def _in_memory(text: str) -> Iterator[str]:
    """A temporary in-memory file: Python's TLS loads certificates only from files."""
    descriptor = os.memfd_create("containerssh", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(text.encode())
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _refuse_password() -> str:
    raise ValueError("the key is encrypted; ContainerSSH needs it without a password")
