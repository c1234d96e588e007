"""The real agent, started as a process of this machine, by both transports."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from containerssh.agent.binaries import agent_binary
from containerssh.agent.link import FRAMED_ARGUMENTS, Program, framed_link
from containerssh.core.errors import BackendError
from containerssh.core.requests import ExitSignal
from tests.support.agent import (
    LIMIT,
    PipeReader,
    PipeWriter,
    agent_link,
    read_all,
    read_until,
    run_to_end,
    shell,
)

transports = pytest.mark.parametrize("transport", ["socket", "framed"])


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@transports
async def test_streams_and_status_of_a_program_arrive(transport: str) -> None:
    async with agent_link(transport) as link:
        process = await link.start(Program(["sh", "-c", "cat; echo oops >&2; exit 3"]))
        await process.stdin.write(b"hello")
        await process.stdin.write_eof()
        assert await read_all(process.stdout) == b"hello"
        assert await read_all(process.stderr) == b"oops\n"
        assert await process.wait() == 3
        await process.kill()
        await process.kill()


@transports
async def test_bytes_by_the_megabyte_pass_both_ways_at_once(transport: str) -> None:
    sent = os.urandom(1024 * 1024) * 24
    async with agent_link(transport) as link:
        received, status = await run_to_end(await link.start(Program(["cat"])), sent)
    assert status == 0
    assert hashlib.sha256(received).digest() == hashlib.sha256(sent).digest()


@transports
async def test_a_program_goes_on_after_the_end_of_its_input(transport: str) -> None:
    async with agent_link(transport) as link:
        assert await shell(link, "cat >/dev/null; sleep 0.1; echo late; exit 5", b"x") == (b"late\n", 5)


@transports
async def test_input_goes_on_after_the_end_of_output(transport: str, tmp_path: Path) -> None:
    async with agent_link(transport) as link:
        process = await link.start(Program(["sh", "-c", f"exec >&- 2>&-; cat > {tmp_path}/got; exit 4"]))
        assert await read_all(process.stdout) == b""
        await process.stdin.write(b"after")
        await process.stdin.write_eof()
        assert await process.wait() == 4
        assert (tmp_path / "got").read_bytes() == b"after"
        await process.kill()


@transports
async def test_a_slow_reader_holds_up_neither_the_link_nor_its_neighbours(transport: str) -> None:
    async with agent_link(transport) as link:
        stuck = await link.start(Program(["cat", "/dev/zero"]))
        unread = await link.start(Program(["sleep", "60"]))
        writing = asyncio.create_task(unread.stdin.write(bytes(8 * 1024 * 1024)))
        assert await shell(link, "echo alive") == (b"alive\n", 0)
        assert not writing.done()
        writing.cancel()
        await stuck.kill()
        await unread.kill()


@transports
async def test_fifty_programs_run_at_the_same_time(transport: str) -> None:
    async with agent_link(transport) as link:
        results = await asyncio.gather(*(shell(link, f"echo {number}; exit {number}") for number in range(50)))
    assert results == [(b"%d\n" % number, number) for number in range(50)]


@transports
async def test_a_signal_reaches_the_whole_process_group(transport: str) -> None:
    async with agent_link(transport) as link:
        script = (
            "trap 'echo got' TERM; (trap 'echo child; exit' TERM; echo up; while :; do sleep 0.1; done) & wait; wait"
        )
        process = await link.start(Program(["sh", "-c", script]))
        out = await read_until(process.stdout, b"up")
        await process.signal("TERM")
        out += await read_all(process.stdout)
        assert b"got" in out
        assert b"child" in out
        with pytest.raises(BackendError):
            await process.signal("NOSUCH")
        await process.kill()


@transports
@pytest.mark.parametrize("name", ["TERM", "KILL", "SEGV", "USR1", "BUS"])
async def test_death_by_a_signal_is_told_apart_from_a_status(transport: str, name: str) -> None:
    async with agent_link(transport) as link:
        _, outcome = await shell(link, f"ulimit -c 0; kill -{name} $$")
        assert outcome == ExitSignal(name)
        _, outcome = await shell(link, "exit 143")
        assert outcome == 143


@transports
async def test_a_program_that_has_ended_takes_no_signals(transport: str) -> None:
    async with agent_link(transport) as link:
        process = await link.start(Program(["true"]))
        assert await process.wait() == 0
        with pytest.raises(BackendError, match="no such process"):
            await process.signal("TERM")
        await process.kill()


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (Program(["/no/such/shell"]), "/no/such/shell: no such file or directory"),
        (Program(["no-such-command"]), "no-such-command: no such file or directory"),
        (Program(["/etc/passwd"]), "/etc/passwd: permission denied"),
        (Program(["/etc"]), "/etc: permission denied"),
        (Program(["true"], cwd="/no/such/folder"), "true: /no/such/folder: no such file or directory"),
        (Program(["true"], {"A": "b\0c"}), "true: a command or a variable cannot hold a NUL"),
        (Program(["true"], {"A=B": "c"}), "true: a variable's name cannot be empty or hold an equals sign"),
        (Program([]), ": no command"),
        (Program(["true", "x" * 200_000]), "true: argument list too long"),
        (Program(["true", *["x" * 100_000] * 30]), "true: argument list too long"),
    ],
)
@transports
async def test_a_program_that_cannot_be_started_gives_the_reason(transport: str, program: Program, reason: str) -> None:
    async with agent_link(transport) as link:
        with pytest.raises(BackendError) as caught:
            await link.start(program)
        assert caught.value.user_message == reason
        assert await shell(link, "exit 9") == (b"", 9)


@transports
async def test_the_agent_itself_can_be_the_program(transport: str) -> None:
    async with agent_link(transport) as link:
        process = await link.start(Program(["any-name", "version"], {"PATH": "/no/such"}, agent=True))
        output, outcome = await run_to_end(process)
        assert (output.decode().strip(), outcome) == (link.version, 0)


@transports
async def test_the_environment_is_the_containers_and_the_programs_each_name_once(
    transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROM_CONTAINER", "kept")
    monkeypatch.setenv("BOTH", "container")
    odd = "\udcff\udc80 \n=$x"
    async with agent_link(transport) as link:
        process = await link.start(Program(["env", "-0"], {"BOTH": "program", "ODD": odd}, cwd="/usr"))
        output, _ = await run_to_end(process)
    entries = output.split(b"\0")
    assert entries.count(b"BOTH=program") == 1
    assert b"FROM_CONTAINER=kept" in entries
    assert b"BOTH=container" not in entries
    assert b"ODD=" + odd.encode("utf-8", "surrogateescape") in entries


@transports
async def test_no_variable_of_the_agents_own_reaches_a_program(transport: str) -> None:
    async with agent_link(transport) as link:
        # Our own servers are started with some.
        await run_to_end(await link.start(Program(["any-name", "version"], {}, agent=True)))
        process = await link.start(Program(["env", "-0"], {"OURS": "x"}))
        output, _ = await run_to_end(process)
    found = dict(entry.split(b"=", 1) for entry in output.split(b"\0") if entry)
    # Python does not know of those that a library, readline, has set.
    assert found.keys() - {b"COLUMNS", b"LINES"} == {*os.environb, b"OURS"} - {b"COLUMNS", b"LINES"}
    assert found.items() >= {**os.environb, b"OURS": b"x"}.items()


@transports
async def test_a_command_is_looked_for_in_the_programs_own_path(transport: str, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("#!/bin/sh\npwd\n")
    own.chmod(0o755)
    async with agent_link(transport) as link:
        process = await link.start(Program(["own"], {"PATH": f"/nowhere:{tmp_path}"}, cwd="/"))
        assert await run_to_end(process) == (b"/\n", 0)


# -- files ------------------------------------------------------------------------------------------------


@transports
async def test_a_file_is_written_with_its_mode_and_missing_folders(transport: str, tmp_path: Path) -> None:
    content = os.urandom(700_000)
    target = tmp_path / "new" / "folder" / "file"
    async with agent_link(transport) as link:
        await link.write_file(str(target), content, mode=0o640)
        await link.write_file(str(tmp_path / "empty"), b"")
    assert target.read_bytes() == content
    assert target.stat().st_mode & 0o7777 == 0o640
    assert target.parent.stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "empty").stat().st_mode & 0o7777 == 0o600
    assert names(tmp_path) == ["empty", "new"]


@transports
async def test_a_link_in_a_files_place_is_replaced_and_not_followed(transport: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / "file").symlink_to(victim)
    async with agent_link(transport) as link:
        await link.write_file(str(tmp_path / "file"), b"new")
    assert victim.read_text() == "untouched"
    assert (tmp_path / "file").read_text() == "new"
    assert not (tmp_path / "file").is_symlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@transports
async def test_a_file_can_be_given_to_a_user(transport: str, tmp_path: Path) -> None:
    async with agent_link(transport) as link:
        await link.write_file(str(tmp_path / "theirs"), b"x", mode=0o400, owner=(1234, 2345))
    found = (tmp_path / "theirs").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (1234, 2345, 0o400)


@transports
async def test_a_file_that_cannot_be_written_is_an_error_and_leaves_nothing(transport: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    async with agent_link(transport) as link:
        for path in (
            str(tmp_path / "folder"),
            "relative",
            str(tmp_path / "x\0y"),
            "/proc/nothing/here",
            f"{tmp_path}/",
        ):
            with pytest.raises(BackendError) as caught:
                await link.write_file(path, b"x" * 600_000)
            assert caught.value.user_message == "A file could not be written."
        assert await shell(link, "exit 1") == (b"", 1)
    assert names(tmp_path) == ["folder"]


async def test_what_an_entrypoint_prints_before_the_agent_is_skipped() -> None:
    noise = b"Welcome!\n" * 500 + b"\x00\x89container"
    async with agent_link("framed", noise) as link:
        assert await shell(link, "echo fine") == (b"fine\n", 0)


async def test_a_program_inherits_no_descriptor_that_the_agent_was_started_with() -> None:
    reader, writer = os.pipe()
    pipe = asyncio.subprocess.PIPE
    try:
        agent = await asyncio.create_subprocess_exec(
            agent_binary(), *FRAMED_ARGUMENTS, stdin=pipe, stdout=pipe, pass_fds=(reader, writer)
        )
        assert agent.stdin is not None
        assert agent.stdout is not None
        async with framed_link(PipeReader(agent.stdout), PipeWriter(agent.stdin)) as link:
            # The fourth is the folder that ls reads.
            assert await shell(link, "exec ls /proc/self/fd") == (b"0\n1\n2\n3\n", 0)
        agent.stdin.close()
        await asyncio.wait_for(agent.wait(), LIMIT)
    finally:
        os.close(reader)
        os.close(writer)
