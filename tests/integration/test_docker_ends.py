"""How logins of the docker backend end, and what is left when an engine, a link or a client goes away meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from pydantic import SecretStr

from containerssh.backends.docker.backend import DockerBackend
from containerssh.core.errors import BackendError
from containerssh.core.instance import Instance
from containerssh.core.metadata import Login
from tests.support.docker import (
    Channel,
    Way,
    a_login,
    containers_of,
    way_to,
)
from tests.support.docker_logins import config, logged_in, run
from tests.support.podman import ENGINES, engine_of, on
from tests.support.services import Engine
from tests.support.waiting import until

pytestmark = pytest.mark.docker


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return engine_of(request)


STAGES: dict[str, Callable[[bytes], bool]] = {
    "asking for the version": lambda request: b"/_ping" in request,
    "looking for the image": lambda request: b"/images/bb:latest/json" in request,
    "creating": lambda request: b"/containers/create" in request,
    "uploading": lambda request: b"/archive" in request,
    "attaching": lambda request: b"/attach" in request,
    "starting": lambda request: request.startswith(b"POST") and b"/start " in request,
}


@on("docker", "podman")
@pytest.mark.parametrize("stage", STAGES)
async def test_a_client_that_leaves_during_the_start_leaves_nothing(
    engine: Engine, backend: DockerBackend, stage: str
) -> None:
    login = a_login()
    async with way_to(engine) as way:
        way.hold = STAGES[stage]

        async def enter() -> None:
            async with logged_in(backend, login, config(way)):
                pass

        task = asyncio.create_task(enter())
        await asyncio.wait_for(way.held.wait(), 15)
        task.cancel()
        way.release.set()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 15)
        assert containers_of(engine, login) == []


@on("docker")
async def test_a_cancelled_login_removes_its_container(engine: Engine, backend: DockerBackend) -> None:
    login = a_login()
    entered = asyncio.Event()

    async def stay() -> None:
        async with logged_in(backend, login, config(engine)):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(stay())
    await asyncio.wait_for(entered.wait(), 15)
    assert len(containers_of(engine, login)) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert containers_of(engine, login) == []


@on("docker", "podman")
@pytest.mark.parametrize("request_", ["/containers/create", "/start", "/images/", "/_ping"])
async def test_a_login_survives_a_reply_that_got_lost(engine: Engine, backend: DockerBackend, request_: str) -> None:
    login = a_login()
    lost: list[bytes] = []

    def first(line: bytes) -> bool:
        if request_.encode() in line and not lost:
            lost.append(line)
            return True
        return False

    async with way_to(engine) as way:
        way.swallow = first
        async with logged_in(backend, login, config(way)) as handler:
            assert await run(handler, "echo in") == (b"in\n", 0)
            assert len(containers_of(engine, login)) == 1
    assert len(lost) == 1
    assert containers_of(engine, login) == []


@on("docker")
async def test_an_engine_that_comes_back_in_time_serves_the_login(engine: Engine, backend: DockerBackend) -> None:
    async with way_to(engine) as way:
        way.refuse = True

        async def come_back() -> None:
            await until(lambda: way.connections >= 2)
            way.refuse = False

        back = asyncio.create_task(come_back())
        async with logged_in(backend, a_login(), config(way)) as handler:
            assert await run(handler, "echo in") == (b"in\n", 0)
        await back


async def test_an_engine_that_stays_away_is_given_up_in_time(backend: DockerBackend) -> None:
    settings = config("tcp://127.0.0.1:9", timeouts={"containerStart": "1s"})
    before = time.monotonic()
    with pytest.raises(BackendError, match=r"not ready within 1 s; last error: .*127\.0\.0\.1:9") as late:
        async with logged_in(backend, a_login(), settings):
            pass
    assert time.monotonic() - before < 3
    assert "127.0.0.1" not in late.value.user_message


@on("docker")
async def test_a_link_that_breaks_ends_the_sessions_and_the_container_still_goes(
    engine: Engine, backend: DockerBackend
) -> None:
    login = a_login()
    async with way_to(engine) as way:
        async with logged_in(backend, login, config(way)) as handler:
            channel = Channel(ends=False)
            async with handler.session(channel) as session:
                await session.run_command("sleep 600")
                way.cut()
                assert isinstance(await channel.ended(10), Exception)
        assert containers_of(engine, login) == []


async def _left_behind(engine: Engine, backend: DockerBackend, way: Way) -> Login:
    login = a_login()
    settings = config(way, timeouts={"containerStart": "20s", "containerStop": "300ms"})
    async with logged_in(backend, login, settings):
        way.refuse = True
        way.cut()
    assert len(containers_of(engine, login)) == 1
    return login


@on("docker", "podman")
async def test_what_could_not_be_removed_in_time_is_removed_later(engine: Engine, instance: Instance) -> None:
    backend = DockerBackend(instance)
    async with way_to(engine) as way:
        login = await _left_behind(engine, backend, way)
        way.refuse = False
        await backend.close()
        assert containers_of(engine, login) == []


@on("docker")
@pytest.mark.parametrize("fault", ["silent", "away"])
async def test_the_user_hears_soon_of_an_engine_that_never_answers(
    engine: Engine, instance: Instance, fault: str
) -> None:
    """The image is known from the login before; what may come of the request to create is removed behind the scenes."""
    backend = DockerBackend(instance)
    async with way_to(engine) as way:
        settings = config(way, timeouts={"containerStart": "3s", "containerStop": "60s"})
        async with logged_in(backend, a_login(), settings):
            pass
        login = a_login()
        if fault == "silent":
            way.hold = lambda line: b"/containers/create" in line
        else:
            way.refuse = True
        way.cut()
        before = time.monotonic()
        with pytest.raises(BackendError, match="not ready within 3 s"):
            async with logged_in(backend, login, settings):
                pass
        assert time.monotonic() - before < 3 + 4
        way.refuse = False
        way.release.set()
        await backend.close()
        assert containers_of(engine, login) == []


# -- the reaper ------------------------------------------------------------------------------------------


async def test_containers_of_dead_instances_are_removed_and_no_others(
    engine: Engine, instance: Instance, backend: DockerBackend
) -> None:
    logins = {owner: a_login() for owner in ("dead", "living", "stranger")}
    dead_id, stranger_id = "d" * 16, "e" * 16
    (instance.state / "instances" / dead_id).touch()
    owners = {"dead": dead_id, "living": instance.id, "stranger": stranger_id}
    for owner, login in logins.items():
        labels = [f"containerssh_instance={owners[owner]}", f"containerssh_connection_id={login.connection_id}"]
        arguments = [part for label in labels for part in ("--label", label)]
        engine.docker("run", "--detach", "--network", engine.network, *arguments, "bb:latest", "sleep", "600")
    try:
        assert await backend.reap(config(engine)) == 1
        assert [len(containers_of(engine, login)) for login in logins.values()] == [0, 1, 1]
    finally:
        left = [container for login in logins.values() for container in containers_of(engine, login)]
        engine.docker("rm", "--force", *left)


async def test_engines_that_only_logins_of_a_dead_instance_used_are_looked_at_too(
    engine: Engine, instance: Instance, backend: DockerBackend
) -> None:
    dead_id, login = "d" * 16, a_login()
    (instance.state / "instances" / dead_id).touch()
    dead = DockerBackend(Instance(dead_id, instance.state, instance.runtime))
    dead._leave_note(config(engine))
    labels = {"instance": dead_id, "connection_id": login.connection_id}
    options = [f"--label=containerssh_{name}={value}" for name, value in labels.items()]
    assert not backend.has_work_elsewhere([])
    assert backend.has_work_elsewhere([dead_id])
    for configured in (None, config("tcp://127.0.0.1:9")):
        engine.docker("create", "--network", engine.network, *options, "bb:latest", "true")
        if configured is None:
            assert await backend.reap(None) == 1
        else:
            # Not forgotten yet: who knows what is there. But that keeps nobody from the others.
            with pytest.raises(BackendError, match="not available"):
                await backend.reap(configured)
        assert containers_of(engine, login) == []


async def test_a_note_of_an_engine_holds_no_private_key(instance: Instance, backend: DockerBackend) -> None:
    lock = instance.state / "instances" / instance.id
    lock.touch()
    secret = config("tcp://127.0.0.1:9")
    connection = secret.connection.model_copy(update={"cert": "the certificate", "key": SecretStr("the key")})
    backend._leave_note(secret.model_copy(update={"connection": connection}))
    assert lock.read_text() == ""
    for _ in range(2):
        backend._leave_note(secret)
    assert lock.read_text() == 'docker engine {"host":"tcp://127.0.0.1:9","cacert":""}\n'


async def test_the_engine_is_named_when_it_is_probed(engine: Engine, backend: DockerBackend) -> None:
    assert "API 1." in await backend.probe(config(engine))
    with pytest.raises(BackendError, match="not available"):
        await backend.probe(config("tcp://127.0.0.1:9"))
