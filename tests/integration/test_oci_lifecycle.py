"""A container lives as long as its login, and leaves nothing behind, however the login ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from containerssh.backends.oci.backend import OCIBackend
from containerssh.core.errors import BackendError
from containerssh.core.instance import Instance, open_instance
from containerssh.core.metadata import Value
from tests.support.oci import (
    RUNTIMES,
    Channel,
    Told,
    config,
    logged_in,
    login,
    needs_root,
    open_backend,
    run,
    short_folder,
    values,
)
from tests.support.waiting import until

pytestmark = [needs_root, pytest.mark.root, pytest.mark.oci]


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


def left_behind(folder: Path, instance_id: str) -> list[str]:
    """Files, control groups and processes of containers that are still there."""
    left = [str(path) for path in (folder / "state/oci/containers" / instance_id).glob("*")]
    left += [str(path) for kind in ("crun", "runc") for path in (folder / "run" / instance_id / kind).glob("*")]
    left += [str(path) for path in (folder / "run" / instance_id).glob("link-*")]
    left += [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/containerssh/{instance_id}/*") if path.is_dir()]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if instance_id in (process / "cgroup").read_text() or instance_id in (process / "cmdline").read_text():
                left.append(f"{process}: {(process / 'cmdline').read_text()}")
        except OSError:
            continue
    return left


def cgroups_of(instance_id: str) -> list[Path]:
    """The control groups of all its containers."""
    return list(Path("/sys/fs/cgroup").glob(f"*/containerssh/{instance_id}"))


@asynccontextmanager
async def checked_backend(folder: Path) -> AsyncIterator[OCIBackend]:
    """A backend whose containers must all be gone before it is closed."""
    async with open_backend(folder) as (backend, instance):
        yield backend
        assert left_behind(folder, instance.id) == []
    assert cgroups_of(instance.id) == []


def mounts_of(folder: Path) -> list[str]:
    """Mounts that have to do with *folder*, as everybody sees them."""
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(folder) in line]


async def test_a_login_leaves_nothing_behind(folder: Path, runtime: str) -> None:
    async with (
        checked_backend(folder) as backend,
        backend.login(login(), config(runtime=runtime), Told()) as connection,
    ):
        await run(connection, "mkdir -p /a/b; echo x > /a/b/c; (sleep 1000 &) >/dev/null 2>&1")
        assert mounts_of(folder) == []
    assert mounts_of(folder) == []


async def test_logins_share_nothing_but_the_image(folder: Path) -> None:
    async with (
        checked_backend(folder) as backend,
        backend.login(login(), config(), Told()) as one,
        backend.login(login(), config(), Told()) as other,
    ):
        await run(one, "echo secret > /tmp/x; rm /bin/vi")
        done = await run(other, "cat /tmp/x; ls /bin/vi; ps | wc -l")
        assert "secret" not in done.stdout
        assert "/bin/vi" in done.stdout


async def test_environment_of_image_configuration_and_webhooks_arrives_in_this_order() -> None:
    meta = login(metadata=values(M="meta", E="meta"), environment=values(E="env", C="env"))
    show = "echo $A,$C,$M,$E,$HOME,$USER,$SHELL"
    async with logged_in(meta, env=["A=config", "C=config"], exposeAuthMetadataAsEnv=True) as connection:
        assert (await run(connection, show)).stdout == "config,env,meta,env,/root,root,/bin/sh\n"
    async with logged_in(meta, env=["A=config", "C=config"]) as connection:
        assert (await run(connection, show)).stdout == "config,env,,env,/root,root,/bin/sh\n"


async def test_a_program_has_the_usual_variables_and_none_of_the_agents() -> None:
    async with logged_in() as connection:
        for process in ("self", "1"):
            shown = (await run(connection, f"cat /proc/{process}/environ")).stdout
            names = {entry.partition("=")[0] for entry in shown.split("\0") if entry}
            assert names - {"PWD", "SHLVL"} == {"PATH", "HOSTNAME", "HOME", "SHELL", "USER", "LOGNAME"}


async def test_files_of_webhooks_are_there_before_the_first_program(caplog: pytest.LogCaptureFixture) -> None:
    files = {"/root/.token": Value(b"t0ken", sensitive=True), "/new/folder/x": Value(b"x"), "/proc/nope": Value(b"")}
    async with logged_in(login(files=files)) as connection:
        done = await run(connection, "cat /root/.token /new/folder/x; stat -c %a /root/.token")
    assert done.stdout == "t0kenx600\n"
    assert "/proc/nope" in caplog.text
    assert "t0ken" not in caplog.text


async def test_a_variable_that_no_program_can_have_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    async with logged_in(login(environment=values(**{"A=B": "c", "D": "d\0", "E": "e"}))) as connection:
        shown = (await run(connection, "env")).stdout.splitlines()
    assert "E=e" in shown
    assert not [line for line in shown if line.startswith(("A", "D"))]
    assert [name for name in ("'A=B'", "'D'") if f"A variable cannot be named {name}" in caplog.text] == [
        "'A=B'",
        "'D'",
    ]


async def test_session_mode_has_a_container_for_each_session(folder: Path) -> None:
    async with checked_backend(folder) as backend:
        async with backend.login(login(), config(mode="session"), Told()) as connection:
            first = await run(connection, "touch /x; ls /x; hostname")
            second = await run(connection, "ls /x; hostname")
        assert first.status == 0
        assert second.stdout.count("/x") == 0
        assert first.stdout.split()[-1] == second.stdout.split()[-1]


async def test_a_shell_is_the_users_own() -> None:
    async with logged_in() as connection:
        channel = Channel(b"echo $0 $((6*7)); exit 3\n")
        async with asyncio.timeout(10), connection.session(channel) as session:
            await session.run_shell()
            assert await channel.ended == 3
    assert b"42" in channel.out.data


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image": "/nowhere"}, "not a folder"),
        ({"image": ""}, "not set"),
        ({"user": "nobodyhere"}, "no user"),
        ({"binds": ["/nowhere:/x"]}, "/nowhere"),
        ({"entrypoint": ["/nowhere"]}, "did not start"),
        ({"entrypoint": ["/bin/false"]}, "did not start"),
        ({"seccomp": "/nowhere"}, "seccomp"),
        ({"runtime": "/bin/true"}, "neither crun nor runc"),
        ({"runtime": "/nowhere/crun"}, "no OCI runtime"),
    ],
)
async def test_what_cannot_start_says_why_and_leaves_nothing(
    folder: Path, changes: dict[str, object], says: str
) -> None:
    async with checked_backend(folder) as backend:
        with pytest.raises(BackendError, match=says):
            async with backend.login(login(), config(**changes), Told()):
                pass


async def test_an_image_whose_first_program_never_dials_is_given_up_in_time(folder: Path, runtime: str) -> None:
    silent = {"entrypoint": ["/bin/sh", "-c", "sleep 1000"], "timeouts": {"containerStart": "1500ms"}}
    async with checked_backend(folder) as backend:
        began = time.monotonic()
        with pytest.raises(BackendError, match="containerStart"):
            async with backend.login(login(), config(runtime=runtime, **silent), Told()):
                pass
        assert time.monotonic() - began < 8


async def test_an_entrypoint_that_runs_its_command_is_kept() -> None:
    script = 'export FROM=entrypoint; exec "$@"'
    async with logged_in(entrypoint=["/bin/sh", "-c", script, "--"]) as connection:
        assert (await run(connection, "echo $FROM")).stdout == "entrypoint\n"


@pytest.mark.parametrize("delay", [0.0, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05])
async def test_a_login_that_is_cancelled_at_any_moment_leaves_nothing(folder: Path, runtime: str, delay: float) -> None:
    async def log_in() -> None:
        async with backend.login(login(), config(runtime=runtime), Told()):
            await asyncio.Event().wait()

    async with checked_backend(folder) as backend:
        await backend.probe(config(runtime=runtime))
        task = asyncio.create_task(log_in())
        await asyncio.wait([task], timeout=delay)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_helper_that_dies_is_replaced(folder: Path) -> None:
    async with open_backend(folder) as (backend, instance):
        async with backend.login(login(), config(), Told()) as connection:
            await run(connection, "true")
            for pid in _helpers(os.getpid()):
                os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(20), backend.login(login(), config(), Told()) as connection:
            assert (await run(connection, "echo back")).stdout == "back\n"
    assert instance.id


def _helpers(parent: int) -> list[int]:
    """The helper process of a server, if there is one."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text().startswith("containerssh-oc")]


SERVER = """
import asyncio, pathlib, sys
sys.path[:0] = sys.argv[3:]
from tests.support.oci import Told, config, login, open_backend, run

async def main():
    async with open_backend(pathlib.Path(sys.argv[1])) as (backend, instance):
        async with backend.login(login(), config(runtime=sys.argv[2]), Told()) as connection:
            await run(connection, "(sleep 1000 &) > /dev/null 2>&1; echo x > /x")
            print(instance.id, flush=True)
            await asyncio.Event().wait()

asyncio.run(main())
"""


@asynccontextmanager
async def another_server(folder: Path, runtime: str) -> AsyncIterator[tuple[int, str]]:
    """A process with one container: its pid, and its instance's id."""
    root = Path(__file__).parents[2]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SERVER, str(folder), runtime, str(root), str(root / "src")),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            identity = (await process.stdout.readline()).decode().strip()
        yield process.pid, identity
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def eventually(folder: Path, identity: str, wanted: str) -> None:
    await until(lambda: not any(wanted in entry for entry in left_behind(folder, identity)), 15)


async def test_a_server_that_is_killed_takes_its_containers_along(folder: Path, runtime: str) -> None:
    async with another_server(folder, runtime) as (pid, identity):
        os.kill(pid, signal.SIGKILL)
        await eventually(folder, identity, "/proc/")


async def test_what_a_killed_server_and_helper_left_is_reaped_and_nothing_else(folder: Path, runtime: str) -> None:
    async with another_server(folder, runtime) as (_, alive), another_server(folder, runtime) as (pid, dead):
        os.kill(pid, signal.SIGSTOP)  # so that it cannot see its helper go
        for helper in _helpers(pid):
            os.kill(helper, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        before = len(left_behind(folder, alive))
        with open_instance(folder / "state", folder / "run") as instance:
            await _wait_for_death(instance, dead)
            assert await _reap(instance, runtime) == 1
        await eventually(folder, dead, "/proc/")
        assert [entry for entry in left_behind(folder, dead) if "/run/" not in entry] == []
        assert len(left_behind(folder, alive)) == before


async def _wait_for_death(instance: Instance, identity: str) -> None:
    await until(lambda: identity in instance.dead())


async def _reap(instance: Instance, runtime: str) -> int:
    backend = OCIBackend(instance)
    try:
        return await backend.reap(config(runtime=runtime))
    finally:
        await backend.close()


async def test_many_logins_at_once_start_and_end(folder: Path) -> None:
    async def one(number: int) -> str:
        async with backend.login(login(), config(), Told()) as connection:
            return (await run(connection, f"echo {number}")).stdout.strip()

    async with checked_backend(folder) as backend, asyncio.timeout(60):
        done = await asyncio.gather(*(one(number) for number in range(20)))
    assert done == [str(number) for number in range(20)]


async def test_a_guest_cannot_keep_the_helper_busy_with_output(folder: Path) -> None:
    async with checked_backend(folder) as backend, backend.login(login(), config(), Told()) as connection:
        flood = await run(connection, "timeout 1 head -c 100m /dev/zero > /proc/1/fd/2")
        assert flood.status != 0  # nobody reads it, so the program that writes stands still
        async with backend.login(login(), config(), Told()) as other:
            assert (await run(other, "echo alive")).stdout == "alive\n"


async def test_what_works_here_is_found_out_though_those_who_asked_have_left(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with checked_backend(folder) as backend:
        with caplog.at_level("INFO"):
            asked = asyncio.create_task(backend.probe(config()))
            await asyncio.sleep(0)
            asked.cancel()
            await asyncio.wait((asked,))
            assert asked.cancelled()
            await until(lambda: "Containers are run by" in caplog.text)
        assert "crun" in await backend.probe(config())
        assert caplog.text.count("Containers are run by") == 1


async def test_a_server_that_ends_does_not_wait_for_what_works_here(folder: Path) -> None:
    async with open_backend(folder) as (backend, _):
        asked = asyncio.create_task(backend.probe(config()))
        await asyncio.sleep(0)
    assert _helpers(os.getpid()) == []
    with pytest.raises(asyncio.CancelledError):
        await asked


async def test_fifty_logins_leave_no_descriptor_or_process_open(folder: Path) -> None:
    def held(pid: int) -> tuple[int, int]:
        threads = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return len(list(Path(f"/proc/{pid}/fd").iterdir())), len(threads)

    async with open_backend(folder) as (backend, _):
        for number in range(51):
            async with backend.login(login(), config(), Told()) as connection:
                if number in (0, 50):
                    await run(connection, "true")
            if number == 0:
                [helper] = _helpers(os.getpid())
                before = held(os.getpid()), held(helper)
        assert (held(os.getpid()), held(helper)) == before
