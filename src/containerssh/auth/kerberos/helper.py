"""The gateway's side of the helper process (:mod:`.worker`)."""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from containerssh.auth.helper import Child, HelperProcess
from containerssh.auth.kerberos.limits import CHILDREN
from containerssh.config.auth import KerberosConfig
from containerssh.core.codes import AuthCode
from containerssh.core.errors import AuthFailed, AuthUnavailable, ConfigError

_PASSED_ON = ("KRB5RCACHENAME", "KRB5RCACHEDIR", "KRB5_TRACE")


class Attempt:
    """The helper's child process for one attempt; created by :meth:`Helper.attempt`."""

    def __init__(self, child: Child) -> None:
        self._child = child

    async def ask(self, **order: object) -> Mapping[str, Any]:
        """
        Send *order*; return the answer.

        Raises:
            AuthFailed: the credentials are wrong.
            AuthUnavailable: the credentials could not be verified, or the child has ended.
        """
        return _read(await self._child.ask(order))

    async def result(self) -> Mapping[str, Any]:
        """Read the result that follows an error token; raises as :meth:`ask`."""
        return _read(await self._child.answer())


class Helper(HelperProcess):
    """A helper process with one configuration; created by :func:`open_helper`."""

    libraries = "Kerberos"
    worker = "containerssh.auth.kerberos.worker"

    def __init__(self, config: KerberosConfig, acceptor: str, folder: Path) -> None:
        super().__init__(CHILDREN)
        self._config = config
        self._acceptor = acceptor
        self._folder = folder
        self.realm = ""
        """The default realm."""
        self.owners: tuple[str, ...] = ()
        """The principals in the keytab."""

    @property
    def arguments(self) -> Sequence[str]:
        return (self._config.keytab, self._acceptor, str(self._folder))

    @property
    def environment(self) -> Mapping[str, str]:
        # The first file takes precedence.
        files = (self._folder / "first.conf", self._config.libraries_config, self._folder / "last.conf")
        return {
            **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
            "KRB5_CONFIG": ":".join(map(str, files)),
            "KRB5CCNAME": "MEMORY:",
            "KRB5_KTNAME": f"FILE:{self._config.keytab}",
        }

    def greeted(self, greeting: Any) -> None:
        if "ok" not in greeting:
            text = f"Kerberos cannot be used with the keytab {self._config.keytab}: {greeting.get('unavailable')}"
            raise ConfigError(AuthCode.CONFIG_ERROR, text, keytab=self._config.keytab)
        self.realm = str(greeting["ok"]["realm"])
        self.owners = tuple(greeting["ok"]["owners"])

    @asynccontextmanager
    async def attempt(self) -> AsyncIterator[Attempt]:
        """A child process for one attempt; scope and errors are those of :meth:`HelperProcess.child`."""
        async with self.child() as child:
            yield Attempt(child)


@asynccontextmanager
async def open_helper(config: KerberosConfig, acceptor: str) -> AsyncIterator[Helper]:
    """
    A helper for the lifetime of the server; *acceptor* is a principal, or empty for any.

    Raises:
        ConfigError: as :meth:`Helper.start`.
    """
    # Tickets are stored here temporarily: in memory (tmpfs) if available.
    memory = "/dev/shm"  # noqa: S108  mkdtemp makes a folder in it that is ours alone, under a name of its choice
    folder = Path(tempfile.mkdtemp(prefix="containerssh-krb5-", dir=memory if os.access(memory, os.W_OK) else None))
    try:
        skew = max(1, round(config.clock_skew.total_seconds()))
        (folder / "first.conf").write_text(f"[libdefaults]\nclockskew = {skew}\n", encoding="utf-8")
        helper = Helper(config, acceptor, folder)
        try:
            await helper.start()
            yield helper
        finally:
            await helper.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def decode(answer: Mapping[str, Any], name: str) -> bytes:
    """The bytes in the field *name* of an answer; empty if missing. Raises AuthUnavailable."""
    try:
        return base64.b64decode(str(answer.get(name, "")), validate=True)
    except ValueError as exc:
        raise AuthUnavailable(
            AuthCode.BACKEND_ERROR, "the helper process for Kerberos sent a malformed answer"
        ) from exc


def encode(data: bytes) -> str:
    """Encode *data* for an order."""
    return base64.b64encode(data).decode()


def _read(answer: Any) -> Mapping[str, Any]:
    match answer:
        case {"ok": {"principal": str() as principal, **more}}:
            return {"principal": principal, "tickets": more.get("tickets", "")}
        case {"refused": str() as reason}:
            raise AuthFailed(AuthCode.FAILED, reason)
        case {"unavailable": str() as reason}:
            raise AuthUnavailable(AuthCode.BACKEND_ERROR, reason)
        case {"token": str() as token, "code": str() as code, "context": str() as context}:
            return {"token": token, "code": code, "context": context}
        case {"token": str() as token, "complete": bool() as complete}:
            return {"token": token, "complete": complete}
        case {"token": str() as token, "failed": True}:
            return {"token": token, "failed": True}
        case _:
            raise AuthUnavailable(AuthCode.BACKEND_ERROR, "the helper process for Kerberos sent a malformed answer")
