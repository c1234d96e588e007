"""Writing files into a container without an agent, through the engine before the container starts."""

from __future__ import annotations

import io
import logging
import re
import tarfile
from collections.abc import Mapping

from containerssh.backends.docker.engine_error import EngineError
from containerssh.backends.docker.exec_client import ExecClient
from containerssh.core.codes import DockerCode
from containerssh.core.errors import describe
from containerssh.core.messages import Event
from containerssh.core.metadata import Value

logger = logging.getLogger(__name__)

_USER = re.compile(r"([0-9]{1,10})(?::([0-9]{1,10}))?")
_HIGHEST_ID = 0xFFFFFFFF


async def write_files(client: ExecClient, container: str, files: Mapping[str, Value[bytes]]) -> None:
    """
    Write *files* (path to content), readable only by the container's user (mode 0600); missing folders are created and
    belong to root. A file that cannot be written is logged as a warning.
    """
    try:
        owner = owner_of(await client.main_user(container))
    except (EngineError, ValueError) as exc:
        for path in files:
            _warn(path, exc)
        return
    for path, content in files.items():
        logger.debug(Event(DockerCode.FILE_WRITE, "Writing a file", path=path))
        try:
            await client.put_archive(container, "/", archive(path, content.value, owner))
        except (EngineError, ValueError) as exc:
            _warn(path, exc)


def owner_of(user: str) -> tuple[int, int]:
    """
    The user and group ids of the engine's *user* (``1000``, ``1000:100``, ``root``, empty).

    Raises:
        ValueError: a name that only the container can resolve.
    """
    if user in ("", "root", "root:root"):
        return 0, 0
    numbers = _USER.fullmatch(user)
    if numbers is None or int(numbers[1]) > _HIGHEST_ID or int(numbers[2] or 0) > _HIGHEST_ID:
        raise ValueError("without an agent the container's user has to be a number for its files")
    return int(numbers[1]), int(numbers[2] or 0)


def archive(path: str, content: bytes, owner: tuple[int, int]) -> bytes:
    """A tar archive with a single file, to be unpacked at ``/``. Raises ValueError for an invalid path."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or "\0" in path:
        raise ValueError("this is not a valid path of a file")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as out:
        entry = tarfile.TarInfo("/".join(parts))
        entry.size, entry.mode = len(content), 0o600
        entry.uid, entry.gid = owner
        out.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _warn(path: str, error: Exception) -> None:
    text = f"A file could not be written into the container ({describe(error)})"
    logger.warning(Event(DockerCode.FILE_WRITE_FAILED, text, path=path))
