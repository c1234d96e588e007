"""A users file that tests write, and who is judged by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import argon2
import pytest

from containerssh.core.codes import AuthCode
from containerssh.core.errors import AuthFailed
from containerssh.core.handlers import PublicKey
from containerssh.core.messages import Event
from containerssh.core.metadata import AuthAttempt, SocketAddress

HASH = argon2.PasswordHasher(1, 8, 1).hash("right")

ATTEMPT = AuthAttempt(SocketAddress("192.0.2.7", 4711), "0" * 32, username="alice")


def key(number: int = 0) -> PublicKey:
    return PublicKey("ssh-ed25519", b"\0\0\0\x0bssh-ed25519\0\0\0 " + bytes([number]) * 32)


def write(path: Path, everyone: dict[str, Any]) -> None:
    """As an editor does: a new file in place of the old one."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"users": everyone}))
    fresh.chmod(0o600)
    fresh.replace(path)


def overwrite(path: Path, content: str) -> None:
    """In place, for the server's user alone."""
    path.write_text(content)
    path.chmod(0o600)


def events(caplog: pytest.LogCaptureFixture, code: AuthCode) -> list[str]:
    return [str(r.msg) for r in caplog.records if isinstance(r.msg, Event) and r.msg.code == code]


async def refused(attempted: Any) -> str:
    with pytest.raises(AuthFailed) as caught:
        await attempted
    return caught.value.explanation
