"""The input of a program on a terminal that somebody else than the guest agent has opened."""

from __future__ import annotations

from containerssh.core.streams import ByteWriter

_END_OF_FILE = b"\x04"


class TerminalInput(ByteWriter):
    """
    What is typed on a terminal. Its end is the end-of-file character, as on any terminal: engines and clusters
    take the end of the stream for the end of the output as well.
    """

    def __init__(self, inner: ByteWriter) -> None:
        self._inner = inner
        self._in_line = False
        self._ended = False

    async def write(self, data: bytes) -> None:
        if data:
            self._in_line = data[-1:] not in (b"\n", b"\r")
        await self._inner.write(data)

    async def write_eof(self) -> None:
        if not self._ended:
            self._ended = True
            # In the middle of a line the character only hands over what there is of it.
            await self._inner.write(_END_OF_FILE * 2 if self._in_line else _END_OF_FILE)
