"""
Which image a login gets: policies, progress and credentials, with a real registry.

Images are built and pushed by Docker. Podman pulls them too; what only needs our own memory of images runs on Docker.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from containerssh.backends.docker.backend import DockerBackend
from containerssh.config.docker import DockerConfig
from containerssh.core.errors import BackendError
from tests.support.docker import Channel, Seen, Way, a_login, build_image, way_to
from tests.support.podman import ENGINES, Podman, engine_of, on
from tests.support.registry import running_registry
from tests.support.services import Engine

pytestmark = pytest.mark.docker

PASSWORD = "pull+/me"


@dataclass
class Shelf:
    """A registry, and a repository in it that the engine does not have."""

    engine: Engine
    maker: Engine
    """Docker, which builds and pushes; perhaps the engine itself."""
    address: str
    name: str
    options: tuple[str, ...] = ()
    """For Docker's command line, where the registry wants credentials."""

    def put(self, marker: str) -> None:
        """An image that prints *marker* for ``cat /marker``, in the registry alone."""
        build_image(self.maker, self.name, "bb:latest", f"RUN echo {marker} >/marker")
        self.maker.docker(*self.options, "push", "--quiet", self.name)
        self.drop()

    def drop(self) -> None:
        """The engine forgets the image."""
        repository = self.name.rpartition(":")[0]
        for engine in (self.engine, self.maker):
            for image in set(engine.docker("image", "ls", "--quiet", "--no-trunc", repository).split()):
                engine.docker("image", "rm", "--force", image)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return engine_of(request)


def port_for(engine: Engine) -> int:
    """Where a registry must listen that *engine* talks to without TLS; 0: anywhere on this machine."""
    return engine.registry_port if isinstance(engine, Podman) else 0


@pytest.fixture
def shelf(engine: Engine, docker_engine: Engine, tmp_path: Path) -> Iterator[Shelf]:
    with running_registry(tmp_path, password="", port=port_for(engine)) as registry:
        address = registry.address
        made = Shelf(engine, docker_engine, address, f"{address}/lab/guest:{secrets.token_hex(4)}")
        yield made
        made.drop()
    docker_engine.docker("image", "prune", "--force", "--filter", "label=containerssh-test")


def config(where: Engine | Way, image: str, /, **execution: Any) -> DockerConfig:
    return DockerConfig.model_validate(
        {
            "connection": {"host": where.address},
            "execution": {"container": {"image": image}, "host": {"networkmode": where.network}, **execution},
            "timeouts": {"containerStart": "30s"},
        }
    )


async def marker(backend: DockerBackend, settings: DockerConfig, seen: Seen | None = None) -> bytes:
    async with backend.login(a_login(), settings, seen or Seen()) as handler:
        channel = Channel()
        async with handler.session(channel) as session:
            await session.run_command("cat /marker")
            assert await channel.ended() == 0
    return channel.out.data.strip()


async def test_a_missing_image_is_pulled_while_the_user_watches(backend: DockerBackend, shelf: Shelf) -> None:
    shelf.put("one")
    seen = Seen()
    assert await marker(backend, config(shelf.engine, shelf.name), seen) == b"one"
    assert seen.lines[0].startswith(f"Pulling image {shelf.name}")


@on("docker")
async def test_if_not_present_does_not_ask_the_registry_again(backend: DockerBackend, shelf: Shelf) -> None:
    shelf.put("one")
    assert await marker(backend, config(shelf.engine, shelf.name)) == b"one"
    build_image(shelf.engine, shelf.name, "bb:latest", "RUN echo two >/marker")
    assert await marker(backend, config(shelf.engine, shelf.name)) == b"two"


@on("docker")
async def test_always_takes_what_the_registry_has_now(backend: DockerBackend, shelf: Shelf) -> None:
    shelf.put("registry")
    build_image(shelf.engine, shelf.name, "bb:latest", "RUN echo local >/marker")
    assert await marker(backend, config(shelf.engine, shelf.name, imagePullPolicy="Never")) == b"local"
    assert await marker(backend, config(shelf.engine, shelf.name, imagePullPolicy="Always")) == b"registry"


@on("docker", "podman")
async def test_an_image_that_went_away_a_moment_ago_is_pulled_again(backend: DockerBackend, shelf: Shelf) -> None:
    shelf.put("one")
    assert await marker(backend, config(shelf.engine, shelf.name)) == b"one"
    shelf.drop()
    assert await marker(backend, config(shelf.engine, shelf.name)) == b"one"


@on("docker")
async def test_logins_at_the_same_time_share_one_pull(backend: DockerBackend, shelf: Shelf) -> None:
    shelf.put("one")
    async with way_to(shelf.engine) as way:
        settings = config(way, shelf.name)
        assert await asyncio.gather(*(marker(backend, settings) for _ in range(3))) == [b"one"] * 3
        assert len([request for request in way.requests if "/images/create" in request]) == 1


@on("docker")
async def test_one_of_several_who_wait_for_a_pull_may_leave(backend: DockerBackend, shelf: Shelf) -> None:
    shelf.put("one")
    async with way_to(shelf.engine) as way:
        way.hold = lambda request: b"/images/create" in request
        settings = config(way, shelf.name)
        leaves, stays = (asyncio.create_task(marker(backend, settings)) for _ in range(2))
        await asyncio.wait_for(way.held.wait(), 15)
        leaves.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaves
        way.release.set()
        assert await stays == b"one"


async def test_an_image_that_the_registry_does_not_have_is_told_at_once(backend: DockerBackend, shelf: Shelf) -> None:
    """The engine reports some errors inside the stream of a pull that began well: upstream does not see them."""
    async with asyncio.timeout(10):
        with pytest.raises(BackendError, match=r"manifest|not found") as refused:
            await marker(backend, config(shelf.engine, shelf.name))
    assert refused.value.user_message == f"The image {shelf.name} could not be pulled."


@on("docker", "podman")
async def test_a_registry_that_is_away_is_told(backend: DockerBackend, engine: Engine) -> None:
    async with asyncio.timeout(10):
        with pytest.raises(BackendError, match="connection refused"):
            await marker(backend, config(engine, "127.0.0.1:9/none/such:1"))


@on("docker", "podman")
async def test_a_private_registry_gets_the_configured_credentials(
    backend: DockerBackend, engine: Engine, docker_engine: Engine, tmp_path: Path
) -> None:
    folder = tmp_path / "private"
    folder.mkdir()
    with running_registry(folder, password=PASSWORD, port=port_for(engine)) as registry:
        address = registry.address
        own = ("--config", str(tmp_path / "docker"))
        docker_engine.docker(
            *own, "login", "--username", "puller", "--password-stdin", address, stdin=PASSWORD.encode()
        )
        private = Shelf(engine, docker_engine, address, f"{address}/lab/private:{secrets.token_hex(4)}", own)
        private.put("private")
        both = base64.b64encode(f"puller:{PASSWORD}".encode()).decode()
        for auth in ({"username": "puller", "password": PASSWORD}, {"auth": both}):
            assert await marker(backend, config(engine, private.name, auth=auth)) == b"private"
            private.drop()
        for wrong in (None, {"username": "puller", "password": "wrong"}):
            with pytest.raises(BackendError, match=r"no basic auth|unauthorized|denied") as refused:
                await marker(backend, config(engine, private.name, auth=wrong))
            assert "wrong" not in refused.value.explanation.replace(private.name, "")
