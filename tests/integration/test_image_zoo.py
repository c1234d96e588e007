"""Any image will do: the same of each, through both backends, with what it has not got told in words."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from containerssh.backends.docker.backend import DockerBackend
from containerssh.config.docker import DockerConfig
from containerssh.core.errors import ContainerSSHError
from containerssh.core.handlers import ConnectionHandler
from containerssh.core.instance import open_instance
from containerssh.core.requests import PtyRequest, WindowSize
from tests.support import oci
from tests.support.docker import Channel, Seen, a_login
from tests.support.images import PROBE, zoo_folder, zoo_image
from tests.support.services import Engine

pytestmark = [pytest.mark.docker, pytest.mark.oci, pytest.mark.root]

Login = Callable[[], AbstractAsyncContextManager[ConnectionHandler]]


@dataclass(frozen=True)
class Animal:
    """An image and the way it is run."""

    image: str
    shell: str = ""
    user: str = ""
    read_only: bool = False


ANIMALS = {
    "busybox": Animal("busybox", "/bin/sh"),
    "musl, as Alpine": Animal("musl", "/bin/sh"),
    "Debian by debootstrap": Animal("debian", "/bin/bash"),
    "distroless, glibc, no shell": Animal("distroless"),
    "scratch, one static program": Animal("scratch"),
    "scratch, read-only root": Animal("scratch", read_only=True),
    "scratch, ordinary user": Animal("scratch", user="1000:1000"),
    "busybox, read-only root": Animal("busybox", "/bin/sh", read_only=True),
    "busybox, ordinary user": Animal("busybox", "/bin/sh", user="1000:1000"),
    "distroless, ordinary user, read-only root": Animal("distroless", user="65532:65532", read_only=True),
}


@pytest.fixture(params=["docker", "oci"])
def logins(request: pytest.FixtureRequest, tmp_path: Path, animal: Animal) -> Login:
    if request.param == "oci":
        settings: dict[str, Any] = {"user": animal.user, "readOnlyRoot": animal.read_only, "network": "none"}
        return lambda: oci.logged_in(image=str(zoo_folder(animal.image)), **settings)
    engine: Engine = request.getfixturevalue("docker_engine")
    return lambda: docker_login(engine, tmp_path, animal)


@asynccontextmanager
async def docker_login(engine: Engine, folder: Path, animal: Animal) -> AsyncIterator[ConnectionHandler]:
    execution: dict[str, Any] = {
        "container": {"image": zoo_image(engine, animal.image), "user": animal.user},
        "host": {"networkmode": "none", "readonlyrootfs": animal.read_only},
        **({"shellCommand": [animal.shell]} if animal.shell else {}),
    }
    config = DockerConfig.model_validate({"connection": {"host": engine.address}, "execution": execution})
    with open_instance(folder / "state", folder / "run") as instance:
        backend = DockerBackend(instance)
        async with backend.login(a_login(), config, Seen()) as handler:
            yield handler
        await backend.close()


async def run(
    handler: ConnectionHandler, command: str | None, stdin: bytes = b"", *, pty: PtyRequest | None = None
) -> tuple[object, bytes]:
    """The status and the output of *command*, None for the shell."""
    channel = Channel(stdin)
    async with handler.session(channel) as session:
        await session.set_env("GREETING", "good day")
        if pty is not None:
            await session.request_pty(pty)
        await (session.run_shell() if command is None else session.run_command(command))
        return await channel.ended(), channel.out.data


@pytest.mark.parametrize("animal", ANIMALS.values(), ids=ANIMALS)
async def test_programs_terminals_variables_and_statuses_are_the_same_in_every_image(
    logins: Login, animal: Animal
) -> None:
    async with logins() as handler:
        data = os.urandom(200_000)
        assert await run(handler, f"{PROBE} cat", data) == (0, data)
        assert await run(handler, f"{PROBE} exit 42") == (42, b"")
        assert await run(handler, f"{PROBE} env GREETING") == (0, b"good day\n")
        assert await run(handler, f"{PROBE} id") == (0, f"{animal.user or '0:0'}\n".encode())
        terminal = PtyRequest("vt220", WindowSize(99, 33))
        assert await run(handler, f"{PROBE} tty", pty=terminal) == (0, b"33 99 vt220\r\n")
        _, written = await run(handler, f"{PROBE} write /new")
        assert written == (b"refused\n" if animal.read_only or animal.user else b"written\n")

        if animal.shell:
            status, out = await run(handler, None, b"echo from the shell; exit 3\n")
            assert (status, out) == (3, b"from the shell\n")
            assert await run(handler, f"for i in 1 2; do {PROBE} env GREETING; done") == (0, b"good day\n" * 2)
        else:
            for command in (None, "echo $HOME"):
                with pytest.raises(ContainerSSHError) as refused:
                    await run(handler, command)
                assert "no such file or directory" in refused.value.user_message
                assert "sh" in refused.value.user_message, "it names the shell that is not there"
