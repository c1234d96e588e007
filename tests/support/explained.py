"""Explanations of logins by a configuration of the test's own."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from containerssh.auth.hashes import hash_password
from containerssh.config.load import load
from containerssh.core.handlers import PublicKey
from containerssh.core.metadata import SocketAddress
from containerssh.explain.credentials import Question
from containerssh.explain.report import Explanation
from containerssh.explain.walk import explain

PASSWORD = hash_password("secret", "bcrypt")
HERE = SocketAddress("127.0.0.1", 0)


def in_file(folder: Path, config: dict[str, Any], users: dict[str, Any] | None = None) -> Path:
    """*config* in a file, *users* in another that it names."""
    path = folder / "config.yaml"
    if users is not None:
        (folder / "users.yaml").write_text(json.dumps({"users": users}))
        (folder / "users.yaml").chmod(0o600)
        config = {**config, "auth": {**config.get("auth", {}), "users": {"file": str(folder / "users.yaml")}}}
    path.write_text(json.dumps({"oci": {"image": "any"}, "backend": "oci", **config}))
    return path


async def told(path: Path, user: str = "alice", **more: Any) -> Explanation:
    """The explanation by the file *path*; *more* as of :class:`Question`."""
    return await explain(load(path).config, Question(username=user, address=more.pop("address", HERE), **more))


def public(key: Path) -> PublicKey:
    """The public key beside the private key *key*."""
    algorithm, encoded, *_ = key.with_suffix(".pub").read_text().split()
    return PublicKey(algorithm, base64.b64decode(encoded))


def steps(explanation: Explanation) -> list[tuple[str, str]]:
    """Names and outcomes, in their order."""
    return [(step.name, step.outcome) for step in explanation.steps]
