"""The agent's SFTP server: how it is started, and its reports on files."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from containerssh.agent.process import Program
from containerssh.core.codes import SFTPCode
from containerssh.core.errors import BackendError, ProtocolError
from containerssh.core.files import FileEvent, SFTPRules
from containerssh.core.handlers import SessionChannel
from containerssh.core.messages import Event
from containerssh.core.requests import to_wire
from containerssh.core.streams import ByteReader

logger = logging.getLogger(__name__)

MAX_LINE = 64 * 1024
"""The maximum length of a line: two paths of 4096 bytes, each byte escaped as six."""

_LARGEST = 2**64 - 1
# The number of lines after which other tasks get a turn.
_AT_ONCE = 16

_PATHS: Mapping[str, type] = {"path": str, "target": str}
_SHAPES: Mapping[str, tuple[Mapping[str, type], Mapping[str, type]]] = {
    # The required and optional fields.
    "file": ({"path": str, "read": int, "written": int}, {"created": bool, "sha256": str}),
    "rename": (_PATHS, {}),
    "link": (_PATHS, {}),
    "symlink": (_PATHS, {}),
    "remove": ({"path": str}, {}),
    "mkdir": ({"path": str}, {}),
    "rmdir": ({"path": str}, {}),
    "attributes": ({"path": str}, {"size": int, "mode": int, "uid": int, "gid": int, "mtime": int}),
    "refused": ({"operation": str, "path": str, "reason": str}, {}),
    "failed": ({"reason": str}, {}),
}
_ATTRIBUTES = ("size", "mode", "uid", "gid", "mtime")


def sftp_program(rules: SFTPRules, env: Mapping[str, str], *, report: bool) -> Program:
    """
    The agent's SFTP server as a program; its standard error is read by :class:`FileReport`. With *report*, it reports
    each file.
    """
    argv = ["agent", "sftp"]
    switches = {
        "--read-only": rules.read_only,
        "--upload-only": rules.upload_only,
        "--digest": rules.digest and report,
        "--events": report,
    }
    argv += [switch for switch, on in switches.items() if on]
    values = {
        "--root": rules.root,
        "--max-file-size": str(rules.max_file_size or ""),
        "--max-session-size": str(rules.max_session_size or ""),
        "--umask": "" if rules.umask is None else f"{rules.umask:03o}",
    }
    argv += [word for option, value in values.items() if value for word in (option, value)]
    return Program(argv, env, agent=True)


def wanted(channel: SessionChannel) -> bool:
    """Whether file events are recorded; if so, every file is reported."""
    return channel.takes_file_events or logger.isEnabledFor(logging.DEBUG)


def parse_event(line: bytes) -> FileEvent | BackendError:
    """
    Parse one line of the server's report; an error states why the server ended.

    Raises:
        ProtocolError: the line is malformed.
    """
    try:
        fields = json.loads(line.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
        kind = fields.pop("event")
        needed, possible = _SHAPES[kind]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise _broken("no report") from exc
    if not needed.keys() <= fields.keys() <= needed.keys() | possible.keys():
        raise _broken("a report with other fields than its kind has")
    for name, value in fields.items():
        _check(name, value, {**needed, **possible}[name])
    if kind == "failed":
        return _failure(fields["reason"])
    attributes = {name: fields.pop(name) for name in _ATTRIBUTES if name in fields}
    if kind == "refused":
        fields["refused"] = fields.pop("operation")
    return FileEvent(kind, attributes=attributes, **fields)


def _check(name: str, value: object, kind: type) -> None:
    if type(value) is not kind:
        raise _broken("a report with a value of another kind")
    if isinstance(value, int) and not 0 <= value <= _LARGEST:
        raise _broken("a report with a number that cannot be")
    if isinstance(value, str):
        try:
            to_wire(value)
        except UnicodeEncodeError as exc:
            raise _broken("a report with text that stands for no bytes") from exc
        if name == "sha256" and not (len(value) == 64 and all(digit in "0123456789abcdef" for digit in value)):
            raise _broken("a report with a digest that is none")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name stands twice")
    return fields


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _broken(what: str) -> ProtocolError:
    return ProtocolError(
        SFTPCode.REPORT_BROKEN,
        f"the SFTP server sent {what}",
        user_message="The SFTP session broke.",
    )


def _failure(reason: str) -> BackendError:
    text = escaped(reason)
    return BackendError(
        SFTPCode.FAILED, f"the SFTP server ended: {text}", user_message=f"The SFTP server ended: {text}"
    )


def escaped(text: str) -> str:
    """*text* for one line of a log; non-printable characters are escaped."""
    shown = text.encode("utf-8", "backslashreplace").decode()
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in shown)


class FileReport:
    """Reads the server's report until it ends; logs the events and passes them to the channel."""

    def __init__(self, source: ByteReader, channel: SessionChannel, lost: Callable[[Exception], None]) -> None:
        """*lost* is called once if the report is malformed; reading then stops."""
        self._source = source
        self._channel = channel
        self._lost = lost
        self.failure: BackendError | None = None
        """Why the server ended, unless its client ended it."""
        self._reading = asyncio.create_task(self._read())

    async def finished(self) -> None:
        """Wait until the whole report has been read."""
        await asyncio.wait((self._reading,))

    async def stop(self) -> None:
        """Stop reading."""
        self._reading.cancel()
        await asyncio.wait((self._reading,))

    async def _read(self) -> None:
        try:
            async for line in lines(self._source):
                event = parse_event(line)
                if isinstance(event, BackendError):
                    self.failure = event
                else:
                    log(event)
                    await self._channel.file_event(event)
        except ConnectionError:
            return  # the link has ended, which is handled elsewhere
        except Exception as exc:  # noqa: BLE001  whatever it is, it costs this channel and is logged there
            self._lost(exc)


async def lines(source: ByteReader) -> AsyncIterator[bytes]:
    """
    Lines without line ends; an incomplete last line, whose writer was killed, is dropped.

    Raises:
        ProtocolError: a line is longer than :data:`MAX_LINE`.
    """
    rest, count = b"", 0
    while data := await source.read():
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            if len(line) > MAX_LINE:
                break
            yield line
            count += 1
            if count % _AT_ONCE == 0:
                await asyncio.sleep(0)
        else:
            if len(rest) <= MAX_LINE:
                continue
        raise _broken("a line that is too long")


def log(event: FileEvent) -> None:
    """Log an event at level debug."""
    if not logger.isEnabledFor(logging.DEBUG):
        return
    path = escaped(event.path)
    labels: dict[str, str | int | bool] = {"path": path}
    if event.target:
        labels["target"] = escaped(event.target)
    if event.operation == "file":
        labels |= {"read": event.read, "written": event.written, "created": event.created}
        if event.sha256:
            labels["sha256"] = event.sha256
        message = Event(SFTPCode.FILE, f"A file was closed: {path}", **labels)
    elif event.operation == "refused":
        labels |= {"operation": escaped(event.refused), "reason": escaped(event.reason)}
        message = Event(SFTPCode.REFUSED, f"A rule forbade {labels['operation']}: {path}", **labels)
    else:
        labels |= event.attributes
        message = Event(SFTPCode.OPERATION, f"{event.operation}: {path}", operation=event.operation, **labels)
    logger.debug(message)
