"""The ``sftp`` section: the server for SFTP that comes along with the guest agent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, Self

from pydantic import model_validator

from containerssh.config.model import ConfigModel, Problem
from containerssh.config.values import Size
from containerssh.core.files import SFTPRules

_UMASK = re.compile("0?[0-7]{1,3}")
_MOST = 4095


class SFTPConfig(ConfigModel):
    """SFTP without a server in the image, and what clients may do with it."""

    server: Literal["auto", "builtin", "image"] = "auto"
    """Who serves SFTP. `image`: the program that the backend's `subsystems` names. `builtin`: the server that comes
    with the guest agent. `auto`: that one too, unless `subsystems` names another program than by default."""

    root: str = ""
    """The folder in the container that clients see as `/`; nothing leads out of it. Empty: the whole container."""

    read_only: bool = False
    """Clients can change nothing."""

    upload_only: bool = False
    """Clients can create files and folders; existing ones cannot be listed, read, changed or replaced."""

    max_file_size: Size = 0
    """The largest size of a file that is written to, such as `100m`; 0 for no limit."""

    max_session_size: Size = 0
    """How much content a session may transfer, up and down together, such as `10g`; 0 for no limit."""

    umask: str = ""
    """The permissions that new files do not get, in octal, such as `027`. Empty: as in the image."""

    digest: bool = False
    """Compute the SHA-256 of each file that is transferred as a whole, for the reports."""

    @model_validator(mode="after")
    def _can_be(self) -> Self:
        if self.root and (not self.root.startswith("/") or "\0" in self.root):
            raise ValueError("root is an absolute path in the container")
        if len(self.root.encode("utf-8", "surrogateescape")) > _MOST:
            raise ValueError("root is too long")
        if self.umask and not _UMASK.fullmatch(self.umask):
            raise ValueError("umask has up to three octal digits, such as 027")
        if self.read_only and self.upload_only:
            raise ValueError("readOnly and uploadOnly together leave nothing to do")
        return self

    def problems(self) -> Iterator[Problem]:
        if self.server == "image" and self.rules.binding:
            yield Problem("server", "the image's server knows none of the rules that are set here")

    @property
    def rules(self) -> SFTPRules:
        """The same without the file's way of writing it."""
        return SFTPRules(
            server=self.server,
            root=self.root,
            read_only=self.read_only,
            upload_only=self.upload_only,
            max_file_size=self.max_file_size,
            max_session_size=self.max_session_size,
            umask=int(self.umask, 8) if self.umask else None,
            digest=self.digest,
        )
