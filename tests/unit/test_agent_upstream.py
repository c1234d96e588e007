"""The image's own agent: what it is told, and the process id that it reports."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.agent.upstream import HIGHEST_PID, PidReader, console, send_signal, write_file
from containerssh.backends.docker.files import archive, owner_of
from containerssh.core.errors import ProtocolError

PIDS = st.integers(1, HIGHEST_PID)


def test_the_command_lines_are_those_of_the_agent_of_0_6() -> None:
    agent = "/usr/bin/containerssh-agent"
    assert console("/a", ["/bin/sh", "-c", "x"]) == ("/a", "console", "--pid", "--", "/bin/sh", "-c", "x")
    assert console("/a", ["/b"], wait=True) == ("/a", "console", "--wait", "--pid", "--", "/b")
    wrapped = (agent, "console", "--pid", "--", agent)
    assert send_signal(agent, 7, "TERM") == (*wrapped, "signal", "--pid", "7", "--signal", "TERM")
    assert write_file(agent, "/x y") == (*wrapped, "write-file", "/x y")


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(places)]


@given(PIDS, st.binary(max_size=40), st.lists(st.integers(0, 60), max_size=6))
def test_the_process_id_is_cut_off_exactly_however_the_bytes_arrive(pid: int, output: bytes, cuts: list[int]) -> None:
    reader = PidReader(terminal=False)
    rest = b"".join(reader.feed(piece) for piece in pieces(pid.to_bytes(4, "little") + output, cuts))
    assert (reader.pid, rest) == (pid, output)


@given(PIDS, st.binary(max_size=40), st.lists(st.integers(0, 60), max_size=6), st.booleans())
def test_a_terminals_carriage_returns_and_echo_are_no_part_of_it(
    pid: int, output: bytes, cuts: list[int], echo: bool
) -> None:
    typed = b"\n" if echo else b""
    data = (typed + pid.to_bytes(4, "little") + output).replace(b"\n", b"\r\n")
    reader = PidReader(terminal=True, echo=echo)
    rest = b"".join(reader.feed(piece) for piece in pieces(data, cuts))
    assert (reader.pid, rest) == (pid, output.replace(b"\n", b"\r\n"))


@given(st.lists(st.binary(max_size=8), max_size=8), st.booleans(), st.booleans())
def test_any_bytes_are_a_process_id_or_an_error(chunks: list[bytes], terminal: bool, echo: bool) -> None:
    reader = PidReader(terminal=terminal, echo=echo)
    try:
        kept = b"".join(reader.feed(chunk) for chunk in chunks)
    except ProtocolError:
        assert len(reader.seen) == 4
    else:
        assert reader.pid is None or 0 < reader.pid <= HIGHEST_PID
        assert reader.pid is not None or (kept == b"" and len(reader.seen) < 4)


@pytest.mark.parametrize("number", [0, HIGHEST_PID + 1, 0xFFFFFFFF])
def test_a_number_that_no_process_has_is_refused(number: int) -> None:
    with pytest.raises(ProtocolError):
        PidReader(terminal=False).feed(number.to_bytes(4, "little"))


@pytest.mark.parametrize(
    ("user", "owner"), [("", (0, 0)), ("root", (0, 0)), ("1000", (1000, 0)), ("1000:100", (1000, 100))]
)
def test_a_file_belongs_to_the_containers_user(user: str, owner: tuple[int, int]) -> None:
    assert owner_of(user) == owner


@pytest.mark.parametrize("user", ["nobody", "1000:wheel", "1:2:3", "99999999999", "4294967296", "-1"])
def test_a_user_that_only_the_image_knows_cannot_own_a_file(user: str) -> None:
    with pytest.raises(ValueError, match="has to be a number"):
        owner_of(user)


@pytest.mark.parametrize("path", ["", "/", "/a/../../etc/passwd", "..", "/a\0b"])
def test_what_is_no_path_of_a_file_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="not a valid path"):
        archive(path, b"", (0, 0))
