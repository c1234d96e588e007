"""
Logins through the docker backend: real containers, each gone at the end whatever happened.

They run on Docker. Those that need something of the engine's, a call, an order, words, run on Podman's service too.
The gateway is root here, also before a rootless service: that one cannot see root's folders, so its agent comes by
attach. A gateway of the same ordinary user is in ``test_docker_podman.py``.
"""

from __future__ import annotations

import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from containerssh.agent.link import Program
from containerssh.backends.docker.backend import DockerBackend
from containerssh.backends.docker.container import EngineContainer
from containerssh.backends.docker.engine import Engines
from containerssh.backends.docker.engine_error import EngineError
from containerssh.backends.docker.start import Start
from containerssh.core.errors import BackendError
from containerssh.core.instance import Instance
from tests.support.docker import (
    Channel,
    Seen,
    a_login,
    containers_of,
    gone,
    scratch_image,
    way_to,
)
from tests.support.docker_logins import DOCKER, PODMAN, config, inspected, logged_in, run, ways_in
from tests.support.podman import ENGINES, Podman, engine_of, on
from tests.support.services import Engine

pytestmark = pytest.mark.docker


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return engine_of(request)


# -- a login's container ---------------------------------------------------------------------------------


@ways_in(*DOCKER, *PODMAN, "podman_rootless:attach", "podman_rootless:auto")
@pytest.mark.parametrize("idle", [None, ["/bin/sleep", "600"]], ids=["agent is main", "agent is beside"])
async def test_a_login_runs_programs_in_a_container_of_its_own(
    engine: Engine, backend: DockerBackend, transport: str, idle: list[str] | None
) -> None:
    login = a_login(environment={"GREETING": "hello there"}, files={"/etc/app/token": "s3cret"})
    more: dict[str, Any] = {"idleCommand": idle} if idle else {}
    async with logged_in(backend, login, config(engine, agentTransport=transport, **more)) as handler:
        output, end = await run(handler, 'cat; echo "$GREETING" $(cat /etc/app/token); exit 7', b"input\n")
        assert (output, end) == (b"input\nhello there s3cret\n", 7)
        labels = inspected(engine, login)["Config"]["Labels"]
    assert labels["containerssh_connection_id"] == login.connection_id
    assert (labels["containerssh_ip"], labels["containerssh_username"]) == ("192.0.2.7", "alice")
    assert containers_of(engine, login) == []


@ways_in(*DOCKER)
async def test_a_program_has_the_engines_variables_and_none_of_the_agents(
    engine: Engine, backend: DockerBackend, transport: str
) -> None:
    async with logged_in(backend, a_login(), config(engine, agentTransport=transport)) as handler:
        for process in ("self", "1"):
            shown, _ = await run(handler, f"cat /proc/{process}/environ")
            names = {entry.partition(b"=")[0] for entry in shown.split(b"\0") if entry}
            assert names - {b"PWD", b"SHLVL"} == {b"PATH", b"HOSTNAME", b"HOME"}


@on("docker")
async def test_an_engine_behind_tcp_gets_its_agent_by_upload(engine: Engine, backend: DockerBackend) -> None:
    login = a_login()
    async with way_to(engine) as way:
        async with logged_in(backend, login, config(way)) as handler:
            assert await run(handler, "echo in") == (b"in\n", 0)
        assert any("/archive?" in request for request in way.requests)


async def test_an_engine_that_does_not_see_our_files_gets_its_agent_by_upload(
    engine: Engine, backend: DockerBackend, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As when the gateway itself runs in a container with the engine's socket, or the engine is another user's."""
    caplog.set_level("INFO")
    async with way_to(engine, at=tmp_path / "engine.sock") as way:
        way.elsewhere = True
        for _ in range(2):
            async with logged_in(backend, a_login(), config(way)) as handler:
                assert await run(handler, "echo in") == (b"in\n", 0)
        creations = [request for request in way.requests if "/containers/create" in request]
    assert len(creations) == 3, "the second login knows what the first one found out"
    chosen = [record.getMessage() for record in caplog.records if "guest agent is reached" in record.getMessage()]
    assert ["by socket" in text for text in chosen] == [True, False]


async def test_a_socket_that_is_demanded_and_cannot_be_is_told(
    engine: Engine, backend: DockerBackend, tmp_path: Path
) -> None:
    async with way_to(engine, at=tmp_path / "engine.sock") as way:
        way.elsewhere = True
        with pytest.raises(BackendError, match="cannot use this machine's sockets"):
            async with logged_in(backend, a_login(), config(way, agentTransport="socket")):
                pass


@on("docker", "podman")
async def test_a_container_that_is_kept_from_sockets_gets_its_agent_by_upload(
    engine: Engine, backend: DockerBackend, tmp_path: Path
) -> None:
    no_connect = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["connect"], "action": "SCMP_ACT_ERRNO"}]}
    profile = json.dumps(no_connect)
    if isinstance(engine, Podman):
        # Docker's command line reads the file; Podman's service does that itself.
        (tmp_path / "profile").write_text(profile)
        profile = str(tmp_path / "profile")
    login = a_login()
    settings = config(engine, host={"securityopt": [f"seccomp={profile}"]})
    async with logged_in(backend, login, settings) as handler:
        assert await run(handler, "echo in") == (b"in\n", 0)
        assert len(containers_of(engine, login)) == 1


@ways_in(*DOCKER, *PODMAN)
async def test_an_image_with_nothing_but_one_program_works(
    engine: Engine, backend: DockerBackend, transport: str
) -> None:
    image = scratch_image(engine)
    settings = config(
        engine,
        container={"image": image},
        shellCommand=["/busybox", "echo", "no shell needed"],
        agentTransport=transport,
    )
    async with logged_in(backend, a_login(), settings) as handler:
        channel = Channel()
        async with handler.session(channel) as session:
            await session.run_shell()
            assert await channel.ended() == 0
    assert channel.out.data == b"no shell needed\n"


@ways_in(*DOCKER, *PODMAN)
@pytest.mark.parametrize(
    "execution",
    [
        {"container": {"user": "1000:1001", "workingdir": "/tmp"}},
        {"container": {"tty": True, "openstdin": True}},
        {"container": {"stopsignal": "SIGINT"}, "host": {"capdrop": ["ALL"]}},
        {"host": {"resources": {"memory": 67108864, "pidslimit": 64}, "securityopt": ["no-new-privileges"]}},
    ],
    ids=["user", "terminal", "no capabilities", "limits"],
)
async def test_the_configured_container_is_what_runs(
    engine: Engine, backend: DockerBackend, transport: str, execution: dict[str, Any]
) -> None:
    login = a_login()
    async with logged_in(backend, login, config(engine, agentTransport=transport, **execution)) as handler:
        output, end = await run(handler, "id -u; pwd")
        assert end == 0
        host = inspected(engine, login)["HostConfig"]
    if "user" in execution.get("container", {}):
        assert output == b"1000\n/tmp\n"
    if "resources" in execution.get("host", {}):
        assert (host["Memory"], host["PidsLimit"]) == (67108864, 64)


@on("docker")  # Podman's init is a package of its own
@pytest.mark.parametrize("transport", ["socket", "attach"])
async def test_an_init_may_stand_before_the_agent(engine: Engine, backend: DockerBackend, transport: str) -> None:
    async with logged_in(backend, a_login(), config(engine, agentTransport=transport, host={"init": True})) as handler:
        assert await run(handler, "echo in") == (b"in\n", 0)


@ways_in("docker:socket", *PODMAN)
async def test_a_read_only_root_works(engine: Engine, backend: DockerBackend, transport: str) -> None:
    settings = config(engine, agentTransport=transport, host={"readonlyrootfs": True})
    async with logged_in(backend, a_login(), settings) as handler:
        assert await run(handler, "touch /x 2>/dev/null || echo refused") == (b"refused\n", 0)


@on("docker")  # Podman uploads into a read-only root
async def test_a_read_only_root_that_is_closed_to_uploads_is_explained(engine: Engine, backend: DockerBackend) -> None:
    login = a_login()
    with pytest.raises(BackendError, match="readonlyRootfs"):
        async with logged_in(backend, login, config(engine, host={"readonlyrootfs": True}, agentTransport="attach")):
            pass
    await gone(engine, login)


@on("docker")
async def test_a_file_that_cannot_be_written_is_a_warning(
    engine: Engine, backend: DockerBackend, caplog: pytest.LogCaptureFixture
) -> None:
    login = a_login(files={"/proc/none/file": "x", "/tmp/good": "y"})
    async with logged_in(backend, login, config(engine)) as handler:
        assert await run(handler, "cat /tmp/good") == (b"y", 0)
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert getattr(warnings[0].msg, "code", "") == "DOCKER_FILE_WRITE_FAILED"


@on("docker", "podman")
async def test_an_entrypoint_that_ignores_its_arguments_gets_the_agent_beside_it(
    engine: Engine, instance: Instance
) -> None:
    settings = config(engine, container={"entrypoint": ["/bin/sh", "-c", "exec sleep 600"]})
    engines = Engines()
    found = await engines.get(settings.connection, settings.timeouts.http)
    login = a_login()
    start = Start(found, instance, settings, login, Seen(), lambda _: None, patience=timedelta(seconds=0.3))
    async with start.run(timedelta(seconds=20)) as link:
        process = await link.start(Program(["/bin/true"]))
        assert await process.wait() == 0
        await process.kill()
    assert containers_of(engine, login) == []
    await engines.close()


# -- session mode ----------------------------------------------------------------------------------------


@on("docker", "podman")
async def test_a_session_that_cannot_start_does_not_end_the_login(engine: Engine, backend: DockerBackend) -> None:
    login = a_login()
    async with logged_in(backend, login, config(engine, mode="session", container={"user": "no-such-user"})) as handler:
        for _ in range(2):
            with pytest.raises(BackendError, match="no-such-user"):
                async with handler.session(Channel()):
                    pass
    assert containers_of(engine, login) == []


# -- what the engine refuses -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("execution", "words", "told"),
    [
        (
            {"container": {"image": "none/such:1"}, "imagePullPolicy": "Never"},
            "no image none/such:1",
            "The image none/such:1 is not available.",
        ),
        ({"container": {"image": "No Such Image"}}, "not the name of an image", "valid name"),
        ({"host": {"resources": {"memory": 4096}}}, "emory limit", "could not be started"),
        ({"container": {"user": "no-such-user"}}, "no-such-user", "could not be started"),
        ({"container": {"entrypoint": ["/no/such"]}}, "no such file or directory", "could not be started"),
        ({"container": {"entrypoint": ["/bin/sh"]}}, "ended with status", "ended while it was being started"),
        ({"container": {"entrypoint": ["/bin/sh", "-c", "echo own; exit 3"]}}, "output: own", "ended while"),
        ({"container": {"entrypoint": ["/bin/sh", "-c", "echo own >&2; exit 3"]}}, "output: own", "ended while"),
        ({"host": {"networkmode": "no-such-network"}}, "no-such-network", "could not be started"),
        ({"host": {"runtime": "no-such-runtime"}}, "untime", "could not be started"),
    ],
)
@ways_in(*DOCKER, *PODMAN)
async def test_what_cannot_work_is_told_at_once_in_the_engines_words(
    engine: Engine, backend: DockerBackend, transport: str, execution: dict[str, Any], words: str, told: str
) -> None:
    login = a_login()
    before = time.monotonic()
    with pytest.raises(BackendError) as refused:
        async with logged_in(backend, login, config(engine, agentTransport=transport, **execution)):
            pass
    assert time.monotonic() - before < 5
    assert words in refused.value.explanation
    assert words in refused.value.event().text
    assert told in refused.value.user_message
    assert containers_of(engine, login) == []


@on("docker")
async def test_an_end_of_which_the_engine_hears_after_its_streams_is_told(
    engine: Engine, backend: DockerBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Podman does now and then, the engine calls the container running although its stream is at its end."""
    ended, answers = EngineContainer.ended, iter([None, None, None])

    async def late(self: EngineContainer) -> EngineError | None:
        return next(answers, await ended(self))

    monkeypatch.setattr(EngineContainer, "ended", late)
    at_once = {"entrypoint": ["/bin/sh", "-c", "echo own; exit 3"]}
    with pytest.raises(BackendError, match="output: own"):
        async with logged_in(backend, a_login(), config(engine, agentTransport="attach", container=at_once)):
            pass


@on("docker", "podman")
async def test_a_name_that_is_taken_is_told(engine: Engine, backend: DockerBackend) -> None:
    settings = config(engine, containername=f"containerssh-test-{time.monotonic_ns():x}")
    async with logged_in(backend, a_login(), settings):
        with pytest.raises(BackendError, match="already in use"):
            async with logged_in(backend, a_login(), settings):
                pass


@on("podman", "podman_rootless")
@pytest.mark.parametrize("host", [{"runtime": "crun"}, {"maskedpaths": ["/etc"]}, {"readonlypaths": ["/etc"]}])
async def test_walls_that_podman_leaves_out_are_not_done_without(
    engine: Engine, backend: DockerBackend, host: dict[str, Any]
) -> None:
    login = a_login()
    for _ in range(2):
        with pytest.raises(BackendError, match=f"(?i)silently ignores .*{next(iter(host))}"):
            async with logged_in(backend, login, config(engine, host=host)):
                pass
    assert containers_of(engine, login) == []


@on("podman", "podman_rootless")
async def test_limits_that_podman_leaves_out_are_told_once(
    engine: Engine, backend: DockerBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """A rootless service sets none where the control groups of version 1 are in use."""
    has = []
    for _ in range(2):
        login = a_login()
        async with logged_in(backend, login, config(engine, host={"resources": {"memory": 67108864}})):
            has.append(inspected(engine, login)["HostConfig"]["Memory"] == 67108864)
    told = [record for record in caplog.records if getattr(record.msg, "code", "") == "DOCKER_CONFIG_IGNORED"]
    assert has[0] == has[1]
    assert [("Memory" in record.getMessage()) for record in told] == ([] if has[0] else [True])


@on("podman")
async def test_what_a_guest_writes_into_podmans_log_is_bounded(engine: Engine, backend: DockerBackend) -> None:
    """Docker shows the limit in its description of the container, Podman does not."""
    assert isinstance(engine, Podman)
    login = a_login()
    async with logged_in(backend, login, config(engine, agentTransport="socket")) as handler:
        assert await run(handler, "yes 0123456789 | head -c 5000000 >/proc/1/fd/2; echo done") == (b"done\n", 0)
        logs = list((engine.state / "root/vfs-containers").glob(f"{containers_of(engine, login)[0]}*/userdata/ctr.log"))
        assert 0 < sum(log.stat().st_size for log in logs) < 2_000_000
