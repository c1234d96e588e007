"""Logins without the server's own agent: the agent of ContainerSSH 0.6 in the image, or none at all."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest

from containerssh.agent.streams import SocketStream
from containerssh.backends.docker.backend import DockerBackend
from containerssh.config.docker import DockerConfig
from containerssh.core.codes import DockerCode
from containerssh.core.errors import BackendError, Rejected
from containerssh.core.handlers import ConnectionHandler
from containerssh.core.metadata import Login
from containerssh.core.requests import Origin, PtyRequest, WindowSize, X11Request
from containerssh.core.streams import ByteStream
from tests.support.docker import Channel, Seen, a_login, containers_of, gone
from tests.support.podman import engine_of
from tests.support.services import Engine, wait_until
from tests.support.upstream_agent import agent_image, forwarding_image

pytestmark = pytest.mark.docker

IDLE = ["/bin/sleep", "600"]
WAYS = ("image", "none", "session")
"""The image's agent, plain exec, and a container for each program."""
ENGINES = ("docker", pytest.param("podman", marks=[pytest.mark.podman, pytest.mark.root]))


@pytest.fixture(params=["docker"])
def engine(request: pytest.FixtureRequest) -> Engine:
    return engine_of(request)


def config(engine: Engine, way: str, **execution: Any) -> DockerConfig:
    settings: dict[str, Any] = {
        "agent": "none" if way == "session" else way,
        "mode": "session" if way == "session" else "connection",
        "idleCommand": IDLE,
        "shellCommand": ["/bin/sh"],
        **execution,
    }
    settings["container"] = {"image": agent_image(engine), **execution.get("container", {})}
    settings["host"] = {"networkmode": "none", **execution.get("host", {})}
    return DockerConfig.model_validate(
        {
            "connection": {"host": engine.address},
            "execution": settings,
            "timeouts": {"containerStart": "20s", "commandStart": "2s", "signal": "5s"},
        }
    )


@dataclass
class LoggedIn:
    engine: Engine
    login: Login
    handler: ConnectionHandler

    async def run(self, command: str, stdin: bytes = b"", *, pty: PtyRequest | None = None) -> tuple[Channel, object]:
        """*command* in a session of its own, to its end."""
        channel = Channel(stdin)
        async with self.handler.session(channel) as session:
            if pty is not None:
                await session.request_pty(pty)
            await session.set_env("GREETING", "good day")
            await session.run_command(command)
            return channel, await channel.ended()

    def processes(self) -> str:
        """What runs in its containers."""
        return "\n".join(self.engine.docker("top", name) for name in containers_of(self.engine, self.login))


@asynccontextmanager
async def logged_in(
    backend: DockerBackend, engine: Engine, way: str, meta: Login | None = None, **execution: Any
) -> AsyncIterator[LoggedIn]:
    meta = meta or a_login()
    async with backend.login(meta, config(engine, way, **execution), Seen()) as handler:
        yield LoggedIn(engine, meta, handler)
    await gone(engine, meta)


async def until(condition: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(wait_until, condition, within=10, what=what)


# -- programs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
async def test_streams_variables_and_status_are_the_programs(engine: Engine, backend: DockerBackend) -> None:
    meta = a_login(environment={"TEAM": "blue"})
    async with logged_in(backend, engine, "image", meta, container={"workingdir": "/tmp"}) as user:
        channel, end = await user.run("cat; pwd; echo $TEAM $GREETING >&2; exit 6", b"in\n")
    assert (channel.out.data, channel.err.data, end) == (b"in\n/tmp\n", b"blue good day\n", 6)


async def test_megabytes_come_back_after_the_end_of_input(engine: Engine, backend: DockerBackend) -> None:
    data = bytes(range(256)) * 12_000
    async with logged_in(backend, engine, "image") as user:
        channel, end = await user.run("cat", data)
    assert end == 0
    assert channel.out.data == data


@pytest.mark.parametrize("way", WAYS)
async def test_output_after_the_end_of_input_arrives(engine: Engine, backend: DockerBackend, way: str) -> None:
    """Upstream stops listening when the input has ended."""
    async with logged_in(backend, engine, way) as user:
        channel, end = await user.run("cat >/dev/null; sleep 0.3; seq 1 100000; exit 3")
    assert end == 3
    assert channel.out.data.endswith(b"\n100000\n")
    assert len(channel.out.data) == 588_895


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
async def test_a_terminal_has_its_type_and_size_and_takes_a_new_one(engine: Engine, backend: DockerBackend) -> None:
    channel = Channel(ends=False)
    async with logged_in(backend, engine, "image") as user, user.handler.session(channel) as session:
        await session.request_pty(PtyRequest("vt220", WindowSize(99, 33)))
        await session.resize(WindowSize(98, 32))
        await session.run_command("echo $TERM; tty; while read -t 0.1 x || true; do stty size; done")
        await until(lambda: b"32 98\r\n" in channel.out.data, "the first size")
        await session.resize(WindowSize(120, 50))
        await until(lambda: b"50 120\r\n" in channel.out.data, "the new size")
    assert b"vt220\r\n/dev/pts/0\r\n" in channel.out.data
    assert channel.err.data == b""


async def test_with_the_images_agent_the_first_instruction_sees_the_terminals_size(
    engine: Engine, backend: DockerBackend
) -> None:
    async with logged_in(backend, engine, "image") as user:
        for _ in range(5):
            channel, end = await user.run("stty size", pty=PtyRequest("xterm", WindowSize(99, 33)))
            assert end == 0
            assert b"33 99\r\n" in channel.out.data


@pytest.mark.parametrize("way", WAYS)
async def test_the_end_of_input_on_a_terminal_is_typed(engine: Engine, backend: DockerBackend, way: str) -> None:
    async with logged_in(backend, engine, way) as user:
        channel, end = await user.run("cat; echo over", b"half a line", pty=PtyRequest("xterm", WindowSize(80, 24)))
    assert end == 0
    assert channel.out.data.endswith(b"over\r\n")


async def test_a_shell_reads_its_input(engine: Engine, backend: DockerBackend) -> None:
    channel = Channel(b"echo one\nexit 4\n")
    async with logged_in(backend, engine, "image") as user, user.handler.session(channel) as session:
        await session.run_shell()
        assert await channel.ended() == 4
    assert channel.out.data == b"one\n"


async def test_ten_programs_run_at_once(engine: Engine, backend: DockerBackend) -> None:
    async with logged_in(backend, engine, "image") as user:
        done = await asyncio.gather(*(user.run(f"sleep 0.2; echo {number}; exit {number}") for number in range(10)))
    assert [(channel.out.data, end) for channel, end in done] == [(b"%d\n" % number, number) for number in range(10)]


@pytest.mark.parametrize(("way", "status"), [("image", 127), ("none", 126)])
async def test_a_program_that_is_not_there_says_so_on_standard_error(
    engine: Engine, backend: DockerBackend, way: str, status: int
) -> None:
    async with logged_in(backend, engine, way) as user:
        channel, end = await user.run("/no/such/program")
    assert (channel.out.data, end) == (b"", status)
    assert b"no such file or directory" in channel.err.data


async def test_an_image_without_a_shell_runs_programs_without_any_agent(engine: Engine, backend: DockerBackend) -> None:
    from tests.support.docker import scratch_image

    image = {"image": scratch_image(engine)}
    idle = ["/busybox", "sleep", "600"]
    async with logged_in(backend, engine, "none", container=image, idleCommand=idle) as user:
        channel, end = await user.run("/busybox echo 'two words'")
        assert (channel.out.data, end) == (b"two words\n", 0)


# -- signals and ends --------------------------------------------------------------------------------------------

TRAP = "trap 'echo got it; exit 4' TERM; echo up; while :; do sleep 0.05; done"


async def test_a_signal_reaches_the_program(engine: Engine, backend: DockerBackend) -> None:
    channel = Channel(ends=False)
    async with logged_in(backend, engine, "image") as user, user.handler.session(channel) as session:
        await session.run_command(TRAP)
        await until(lambda: channel.out.data == b"up\n", "the program")
        await session.send_signal("TERM")
        assert await channel.ended() == 4
    assert channel.out.data == b"up\ngot it\n"


async def test_without_an_agent_a_signal_is_refused_in_words_and_the_program_goes_on(
    engine: Engine, backend: DockerBackend
) -> None:
    channel = Channel(ends=False)
    async with logged_in(backend, engine, "none") as user, user.handler.session(channel) as session:
        await session.run_command("sleep 0.5; echo fine")
        with pytest.raises(Rejected, match="signals need the guest agent"):
            await session.send_signal("TERM")
        with pytest.raises(Rejected, match="a break needs the guest agent"):
            await session.send_break(0)
        assert await channel.ended() == 0
    assert channel.out.data == b"fine\n"


@pytest.mark.parametrize("way", ["image", "session"])
async def test_a_session_that_is_left_ends_its_program(engine: Engine, backend: DockerBackend, way: str) -> None:
    channel = Channel(ends=False)
    async with logged_in(backend, engine, way) as user:
        async with user.handler.session(channel) as session:
            await session.run_command("echo up; exec sleep 987")
            await until(lambda: channel.out.data == b"up\n", "the program")
        assert "sleep 987" not in user.processes()


async def test_without_an_agent_a_program_ends_with_its_login(engine: Engine, backend: DockerBackend) -> None:
    channel = Channel(ends=False)
    async with logged_in(backend, engine, "none") as user:
        async with user.handler.session(channel) as session:
            await session.run_command("echo up; exec sleep 986")
            await until(lambda: channel.out.data == b"up\n", "the program")
        assert "sleep 986" in user.processes()


async def test_the_end_of_the_server_asks_programs_to_end(engine: Engine, backend: DockerBackend) -> None:
    channel = Channel(ends=False)
    async with logged_in(backend, engine, "image") as user, user.handler.session(channel) as session:
        await session.run_command(TRAP)
        await until(lambda: channel.out.data == b"up\n", "the program")
        await user.handler.terminate()
        assert await channel.ended() == 4


@pytest.mark.parametrize("way", ["image", "none"])
async def test_a_container_that_vanishes_ends_the_session_with_an_error_or_a_status(
    engine: Engine, backend: DockerBackend, way: str
) -> None:
    channel = Channel(ends=False)
    async with logged_in(backend, engine, way) as user, user.handler.session(channel) as session:
        await session.run_command("echo up; exec sleep 600")
        await until(lambda: channel.out.data == b"up\n", "the program")
        (container,) = containers_of(engine, user.login)
        engine.docker("rm", "--force", container)
        end = await channel.ended()
    assert end == 137 or isinstance(end, BackendError)


async def test_an_idle_command_that_ended_is_told_to_the_administrator(engine: Engine, backend: DockerBackend) -> None:
    idle = ["/bin/sh", "-c", "echo farewell; exit 9"]
    async with logged_in(backend, engine, "none", idleCommand=idle) as user:
        await until(
            lambda: not engine.docker("ps", "-q", "--filter", f"id={containers_of(engine, user.login)[0]}"), "it"
        )
        with pytest.raises(BackendError, match=r"ended with status 9.*farewell"):
            await user.run("true")


# -- what needs the server's own agent ---------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
async def test_forwards_go_through_the_images_agent(engine: Engine, backend: DockerBackend) -> None:
    ready, channel = Channel(ends=False), Channel(ends=False)
    opened: list[SocketStream] = []

    async def incoming(origin: Origin) -> ByteStream:
        ours, theirs = socket.socketpair()
        opened.append(SocketStream(ours))
        return SocketStream(theirs)

    async with logged_in(backend, engine, "image", container={"image": forwarding_image(engine)}) as user:
        async with user.handler.session(ready) as session:
            await session.run_command("nc -ll -p 4000 -e cat & echo up; wait")
            await until(lambda: ready.out.data == b"up\n", "the echo")
            stream = None
            while stream is None:
                with suppress(BackendError):
                    stream = await user.handler.connect_tcp("localhost", 4000)
            await stream.write(b"data")
            assert await stream.read() == b"data"
            await stream.close()
        listener = await user.handler.listen_tcp("localhost", 0, incoming)
        async with user.handler.session(channel) as session:
            await session.run_command(f"echo hello | nc 127.0.0.1 {listener.port}")
            await until(lambda: bool(opened), "the connection")
            assert await opened[0].read() == b"hello\n"
            await opened[0].close()
            assert await channel.ended() == 0
        await listener.close()
        with pytest.raises(BackendError, match="listening on 192"):
            await user.handler.listen_tcp("192.0.2.1", 7000, incoming)
        await until(lambda: user.processes().count("forwarder") == 1, "the end of the listening helpers")


async def test_the_images_agent_forwards_no_ssh_agent(engine: Engine, backend: DockerBackend) -> None:
    async with logged_in(backend, engine, "image") as user, user.handler.session(Channel()) as session:
        with pytest.raises(Rejected, match="ssh-agent needs the guest agent"):
            await session.request_agent()
        with pytest.raises(BackendError, match=r"does not forward|failed in the container"):
            await session.request_x11(X11Request(False, "MIT-MAGIC-COOKIE-1", "00", 0))


@pytest.mark.parametrize("way", WAYS)
async def test_the_logs_first_line_about_an_engine_says_what_is_missing(
    engine: Engine, backend: DockerBackend, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "containerssh"):
        for _ in range(2):
            async with logged_in(backend, engine, way):
                pass
    levels = [record.levelname for record in caplog.records if "breaks, terminal modes" in record.getMessage()]
    assert levels == ["WARNING", "DEBUG"]


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "path"), [("image", "/tmp/token"), ("none", "/etc/app/token"), ("session", "/etc/token")]
)
async def test_files_are_there_for_the_containers_user_alone(
    engine: Engine, backend: DockerBackend, way: str, path: str
) -> None:
    meta = a_login(files={path: "s3cret"})
    async with logged_in(backend, engine, way, meta, container={"user": "1000:1000"}) as user:
        channel, _ = await user.run(f"cat {path}; stat -c ' %a %u:%g' {path}")
    assert channel.out.data == b"s3cret 600 1000:1000\n"


@pytest.mark.parametrize(
    ("way", "execution"),
    [("image", {"container": {"user": "1000"}}), ("none", {"container": {"user": "nobody"}, "path": "/tmp/x"})],
)
async def test_a_file_that_cannot_be_written_is_a_warning(
    engine: Engine, backend: DockerBackend, way: str, execution: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    image = agent_image(
        engine, "containerssh-test/nobody:latest", extra="RUN echo nobody:x:99:99::/:/bin/sh >>/etc/passwd"
    )
    meta = a_login(files={"/root/no/token": "s3cret"})
    container = {"image": image, "user": execution["container"]["user"]}
    async with logged_in(backend, engine, way, meta, container=container) as user:
        channel, _ = await user.run("id -u")
    assert channel.out.data.strip().isdigit()
    assert [record for record in caplog.records if "A file could not be written" in record.getMessage()]


# -- agents that are none, or hostile --------------------------------------------------------------------------------


async def test_an_image_without_an_agent_is_told_in_words(engine: Engine, backend: DockerBackend) -> None:
    async with logged_in(backend, engine, "image", agentPath="/opt/agent") as user:
        with pytest.raises(BackendError, match="no agent at /opt/agent in the image") as refused:
            await user.run("true")
    assert refused.value.user_message == "The agent of this image does not answer."
    assert refused.value.code == DockerCode.EXEC_PID_READ_FAILED


HOSTILE = {
    "no number": ("printf '\\377\\377\\377\\377more'", "does not answer like an agent"),
    "a number too short": ("printf '\\5'", "does not answer like an agent.*status 0"),
    "endless errors": ("yes >&2", "does not answer like an agent"),
    "another program": ("echo Usage: me; exit 3", "does not answer like an agent.*status 3: Usage: me"),
    "silence": ("sleep 60", "did not answer within 2 s"),
}


@pytest.mark.parametrize("kind", HOSTILE)
async def test_an_agent_that_does_not_keep_to_the_protocol_costs_its_session_alone(
    engine: Engine, backend: DockerBackend, kind: str
) -> None:
    script, words = HOSTILE[kind]
    good = 'while [ "$1" != -- ]; do shift; done; shift; printf "\\005\\000\\000\\000"; exec "$@"'
    whole = f'#!/bin/sh\ncase "$*" in *hostile*) {script}; exit;; esac\n{good}\n'
    image = agent_image(engine, f"containerssh-test/hostile-{kind.replace(' ', '-')}:latest", whole)
    async with logged_in(backend, engine, "image", container={"image": image}) as user:
        began = time.monotonic()
        hostile = asyncio.create_task(user.run("echo hostile"))
        channel, end = await user.run("echo good")
        assert (channel.out.data, end) == (b"good\n", 0)
        with pytest.raises(BackendError, match=words):
            await hostile
        assert time.monotonic() - began < 10


async def test_a_process_id_in_two_pieces_with_output_behind_is_cut_off_exactly(
    engine: Engine, backend: DockerBackend
) -> None:
    skip = 'while [ "$1" != -- ]; do shift; done; shift'
    script = f"#!/bin/sh\n{skip}; printf '\\005\\000'; sleep 0.3; printf '\\000\\000first'; exec \"$@\"\n"
    image = agent_image(engine, "containerssh-test/pieces:latest", script)
    async with logged_in(backend, engine, "image", container={"image": image}) as user:
        channel, end = await user.run("seq 1 20000")
    assert end == 0
    assert channel.out.data.startswith(b"first1\n2\n")
    assert len(channel.out.data) == 108_894 + len(b"first")


# -- auto --------------------------------------------------------------------------------------------------


async def test_auto_brings_the_servers_own_agent_in_where_it_can(engine: Engine, backend: DockerBackend) -> None:
    channel = Channel(ends=False)
    async with logged_in(backend, engine, "auto") as user, user.handler.session(channel) as session:
        await session.run_command("echo up; exec sleep 600")
        await until(lambda: channel.out.data == b"up\n", "the program")
        await session.send_signal("TERM")
        assert not isinstance(await channel.ended(), int)


@pytest.mark.parametrize(("path", "way"), [("/usr/bin/containerssh-agent", "image"), ("/opt/none", "none")])
async def test_auto_takes_what_there_is_where_the_engine_keeps_the_agent_out(
    engine: Engine, backend: DockerBackend, path: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Docker refuses to put a file into a container whose root is read-only."""
    kept_out: dict[str, Any] = {"agentTransport": "attach", "host": {"readonlyrootfs": True}, "agentPath": path}
    async with logged_in(backend, engine, "auto", **kept_out) as user:
        channel, end = await user.run("echo in; touch /x")
        assert (channel.out.data, end) == (b"in\n", 1)
    assert [record for record in caplog.records if "keeps the server's agent out" in record.getMessage()]
    starts = {"image": "the image's agent starts programs", "none": "the engine starts programs"}
    assert starts[way] in caplog.text


async def test_injected_never_becomes_something_else(engine: Engine, backend: DockerBackend) -> None:
    kept_out: dict[str, Any] = {"agentTransport": "attach", "host": {"readonlyrootfs": True}}
    with pytest.raises(BackendError, match="read-only"):
        async with logged_in(backend, engine, "injected", **kept_out):
            pass
