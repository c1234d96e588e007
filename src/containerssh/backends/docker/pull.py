"""The stream of progress messages of a pull."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from containerssh.core.codes import DockerCode
from containerssh.core.errors import ProtocolError

_MESSAGE_LIMIT = 64 * 1024
_LAYERS_LIMIT = 1000


@dataclass
class _Layer:
    downloaded: int = 0
    total: int = 0


class PullProgress:
    """Parses the messages of a pull: its progress, and its error if it fails."""

    def __init__(self) -> None:
        self.error = ""
        """The engine's error message if the pull failed. The HTTP status is sent before that is known."""
        self._layers: dict[str, _Layer] = {}
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """
        Process the next bytes of the stream, split at any point.

        Raises:
            ProtocolError: the stream does not consist of JSON objects, one per line.
        """
        for line in self._lines(data):
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                raise _broken() from None
            if not isinstance(message, dict):
                raise _broken()
            self._take(message)

    def end(self) -> None:
        """Process the end of the stream; the last line may lack a line end."""
        if self._rest:
            self.feed(b"\n")

    @property
    def percent(self) -> int | None:
        """The percentage of the known total that has been downloaded; None while it is unknown."""
        total = sum(layer.total for layer in self._layers.values())
        if not total:
            return None
        return min(100, 100 * sum(layer.downloaded for layer in self._layers.values()) // total)

    def _lines(self, data: bytes) -> Iterator[bytes]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MESSAGE_LIMIT:
            raise _broken()
        for line in lines:
            if len(line) > _MESSAGE_LIMIT:
                raise _broken()
            if line.strip():
                yield line

    def _take(self, message: dict[str, object]) -> None:
        detail = message.get("errorDetail")
        words = detail.get("message") if isinstance(detail, dict) else None
        if words or message.get("error"):
            self.error = str(words or message["error"])[:1000]
            return
        name, status, progress = message.get("id"), message.get("status"), message.get("progressDetail")
        if not isinstance(name, str):
            return
        layer = self._layers.get(name)
        if layer is None:
            if len(self._layers) >= _LAYERS_LIMIT:
                return
            layer = self._layers[name] = _Layer()
        if status == "Downloading" and isinstance(progress, dict):
            current, total = progress.get("current"), progress.get("total")
            if isinstance(current, int) and isinstance(total, int) and 0 <= current <= total < 2**50:
                layer.downloaded, layer.total = current, total
        elif status in ("Download complete", "Pull complete", "Verifying Checksum", "Extracting"):
            layer.downloaded = layer.total


def _broken() -> ProtocolError:
    return ProtocolError(DockerCode.PROTOCOL_ERROR, "the engine's report on the pull cannot be understood")
