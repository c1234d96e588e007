"""The Engine API (https://docs.docker.com/reference/api/engine/), as far as a login needs it."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlencode

from containerssh.backends.docker.endpoint import Endpoint
from containerssh.backends.docker.engine_error import Cure, EngineError, count_request, counted, engine_words, refusal
from containerssh.backends.docker.frames import Attached, Demultiplexer
from containerssh.backends.docker.pool import Pool
from containerssh.backends.docker.pull import PullProgress
from containerssh.backends.docker.reference import ImageReference
from containerssh.backends.docker.wire import Head, Request, Wire, read_all
from containerssh.core.codes import DockerCode
from containerssh.core.errors import ProtocolError, describe
from containerssh.core.tasks import time_limit

OLDEST_API = (1, 41)
"""Docker 20.10, Podman 3.4 and later."""
NEWEST_API = (1, 48)
"""The newest version whose meaning is known here."""

_REPLY_LIMIT = 4 * 1024 * 1024
_LIST_LIMIT = 64 * 1024 * 1024
_ERROR_LIMIT = 64 * 1024
UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp"}
_AWAY = (OSError, EOFError, ssl.SSLError)


@dataclass(frozen=True)
class EngineInfo:
    """Who answers, as ``/_ping`` tells."""

    server: str
    api: tuple[int, int]

    @property
    def is_podman(self) -> bool:
        return self.server.startswith("Libpod/")

    def __str__(self) -> str:
        return f"{self.server or 'unknown engine'}, API {self.api[0]}.{self.api[1]}"


@dataclass(frozen=True)
class Image:
    """An image that the engine has."""

    id: str
    architecture: str
    """As Go names it: ``amd64``, ``arm64``."""


@dataclass(frozen=True)
class ContainerState:
    """How a container is."""

    running: bool
    exit_code: int
    error: str
    """Why the engine could not start it, in its words."""
    has_terminal: bool
    host: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The HostConfig that the engine took over."""
    runtime: str = ""
    """The runtime that Podman really uses; empty on Docker."""


@dataclass(frozen=True)
class Reply:
    """What the engine answered to *doing*; Podman's bodies are not always JSON."""

    status: int
    body: bytes = field(repr=False)
    code: DockerCode
    doing: str

    def object(self) -> dict[str, Any]:
        """
        The object that it says.

        Raises:
            EngineError: it says something else.
        """
        found: dict[str, Any] = _parse(self.body, dict, self.code, self.doing)
        return found


class EngineClient:
    """
    Talks to one engine; connections are kept and used again.

    Every method raises :class:`EngineError` with the code of what it was doing. Questions take no longer than
    *http_limit*; what may take longer (create, start, pull, remove) is limited by the caller. Close it at the end.
    """

    def __init__(self, endpoint: Endpoint, http_limit: timedelta) -> None:
        self.endpoint = endpoint
        self._http_limit = http_limit
        self._pool = Pool(endpoint)
        self._info: EngineInfo | None = None

    async def close(self) -> None:
        """Close the connections that nobody uses; those in use close with their requests."""
        self._pool.close()

    # -- the engine --------------------------------------------------------------------------------------

    async def ping(self) -> EngineInfo:
        """Ask for the engine's name and the versions of the API it speaks; refused if all of them are too old."""
        code, doing = DockerCode.ENGINE_UNAVAILABLE, "asking the engine"
        async with self._soon(code, doing):
            head, _ = await self._exchange(code, doing, Request("GET", "/_ping"))
        if head.status != 200:
            raise refusal(code, doing, head.status, b"")
        text = head.headers.get("api-version", "")
        major, _, minor = text.partition(".")
        if not (text.isascii() and major.isdigit() and minor.isdigit() and len(text) < 16):
            raise EngineError(code, f"{self.endpoint.url} does not answer like a Docker engine", status=200)
        info = EngineInfo(head.headers.get("server", "")[:100], (int(major), int(minor)))
        if info.api < OLDEST_API:
            needed = "{}.{}".format(*OLDEST_API)
            raise EngineError(code, f"the engine is too old ({info}); API {needed} is needed", status=200)
        return info

    async def info(self) -> EngineInfo:
        """As :meth:`ping`, asked once."""
        if self._info is None:
            self._info = await self.ping()
        return self._info

    # -- images ------------------------------------------------------------------------------------------

    async def inspect_image(self, image: ImageReference) -> Image | None:
        """The image, if the engine has it."""
        path = f"/images/{quote(image.text, safe='/:@')}/json"
        code, doing = DockerCode.IMAGE_LISTING_FAILED, f"looking for the image {image.text}"
        async with self._soon(code, doing):
            answer = await self._call(code, doing, "GET", path, accept=(404,))
        if answer.status == 404:
            return None
        reply = answer.object()
        return Image(_text(reply, "Id"), _text(reply, "Architecture"))

    async def pull(
        self,
        image: ImageReference,
        *,
        platform: str,
        credentials: str,
        progress: Callable[[PullProgress], None],
    ) -> None:
        """
        Pull *image*; returns when the engine has all of it.

        *credentials* is the value of ``X-Registry-Auth``, or empty. *progress* is called as messages arrive.
        """
        doing, code = f"pulling the image {image.text}", DockerCode.IMAGE_PULL_FAILED
        query = {"fromImage": image.repository, "tag": image.tag}
        if platform:
            query["platform"] = platform
        headers = {"X-Registry-Auth": credentials} if credentials else {}
        request = Request("POST", await self._target("/images/create", query), headers)
        report = PullProgress()
        async with self._stream(code, doing, request) as (_, pieces):
            async for piece in pieces:
                report.feed(piece)
                progress(report)
            report.end()
        if report.error:
            # Podman has tried three times by itself.
            final = (await self.info()).is_podman
            cure = Cure.NOTHING if final else _cure_of_pull(report.error)
            raise counted(EngineError(code, f"{doing} failed: {report.error}", status=200, cure=cure))

    async def import_image(self, name: str, archive: bytes) -> None:
        """Make an image called *name* of the root file system in *archive* (tar)."""
        doing, code = f"making the image {name}", DockerCode.IMAGE_PULL_FAILED
        target = await self._target("/images/create", {"fromSrc": "-", "repo": name})
        request = Request("POST", target, {"Content-Type": "application/x-tar"}, archive)
        report = PullProgress()
        async with self._stream(code, doing, request) as (_, pieces):
            async for piece in pieces:
                report.feed(piece)
            report.end()
        if report.error:
            raise counted(EngineError(code, f"{doing} failed: {report.error}", status=200))

    # -- containers --------------------------------------------------------------------------------------

    async def create_container(self, body: Mapping[str, Any], *, name: str, platform: str) -> str:
        """Create a container; its id."""
        query = {key: value for key, value in (("name", name), ("platform", platform)) if value}
        answer = await self._call(
            DockerCode.CONTAINER_CREATE_FAILED, "creating the container", "POST", "/containers/create", query, body
        )
        return identifier(answer.object(), DockerCode.CONTAINER_CREATE_FAILED)

    async def start_container(self, container: str) -> None:
        """Start it; returns when its main program runs (or could not be run: that is an error)."""
        code, doing = DockerCode.CONTAINER_START_FAILED, "starting the container"
        await self._call(code, doing, "POST", f"/containers/{container}/start", accept=(304,))

    async def inspect_container(self, container: str) -> ContainerState | None:
        """How it is; None when there is no such container."""
        code, doing = DockerCode.CONTAINER_START_FAILED, "looking at the container"
        async with self._soon(code, doing):
            answer = await self._call(code, doing, "GET", f"/containers/{container}/json", accept=(404,))
        if answer.status == 404:
            return None
        reply = answer.object()
        state, config, host = reply.get("State"), reply.get("Config"), reply.get("HostConfig")
        if not isinstance(state, dict) or not isinstance(config, dict):
            raise EngineError(DockerCode.PROTOCOL_ERROR, "the engine described a container without its state")
        exit_code = state.get("ExitCode")
        return ContainerState(
            state.get("Running") is True,
            exit_code if isinstance(exit_code, int) else -1,
            _text(state, "Error")[:1000],
            config.get("Tty") is True,
            host if isinstance(host, dict) else {},
            _text(reply, "OCIRuntime"),
        )

    async def container_output(self, container: str, *, terminal: bool, lines: int = 20) -> str:
        """The last lines that it wrote; empty when they were not kept."""
        query = {"stdout": "1", "stderr": "1", "tail": str(lines)}
        request = Request("GET", await self._target(f"/containers/{container}/logs", query))
        data = bytearray()
        frames = Demultiplexer()
        async with self._stream(DockerCode.CONTAINER_START_FAILED, "reading the output", request) as (_, pieces):
            async for piece in pieces:
                for part in [piece] if terminal else [part for _, part in frames.feed(piece)]:
                    data += part
                del data[:-_ERROR_LIMIT]
        return data.decode("utf-8", "replace")

    async def remove_container(self, container: str) -> bool:
        """Kill and remove it with its anonymous volumes; False when the engine is already at it. Gone is removed."""
        answer = await self._call(
            DockerCode.CONTAINER_REMOVE_FAILED,
            "removing the container",
            "DELETE",
            f"/containers/{container}",
            {"force": "1", "v": "1"},
            accept=(404, 409),
        )
        return answer.status != 409

    async def list_containers(self, label: str) -> dict[str, Mapping[str, str]]:
        """Containers with *label* (``name`` or ``name=value``), running or not: their ids and their labels."""
        query = {"all": "1", "filters": json.dumps({"label": [label]})}
        doing, code = "listing containers", DockerCode.CONTAINER_REMOVE_FAILED
        async with self._soon(code, doing):
            request = Request("GET", await self._target("/containers/json", query))
            head, data = await self._exchange(code, doing, request, limit=_LIST_LIMIT)
        if head.status != 200:
            raise refusal(code, doing, head.status, data)
        found: dict[str, Mapping[str, str]] = {}
        for entry in _parse(data, list, code, doing):
            labels = entry.get("Labels") if isinstance(entry, dict) else None
            found[identifier(entry, code)] = labels if isinstance(labels, dict) else {}
        return found

    async def put_archive(self, container: str, path: str, archive: bytes) -> None:
        """Unpack *archive* (tar) below *path* in the container, which need not run."""
        doing, code = "putting files into the container", DockerCode.AGENT_KEPT_OUT
        target = await self._target(f"/containers/{container}/archive", {"path": path})
        request = Request("PUT", target, {"Content-Type": "application/x-tar"}, archive)
        head, data = await self._exchange(code, doing, request)
        if head.status != 200:
            raise refusal(code, doing, head.status, data)

    async def attach_container(self, container: str, on_error: Callable[[bytes], None]) -> Attached:
        """The streams of its main program, which has no terminal. Close the result."""
        query = {"stream": "1", "stdin": "1", "stdout": "1", "stderr": "1"}
        target = await self._target(f"/containers/{container}/attach", query)
        request = Request("POST", target, UPGRADE)
        wire = await self._hijacked(DockerCode.CONTAINER_ATTACH_FAILED, "attaching to the container", request)
        return Attached(wire, on_error)

    # -- programs beside the main one --------------------------------------------------------------------

    async def create_exec(self, container: str, command: tuple[str, ...], *, attached: bool) -> str:
        """Prepare *command* in a running container; its id."""
        body: dict[str, Any] = {"Cmd": list(command)}
        if attached:
            body |= {"AttachStdin": True, "AttachStdout": True, "AttachStderr": True}
        answer = await self._call(
            DockerCode.EXEC_CREATE_FAILED,
            "preparing the agent's start",
            "POST",
            f"/containers/{container}/exec",
            body=body,
        )
        return identifier(answer.object(), DockerCode.EXEC_CREATE_FAILED)

    async def start_exec(self, exec_id: str) -> None:
        """Start it detached."""
        await self._call(
            DockerCode.EXEC_ATTACH_FAILED,
            "starting the agent",
            "POST",
            f"/exec/{exec_id}/start",
            body={"Detach": True, "Tty": False},
        )

    async def attach_exec(self, exec_id: str, on_error: Callable[[bytes], None]) -> Attached:
        """Start it and get its streams. Close the result."""
        body = json.dumps({"Detach": False, "Tty": False}).encode()
        headers = {**UPGRADE, "Content-Type": "application/json"}
        request = Request("POST", await self._target(f"/exec/{exec_id}/start"), headers, body)
        wire = await self._hijacked(DockerCode.EXEC_ATTACH_FAILED, "starting the agent", request)
        return Attached(wire, on_error)

    # -- exchanges ---------------------------------------------------------------------------------------

    async def _target(self, path: str, query: Mapping[str, str] | None = None) -> str:
        major, minor = min((await self.info()).api, NEWEST_API)
        return f"/v{major}.{minor}{path}" + (f"?{urlencode(query)}" if query else "")

    async def _call(
        self,
        code: DockerCode,
        doing: str,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        *,
        accept: tuple[int, ...] = (),
    ) -> Reply:
        """The answer, whose status is 2xx or one of *accept*."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        data = json.dumps(body).encode() if body is not None else b""
        head, reply = await self._exchange(code, doing, Request(method, await self._target(path, query), headers, data))
        if head.status not in accept and not 200 <= head.status < 300:
            raise self._refused(code, doing, head.status, reply)
        return Reply(head.status, reply, code, doing)

    async def _exchange(
        self, code: DockerCode, doing: str, request: Request, *, limit: int = _REPLY_LIMIT
    ) -> tuple[Head, bytes]:
        async with self._stream(code, doing, request, answer_errors=False) as (head, pieces):
            return head, await read_all(pieces, limit)

    @asynccontextmanager
    async def _stream(
        self, code: DockerCode, doing: str, request: Request, *, answer_errors: bool = True
    ) -> AsyncIterator[tuple[Head, AsyncIterator[bytes]]]:
        """A request and the pieces of its answer; with *answer_errors* only a good one is let through."""
        wire: Wire | None = None
        count_request(code)
        try:
            wire, head = await self._pool.ask(request)
            async with aclosing(wire.body(head, request.method)) as pieces:
                if answer_errors and not 200 <= head.status < 300:
                    raise self._refused(code, doing, head.status, await read_all(pieces, _ERROR_LIMIT))
                yield head, pieces
            self._pool.give_back(wire, head)
            wire = None
        except _AWAY as exc:
            self._info = None
            raise counted(EngineError(code, f"{doing}: {self._away(exc)}", cure=Cure.WAIT)) from exc
        except ProtocolError as exc:
            raise counted(EngineError(code, f"{doing}: {exc.explanation}")) from exc
        finally:
            if wire is not None:
                wire.abort()

    async def _hijacked(self, code: DockerCode, doing: str, request: Request) -> Wire:
        """The connection of *request*, which is nobody else's from here on; whoever gets it aborts it."""
        wire: Wire | None = None
        count_request(code)
        try:
            wire, head = await self._pool.ask(request, kept=False)
            if head.status not in (101, 200):
                body = await read_all(wire.body(head, request.method), _ERROR_LIMIT)
                raise self._refused(code, doing, head.status, body)
            opened, wire = wire, None
            return opened
        except _AWAY as exc:
            raise counted(EngineError(code, f"{doing}: {self._away(exc)}", cure=Cure.WAIT)) from exc
        except ProtocolError as exc:
            raise counted(EngineError(code, f"{doing}: {exc.explanation}")) from exc
        finally:
            if wire is not None:
                wire.abort()

    @asynccontextmanager
    async def _soon(self, code: DockerCode, doing: str) -> AsyncIterator[None]:
        def late() -> EngineError:
            text = f"{doing}: no answer within {self._http_limit.total_seconds():g} s"
            return counted(EngineError(code, text, cure=Cure.WAIT))

        async with time_limit(self._http_limit, late):
            yield

    def _refused(self, code: DockerCode, doing: str, status: int, body: bytes) -> EngineError:
        if status == 400 and "client version" in engine_words(body):
            self._info = None
        return counted(refusal(code, doing, status, body))

    def _away(self, exc: BaseException) -> str:
        return f"the engine at {self.endpoint.url} is not available ({describe(exc)})"


def _parse(data: bytes, kind: type, code: DockerCode, doing: str) -> Any:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, kind):
        raise EngineError(code, f"{doing}: the engine's answer cannot be understood", status=200)
    return value


def _text(reply: Mapping[str, Any], name: str) -> str:
    value = reply.get(name)
    return value if isinstance(value, str) else ""


def identifier(reply: Any, code: DockerCode) -> str:
    """An id fit for a path."""
    value = _text(reply, "Id") if isinstance(reply, dict) else ""
    if not (0 < len(value) <= 128 and value.isascii() and value.isalnum()):
        raise EngineError(code, "the engine's answer has no proper id", status=200)
    return value


def _cure_of_pull(words: str) -> Cure:
    lasting = ("not found", "no basic auth", "unauthorized", "denied", "manifest unknown", "does not exist", "invalid")
    return Cure.NOTHING if any(word in words.lower() for word in lasting) else Cure.FEW_TRIES
