"""The guest agents that this installation carries."""

from __future__ import annotations

import platform
from pathlib import Path

from containerssh.core.codes import AgentCode
from containerssh.core.errors import BackendError

_FOLDER = Path(__file__).parent / "bin"
_GO_NAMES = {"amd64": "amd64", "x86_64": "amd64", "x86-64": "amd64", "arm64": "arm64", "aarch64": "arm64"}


def agent_binary(architecture: str | None = None, *, direct: bool = False) -> Path:
    """
    The static Linux binary for *architecture*, by Go's name or the kernel's; None: this machine's.
    With *direct* it can dial back by TLS, and has nearly double the size.

    Raises:
        BackendError: there is none for it, or this installation lacks it.
    """
    wanted = (architecture or platform.machine()).lower()
    name = _GO_NAMES.get(wanted)
    if name is None:
        raise BackendError(AgentCode.BINARY_MISSING, f"there is no guest agent for the architecture {wanted!r}")
    path = _FOLDER / f"containerssh-agent-{'direct-' if direct else ''}linux-{name}"
    if not path.is_file():
        raise BackendError(
            AgentCode.BINARY_MISSING,
            f"the guest agent is missing: {path} (from a source tree, scripts/build-agent makes it)",
        )
    return path
