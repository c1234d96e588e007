"""The Engine API (https://docs.docker.com/reference/api/engine/): the requests that a login needs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from containerssh.backends.docker.answers import ContainerState, Image, gateways_in, identifier, parse, text_of
from containerssh.backends.docker.engine_error import Cure, EngineError, counted, refusal
from containerssh.backends.docker.exchanges import UPGRADE, Exchanges
from containerssh.backends.docker.frames import Attached, Demultiplexer
from containerssh.backends.docker.pull import PullProgress
from containerssh.backends.docker.reference import ImageReference
from containerssh.backends.docker.wire import Request
from containerssh.core.codes import DockerCode

_LIST_LIMIT = 64 * 1024 * 1024
_OUTPUT_LIMIT = 64 * 1024


class EngineClient(Exchanges):
    """
    A client of one engine.

    Every method raises :class:`EngineError` with the code of its operation. The caller limits the time of operations
    that may take long (create, start, pull, remove).
    """

    # -- images ------------------------------------------------------------------------------------------

    async def inspect_image(self, image: ImageReference) -> Image | None:
        """Information about the image; None if the engine does not have it."""
        path = f"/images/{quote(image.text, safe='/:@')}/json"
        code, doing = DockerCode.IMAGE_LISTING_FAILED, f"looking for the image {image.text}"
        async with self._soon(code, doing):
            answer = await self._call(code, doing, "GET", path, accept=(404,))
        if answer.status == 404:
            return None
        reply = answer.object()
        return Image(text_of(reply, "Id"), text_of(reply, "Architecture"))

    async def pull(
        self,
        image: ImageReference,
        *,
        platform: str,
        credentials: str,
        progress: Callable[[PullProgress], None],
    ) -> None:
        """
        Pull *image*; returns when the pull is complete.

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
            # Podman itself retries three times.
            final = (await self.info()).is_podman
            cure = Cure.NOTHING if final else _cure_of_pull(report.error)
            raise counted(EngineError(code, f"{doing} failed: {report.error}", status=200, cure=cure))

    async def import_image(self, name: str, archive: bytes) -> None:
        """Create the image *name* from the root file system in *archive* (tar)."""
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
        """Create a container; return its id."""
        query = {key: value for key, value in (("name", name), ("platform", platform)) if value}
        answer = await self._call(
            DockerCode.CONTAINER_CREATE_FAILED, "creating the container", "POST", "/containers/create", query, body
        )
        return identifier(answer.object(), DockerCode.CONTAINER_CREATE_FAILED)

    async def start_container(self, container: str) -> None:
        """Start the container; returns when its main program runs. It is an error if the program cannot be run."""
        code, doing = DockerCode.CONTAINER_START_FAILED, "starting the container"
        await self._call(code, doing, "POST", f"/containers/{container}/start", accept=(304,))

    async def inspect_container(self, container: str) -> ContainerState | None:
        """The state of the container; None if it does not exist."""
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
            text_of(state, "Error")[:1000],
            config.get("Tty") is True,
            host if isinstance(host, dict) else {},
            text_of(reply, "OCIRuntime"),
            gateways_in(reply.get("NetworkSettings")),
        )

    async def container_output(self, container: str, *, terminal: bool, lines: int = 20) -> str:
        """The last lines of the container's output; empty if it is not logged."""
        query = {"stdout": "1", "stderr": "1", "tail": str(lines)}
        request = Request("GET", await self._target(f"/containers/{container}/logs", query))
        data = bytearray()
        frames = Demultiplexer()
        async with self._stream(DockerCode.CONTAINER_START_FAILED, "reading the output", request) as (_, pieces):
            async for piece in pieces:
                for part in [piece] if terminal else [part for _, part in frames.feed(piece)]:
                    data += part
                del data[:-_OUTPUT_LIMIT]
        return data.decode("utf-8", "replace")

    async def remove_container(self, container: str) -> bool:
        """
        Kill and remove the container and its anonymous volumes; True if it is gone, False if a removal is already in
        progress.
        """
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
        """The containers with *label* (``name`` or ``name=value``), running or not: ids and labels."""
        query = {"all": "1", "filters": json.dumps({"label": [label]})}
        doing, code = "listing containers", DockerCode.CONTAINER_REMOVE_FAILED
        async with self._soon(code, doing):
            request = Request("GET", await self._target("/containers/json", query))
            head, data = await self._exchange(code, doing, request, limit=_LIST_LIMIT)
        if head.status != 200:
            raise refusal(code, doing, head.status, data)
        found: dict[str, Mapping[str, str]] = {}
        for entry in parse(data, list, code, doing):
            labels = entry.get("Labels") if isinstance(entry, dict) else None
            found[identifier(entry, code)] = labels if isinstance(labels, dict) else {}
        return found

    async def put_archive(self, container: str, path: str, archive: bytes) -> None:
        """Unpack *archive* (tar) below *path* in the container, which need not be running."""
        doing, code = "putting files into the container", DockerCode.AGENT_KEPT_OUT
        target = await self._target(f"/containers/{container}/archive", {"path": path})
        request = Request("PUT", target, {"Content-Type": "application/x-tar"}, archive)
        head, data = await self._exchange(code, doing, request)
        if head.status != 200:
            raise refusal(code, doing, head.status, data)

    async def attach_container(self, container: str, on_error: Callable[[bytes], None]) -> Attached:
        """Attach to the main program, which has no terminal. The caller closes the result."""
        query = {"stream": "1", "stdin": "1", "stdout": "1", "stderr": "1"}
        target = await self._target(f"/containers/{container}/attach", query)
        request = Request("POST", target, UPGRADE)
        wire = await self._hijacked(DockerCode.CONTAINER_ATTACH_FAILED, "attaching to the container", request)
        return Attached(wire, on_error)

    # -- programs beside the main one --------------------------------------------------------------------

    async def create_exec(self, container: str, command: tuple[str, ...], *, attached: bool) -> str:
        """Create an exec of *command* in a running container; return its id."""
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
        """Start the exec detached."""
        await self._call(
            DockerCode.EXEC_ATTACH_FAILED,
            "starting the agent",
            "POST",
            f"/exec/{exec_id}/start",
            body={"Detach": True, "Tty": False},
        )

    async def attach_exec(self, exec_id: str, on_error: Callable[[bytes], None]) -> Attached:
        """Start the exec and attach to its streams. The caller closes the result."""
        body = json.dumps({"Detach": False, "Tty": False}).encode()
        headers = {**UPGRADE, "Content-Type": "application/json"}
        request = Request("POST", await self._target(f"/exec/{exec_id}/start"), headers, body)
        wire = await self._hijacked(DockerCode.EXEC_ATTACH_FAILED, "starting the agent", request)
        return Attached(wire, on_error)


def _cure_of_pull(words: str) -> Cure:
    lasting = ("not found", "no basic auth", "unauthorized", "denied", "manifest unknown", "does not exist", "invalid")
    return Cure.NOTHING if any(word in words.lower() for word in lasting) else Cure.FEW_TRIES
