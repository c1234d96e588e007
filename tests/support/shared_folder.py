"""Whole servers whose containers see a folder of the test's own, for clients that work on files."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import bcrypt

from tests.support.images import zoo_folder, zoo_image
from tests.support.oci import image as demo
from tests.support.openssh import OpenSSH, run
from tests.support.server import Server, serving
from tests.support.services import Engine

PASSWORD = {"password": bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()}

_LISTED = (
    r"cd $0; find . -mindepth 1 -printf '%P %y %m %l\n' | sort; find . -type f -printf '%P %Ts\n' | sort; "
    "find . -type f -print0 | sort -z | xargs -0 -r sha256sum"
)


@asynccontextmanager
async def sharing(
    where: Engine | None,
    folder: Path,
    image: str = "busybox",
    *,
    user: Mapping[str, Any] = PASSWORD,
    **sections: Any,
) -> AsyncIterator[Server]:
    """
    A server for ``alice``; her containers share *folder*, which is made, as ``/data``.

    She is *user*, as in the users file: with the password ``secret`` unless said otherwise.

    They run *image* of the zoo on the engine *where*, or on the oci backend for None, and have no network.
    """
    bind = f"{_everybodys(folder)}:/data"
    backend: dict[str, Any]
    if where is None:
        root = demo() if image == "busybox" else zoo_folder(image)
        backend = {"backend": "oci", "oci": {"image": str(root), "binds": [bind], "network": "none"}}
    else:
        execution = {
            "container": {"image": "bb:latest" if image == "busybox" else zoo_image(where, image)},
            "host": {"NetworkMode": "none", "Binds": [bind]},
            "shellCommand": ["/bin/sh"],
            "imagePullPolicy": "Never",
        }
        backend = {"backend": "docker", "docker": {"connection": {"host": where.address}, "execution": execution}}
    async with serving({**backend, **sections}, {"alice": user}) as server:
        yield server


def _everybodys(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    # Root of a container is another user on the host with oci.
    folder.chmod(0o777)
    return folder


def complaints(server: Server) -> list[dict[str, Any]]:
    """What its administrator was told."""
    told = [line for line in server.log if line["level"] not in ("debug", "info", "notice")]
    return [line for line in told if line["code"] != "CORE_NO_HOST_KEYS"]


def shell_of(openssh: OpenSSH, server: Server, *options: str) -> str:
    """The command that programs built on ssh are to run, without the host's name."""
    return " ".join(openssh.command(server, *options)[:-1])


async def same_trees(*folders: Path) -> None:
    """Fail unless all have the same files with the same content, modes and times; of folders the modes."""
    listed = [(await run("sh", "-ec", _LISTED, folder, limit=120)).check().stdout.splitlines() for folder in folders]
    for one in listed[1:]:
        differing = [(a, b) for a, b in zip_longest(listed[0], one) if a != b]
        assert not differing, (len(differing), differing[:3])
