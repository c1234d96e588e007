"""What a child of the helper for Kerberos answers: it has read what strangers sent, and may be theirs by now."""

from __future__ import annotations

import json
import socket
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.auth.helper import Child
from containerssh.auth.kerberos.helper import Attempt, decode
from containerssh.auth.worker import PACKET
from containerssh.core.errors import AuthFailed, AuthUnavailable

WORDS = st.sampled_from(["ok", "refused", "unavailable", "token", "complete", "failed", "principal", "tickets"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=8,
)


async def answered(said: bytes, *, follows: bool = False) -> None:
    """Read *said* as an answer, with all that the authenticator takes out of one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        theirs.send(said)
        child = Attempt(Child(ours, "Kerberos"))
        answer = await (child.result() if follows else child.ask(do="accept"))
        for name in ("token", "tickets"):
            decode(answer, name)


@pytest.mark.parametrize("follows", [False, True])
@pytest.mark.parametrize(
    "said",
    [
        b"[" * (PACKET - 1),
        b'{"ok":' * 20_000,
        b"\xff",
        b"\0",
        b"{}",
        b"[]",
        b"1" * 5000,
        b'{"ok": {"principal": 5}}',
        b'{"ok": {"principal": "alice@HOME", "tickets": "\\u00e9"}}',
        b'{"ok": {"principal": "alice@HOME", "tickets": {"a": 1}}}',
        b'{"token": "\\ud800", "complete": true}',
        b'{"token": "=", "failed": true}',
    ],
    ids=lambda said: said[:24].decode("latin-1") if isinstance(said, bytes) else "",
)
async def test_nonsense_is_no_judgement(said: bytes, follows: bool) -> None:
    with pytest.raises(AuthUnavailable):
        await answered(said, follows=follows)


@given(VALUES)
async def test_any_answer_is_one_or_the_end_of_the_attempt(value: object) -> None:
    with suppress(AuthFailed, AuthUnavailable):
        await answered(json.dumps(value).encode())
