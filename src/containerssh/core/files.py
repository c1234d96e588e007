"""SFTP as the layers see it: the rules for a session's files, and what happened to each file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

UPSTREAM_SERVER = "/usr/lib/openssh/sftp-server"
"""Where ContainerSSH looks for a server in the image, unless it is told otherwise (``config.md`` section 7)."""


@dataclass(frozen=True)
class SFTPRules:
    """Who serves SFTP, and what a client may do by it."""

    server: Literal["auto", "builtin", "image"] = "auto"
    root: str = ""
    """The folder in the container that the client sees as ``/``; empty for the whole container."""
    read_only: bool = False
    upload_only: bool = False
    max_file_size: int = 0
    """Bytes; 0 for any number."""
    max_session_size: int = 0
    """Bytes of content in both directions together; 0 for any number."""
    umask: int | None = None
    digest: bool = False

    @property
    def binding(self) -> bool:
        """Whether there is any rule that only our own server keeps."""
        limits = self.max_file_size or self.max_session_size
        return bool(self.root or self.read_only or self.upload_only or limits or self.umask is not None)


@dataclass(frozen=True)
class FileEvent:
    """
    What our SFTP server did to a file, or refused.

    It is reported from inside the container, by a process of the container's user: whoever runs other programs there as
    the same user may have lied. Paths are the client's, made absolute; bytes that are not UTF-8 are kept as surrogates
    (PEP 383), and there may be control characters in them.
    """

    operation: str
    """``file`` when an opened file is closed; ``rename``, ``link``, ``symlink``, ``remove``, ``mkdir``, ``rmdir``,
    ``attributes``; ``refused`` for what a rule forbade."""
    path: str
    target: str = ""
    """The new name of a rename or a link; what a symbolic link says."""
    read: int = 0
    """Bytes of content that the client got, of a ``file``."""
    written: int = 0
    created: bool = False
    sha256: str = ""
    """Of the whole content, in hexadecimal, if it was asked for and all of it passed in one piece; else empty."""
    attributes: Mapping[str, int] = field(default_factory=dict)
    """What ``attributes`` has set: ``size``, ``mode``, ``uid``, ``gid``, ``mtime`` (seconds of the epoch)."""
    refused: str = ""
    """The operation that was refused."""
    reason: str = ""
    """Why it was."""
