"""Authorities that sign users' and hosts' certificates with the real ssh-keygen."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.support.openssh import OpenSSH


@dataclass(frozen=True)
class Authority:
    """A key that signs certificates."""

    key: Path
    openssh: OpenSSH

    @property
    def public(self) -> Path:
        """The file of its public half."""
        return Path(f"{self.key}.pub")

    @property
    def line(self) -> str:
        """The public half, as authorized_keys and configurations have it."""
        return " ".join(self.public.read_text().split()[:2])

    async def sign(
        self,
        key: Path,
        *principals: str,
        options: tuple[str, ...] = (),
        validity: str = "",
        serial: int = 0,
        host: bool = False,
        name: str = "someone",
        algorithm: str = "",
        to: str = "",
    ) -> Path:
        """
        A certificate for *key*: the path of a private key that has it beside it, a copy named *to* if that is given.

        *options* are those of ``ssh-keygen -O``; without *principals* the certificate has none.
        """
        if to:
            for suffix in ("", ".pub"):
                shutil.copy(f"{key}{suffix}", f"{key.with_name(to)}{suffix}")
            key = key.with_name(to)
        arguments = ["-q", "-s", str(self.key), "-I", name, "-z", str(serial)]
        if principals:
            arguments += ["-n", ",".join(principals)]
        if validity:
            arguments += ["-V", validity]
        if host:
            arguments.append("-h")
        if algorithm:
            arguments += ["-t", algorithm]
        for option in options:
            arguments += ["-O", option]
        await self.openssh.keygen(*arguments, f"{key}.pub")
        return key


async def new_authority(openssh: OpenSSH, name: str = "ca", kind: str = "ed25519", *more: str) -> Authority:
    """A new one."""
    return Authority(await openssh.make_key(name, kind, *more), openssh)
