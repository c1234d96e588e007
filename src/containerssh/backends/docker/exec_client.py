"""The Engine API for programs: execs, and the streams, signals and state of execs and main programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from containerssh.backends.docker.answers import identifier
from containerssh.backends.docker.client import EngineClient
from containerssh.backends.docker.engine_error import refusal
from containerssh.backends.docker.exchanges import UPGRADE
from containerssh.backends.docker.wire import Request, Wire
from containerssh.core.codes import DockerCode
from containerssh.core.requests import WindowSize

CONSOLE_SIZE_API = (1, 42)
"""The first API version in which an exec's terminal size can be set before it starts."""


@dataclass(frozen=True)
class End:
    """The state of a program; *exit_code* is valid once *running* is false."""

    running: bool
    exit_code: int


class ExecClient(EngineClient):
    """The requests that plain execs need in addition to those of the guest agent; same errors and limits."""

    async def create_program(
        self,
        container: str,
        command: tuple[str, ...],
        *,
        env: Mapping[str, str],
        folder: str | None = None,
        size: WindowSize | None = None,
        terminal: bool = False,
    ) -> str:
        """Create an exec of *command* in a running container, with its three streams attached; return the exec's id."""
        body: dict[str, Any] = {
            "Cmd": list(command),
            "Env": [f"{name}={value}" for name, value in env.items()],
            "AttachStdin": True,
            "AttachStdout": True,
            "AttachStderr": True,
            "Tty": terminal,
        }
        if folder:
            body["WorkingDir"] = folder
        if await self._takes_size(size):
            body["ConsoleSize"] = _console_size(size)
        code, doing = DockerCode.EXEC_CREATE_FAILED, "preparing the program"
        async with self._soon(code, doing):
            answer = await self._call(code, doing, "POST", f"/containers/{container}/exec", body=body)
        return identifier(answer.object(), code)

    async def start_program(self, exec_id: str, *, size: WindowSize | None = None, terminal: bool = False) -> Wire:
        """
        Start the exec; return the connection with its streams. Without a terminal, the output is multiplexed in frames.
        Abort the connection at the end, which does not end the program.
        """
        body: dict[str, Any] = {"Detach": False, "Tty": terminal}
        if await self._takes_size(size):
            body["ConsoleSize"] = _console_size(size)
        target = await self._target(f"/exec/{exec_id}/start")
        headers = {**UPGRADE, "Content-Type": "application/json"}
        request = Request("POST", target, headers, json.dumps(body).encode())
        return await self._hijacked(DockerCode.EXEC_ATTACH_FAILED, "starting the program", request)

    async def resize_program(self, exec_id: str, size: WindowSize) -> None:
        """Set the size of the exec's terminal."""
        await self._resize(f"/exec/{exec_id}/resize", size)

    async def inspect_program(self, exec_id: str) -> End:
        """The state of the exec."""
        code, doing = DockerCode.EXIT_CODE_FAILED, "asking for the program's exit code"
        async with self._soon(code, doing):
            reply = (await self._call(code, doing, "GET", f"/exec/{exec_id}/json")).object()
        exit_code = reply.get("ExitCode")
        known = isinstance(exit_code, int) and not isinstance(exit_code, bool)
        # While it runs, Podman reports -1 and Docker null.
        return End(reply.get("Running") is True or not known, exit_code if isinstance(exit_code, int) else -1)

    async def attach_main(self, container: str) -> Wire:
        """Attach to the streams of a container's main program, like :meth:`start_program`."""
        query = {"stream": "1", "stdin": "1", "stdout": "1", "stderr": "1"}
        request = Request("POST", await self._target(f"/containers/{container}/attach", query), UPGRADE)
        return await self._hijacked(DockerCode.CONTAINER_ATTACH_FAILED, "attaching to the container", request)

    async def resize_main(self, container: str, size: WindowSize) -> None:
        """Set the size of a main program's terminal."""
        await self._resize(f"/containers/{container}/resize", size)

    async def signal_main(self, container: str, name: str) -> None:
        """Send the signal *name*, without ``SIG``, to a container's main program."""
        code, doing = DockerCode.CONTAINER_SIGNAL_FAILED, f"signal {name}"
        async with self._soon(code, doing):
            await self._call(code, doing, "POST", f"/containers/{container}/kill", {"signal": name})

    async def main_user(self, container: str) -> str:
        """The user of the main program, as the configuration or the image names it; empty for root."""
        code, doing = DockerCode.CONTAINER_START_FAILED, "looking at the container"
        async with self._soon(code, doing):
            answer = await self._call(code, doing, "GET", f"/containers/{container}/json")
        config = answer.object().get("Config")
        user = config.get("User") if isinstance(config, dict) else None
        return user if isinstance(user, str) else ""

    async def has_file(self, container: str, path: str) -> bool:
        """Whether *path* exists in the container, which need not be running."""
        code, doing = DockerCode.CONTAINER_START_FAILED, f"looking for {path} in the container"
        async with self._soon(code, doing):
            target = await self._target(f"/containers/{container}/archive", {"path": path})
            head, _ = await self._exchange(code, doing, Request("HEAD", target))
        if head.status not in (200, 404):
            raise refusal(code, doing, head.status, b"")
        return head.status == 200

    async def _resize(self, path: str, size: WindowSize) -> None:
        code, doing = DockerCode.EXEC_RESIZE_FAILED, "setting the terminal's size"
        rows, columns = _console_size(size)
        async with self._soon(code, doing):
            await self._call(code, doing, "POST", path, {"h": str(rows), "w": str(columns)})

    async def _takes_size(self, size: WindowSize | None) -> bool:
        return size is not None and (await self.info()).api >= CONSOLE_SIZE_API


def _console_size(size: WindowSize | None) -> list[int]:
    """Rows and columns in the engine's format; 0 means unknown."""
    assert size is not None
    return [min(max(size.rows, 0), 0xFFFF), min(max(size.columns, 0), 0xFFFF)]
