"""Terminal input of a program whose terminal an engine or cluster has opened."""

from __future__ import annotations

from containerssh.core.streams import ByteWriter

_END_OF_FILE = b"\x04"


class TerminalInput(ByteWriter):
    """
    Input to a terminal. EOF is sent as the end-of-file character (Ctrl-D): engines and clusters would treat the end of
    the stream as the end of the output as well.
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
            # Within a line, the first character only flushes the line; the second signals EOF.
            await self._inner.write(_END_OF_FILE * 2 if self._in_line else _END_OF_FILE)
