"""What comes before the agent's first word, however it is cut and whatever it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.backends.kubernetes.injection import LinkReader
from containerssh.core.codes import KubernetesCode
from containerssh.core.errors import BackendError, ContainerSSHError
from containerssh.core.streams import ByteReader


class Pieces(ByteReader):
    """Gives these one after another, then the end, or the break."""

    def __init__(self, pieces: list[bytes], *, breaks: bool = False) -> None:
        self._pieces = [piece for piece in pieces if piece]
        self._breaks = breaks

    async def read(self) -> bytes:
        if not self._pieces and self._breaks:
            raise ConnectionResetError("cut")
        return self._pieces.pop(0) if self._pieces else b""


def reader(pieces: list[bytes], reason: ContainerSSHError | None = None, *, breaks: bool = False) -> LinkReader:
    async def why() -> ContainerSSHError | None:
        return reason

    return LinkReader(Pieces(pieces, breaks=breaks), why)


async def rest_of(made: LinkReader) -> bytes:
    found = b""
    while data := await made.read():
        found += data
    return found


@given(st.lists(st.binary(max_size=20), max_size=12))
async def test_the_first_line_ends_where_it_ends_and_nothing_behind_it_is_lost(pieces: list[bytes]) -> None:
    made = reader(pieces)
    line, newline, rest = b"".join(pieces).partition(b"\n")
    if newline:
        assert await made.line() == line
        assert await rest_of(made) == rest
    else:
        assert await made.line() == b""


async def test_a_line_without_an_end_is_not_waited_for_for_ever() -> None:
    endless = [b"x" * 4096] * 1000
    assert await reader(endless).line() == b""


async def test_the_end_of_the_stream_is_told_by_the_pods_own_end() -> None:
    gone = BackendError(KubernetesCode.POD_ENDED, "evicted", user_message="The cluster has evicted the pod.")
    for breaks in (False, True):
        made = reader([b"last"], gone, breaks=breaks)
        assert await made.read() == b"last"
        with pytest.raises(BackendError, match="evicted"):
            await made.read()


async def test_without_a_reason_an_end_stays_an_end_and_a_break_a_break() -> None:
    assert await reader([]).read() == b""
    with pytest.raises(ConnectionResetError):
        await reader([], breaks=True).read()
