"""``config explain``: shows what a login would get, and why."""

from __future__ import annotations

import argparse
import asyncio
import base64
import binascii
import json
import sys
from getpass import getpass
from ipaddress import ip_address
from pathlib import Path

from containerssh.config.load import load
from containerssh.core.errors import ContainerSSHError, describe
from containerssh.core.handlers import AuthMethod, PublicKey
from containerssh.core.metadata import SocketAddress, Value
from containerssh.explain.credentials import Question, Terminal
from containerssh.explain.text import as_text
from containerssh.explain.walk import explain

REFUSED = 1
UNUSABLE = 2

_LARGEST = 64 * 1024


def report(parsed: argparse.Namespace) -> int:
    """
    Print the explanation; return 0 if the login would be accepted, 1 if not, 2 if the file or an argument is invalid.
    """
    try:
        question = _question(parsed)
        loaded = load(Path(parsed.file))
        told = asyncio.run(explain(loaded.config, question))
    except (ContainerSSHError, ValueError, OSError) as exc:
        print(f"containerssh: {describe(exc)}", file=sys.stderr)
        return UNUSABLE
    if parsed.format == "json":
        print(json.dumps(told.as_json(), indent=2))
    else:
        sys.stdout.write(as_text(told))
    return 0 if told.admitted else REFUSED


def _question(parsed: argparse.Namespace) -> Question:
    """
    The question from the command line.

    Raises:
        ValueError, OSError: an argument is invalid, or a file cannot be read.
    """
    methods = tuple(dict.fromkeys(AuthMethod(name) for name in parsed.method))
    password: bytes | None = None
    if parsed.password_file:
        password = _content(parsed.password_file).removesuffix(b"\n").removesuffix(b"\r")
    elif parsed.ask_password:
        password = getpass("Password: ").encode()
    prompts: Terminal | None = None
    if parsed.answers:
        prompts = Terminal(_content(parsed.answers).decode().splitlines())
    elif AuthMethod.KEYBOARD_INTERACTIVE in methods and sys.stdin.isatty():
        prompts = Terminal()
    return Question(
        username=parsed.user,
        address=SocketAddress.of(str(ip_address(parsed.address)), 0),
        methods=methods,
        password=password,
        key=_public_key(parsed.key) if parsed.key else None,
        prompts=prompts,
        service=parsed.tickets,
        metadata=dict(_entry(text) for text in parsed.metadata),
        client_version=parsed.client_version,
        webhooks=not parsed.no_webhooks,
    )


def _content(name: str) -> bytes:
    if name == "-":
        content = sys.stdin.buffer.read(_LARGEST + 1)
    else:
        with Path(name).open("rb") as file:
            content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ValueError(f"{name} has more than {_LARGEST >> 10} KiB")
    return content


def _public_key(name: str) -> PublicKey:
    """Read a public key or certificate in ``ssh-keygen``'s format."""
    words = _content(name).decode("ascii", "replace").split()
    try:
        blob = base64.b64decode(words[1], validate=True)
        length = int.from_bytes(blob[:4], "big")
        algorithm = blob[4 : 4 + length].decode("ascii")
    except (IndexError, binascii.Error, ValueError):
        algorithm, blob = "", b""
    if not blob or algorithm != words[0]:
        raise ValueError(f"{name} is not a public key such as ssh-keygen writes to a file that ends with .pub")
    return PublicKey(algorithm, blob)


def _entry(text: str) -> tuple[str, Value[str]]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError(f"--metadata takes NAME=VALUE, not {text!r}")
    return name, Value(value)
