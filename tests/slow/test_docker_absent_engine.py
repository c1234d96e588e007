"""Nobody listens at the engine's address: a restart is waited for, and no longer than that."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from containerssh.auth.hashes import hash_password
from containerssh.backends.docker.backend import DockerBackend
from containerssh.core.errors import BackendError
from tests.support import server as product
from tests.support.docker import a_login, containers_of, way_to
from tests.support.docker_logins import config, logged_in, run
from tests.support.openssh import OpenSSH
from tests.support.services import Engine

PATIENT = {"containerStart": "60s", "containerStop": "60s"}
USERS = {"alice": {"password": hash_password("secret", "bcrypt")}}


async def _refused(backend: DockerBackend, address: str) -> tuple[float, BackendError]:
    before = time.monotonic()
    with pytest.raises(BackendError) as failed:
        async with logged_in(backend, a_login(), config(address, timeouts=PATIENT)):
            pass
    return time.monotonic() - before, failed.value


@pytest.mark.docker
async def test_an_engine_that_does_not_listen_is_given_up_after_ten_seconds(
    engine: Engine, backend: DockerBackend, tmp_path: Path
) -> None:
    """Never there; a socket without a listener; a TCP port; and one that served a login, so that its image is known."""
    dead = tmp_path / "dead.sock"
    (await asyncio.start_unix_server(lambda *_: None, dead)).close()
    gone = tmp_path / "gone.sock"
    async with way_to(engine, at=gone) as way:
        address = way.address
        async with logged_in(backend, a_login(), config(way, timeouts=PATIENT)):
            pass
    addresses = ["unix:///nonexistent/docker.sock", f"unix://{dead}", "tcp://127.0.0.1:9", address]
    ends = await asyncio.gather(*(_refused(backend, address) for address in addresses))
    for address, (waited, error) in zip(addresses, ends, strict=True):
        assert 9 < waited < 25, (address, waited)
        assert address in error.explanation
        assert "No such file" in error.explanation or "refused" in error.explanation, error.explanation
        assert error.user_message == "The container engine is not available."


@pytest.mark.docker
async def test_a_login_waits_for_an_engine_that_is_being_restarted(
    engine: Engine, backend: DockerBackend, tmp_path: Path
) -> None:
    path = tmp_path / "engine.sock"
    login, answer = a_login(), asyncio.Event()

    async def log_in() -> None:
        settings = config(f"unix://{path}", timeouts=PATIENT, host={"networkmode": engine.network})
        async with logged_in(backend, login, settings) as handler:
            assert await run(handler, "echo in") == (b"in\n", 0)
        answer.set()

    async with asyncio.timeout(40), asyncio.TaskGroup() as group:
        group.create_task(log_in())
        await asyncio.sleep(3)
        async with way_to(engine, at=path):
            await answer.wait()
    assert containers_of(engine, login) == []


async def test_the_user_is_told_that_there_is_no_engine(openssh: OpenSSH) -> None:
    settings = {"backend": "docker", "docker": {"connection": {"host": "unix:///nonexistent/docker.sock"}}}
    async with product.serving(settings, USERS) as server:
        before = time.monotonic()
        done = await openssh.run(server, "true")
        assert time.monotonic() - before < 30
        assert (done.status, done.stdout) == (255, b"")
        assert done.stderr.startswith(b"containerssh: The container engine is not available."), done.stderr
        await server.until(lambda: bool(server.logged("SSH_BACKEND_REJECTED_HANDSHAKE")), "the failure is logged")
        (failure,) = server.logged("SSH_BACKEND_REJECTED_HANDSHAKE")
        assert "unix:///nonexistent/docker.sock" in failure["message"]
        assert "No such file" in failure["message"]
