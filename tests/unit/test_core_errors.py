"""Errors tell the administrator what happened, once."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from containerssh.core.codes import AuthCode, SSHCode
from containerssh.core.errors import BackendError, ConfigError, describe, reason_of


def _caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


def test_a_cause_follows_in_brackets() -> None:
    error = _caused(BackendError(SSHCode.START_FAILED, "cannot listen"), ValueError("no such port"))
    assert describe(error) == "cannot listen (no such port)"


def test_a_cause_that_the_text_names_already_is_not_repeated() -> None:
    inner = _caused(BackendError(SSHCode.START_FAILED, "not there: connection refused"), OSError("connection refused"))
    error = _caused(ConfigError(AuthCode.CONFIG_ERROR, "cannot start"), inner)
    assert describe(error) == "cannot start (not there: connection refused)"


def test_the_event_says_what_the_description_says() -> None:
    error = BackendError(SSHCode.START_FAILED, "cannot listen", address="[::1]:22")
    error.__cause__ = OSError(98, "Address already in use")
    event = error.event()
    assert (event.text, event.labels) == ("cannot listen (Address already in use)", {"address": "[::1]:22"})


@pytest.mark.parametrize("error", [OSError(), ValueError(), TimeoutError()])
def test_an_error_without_words_has_at_least_a_name(error: Exception) -> None:
    assert describe(error) == type(error).__name__


async def test_a_connection_that_fails_is_told_with_the_systems_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(OSError, match="Connect call failed") as caught:
        await asyncio.open_connection("127.0.0.1", port)
    assert describe(caught.value) == f"Connection refused ('127.0.0.1', {port})"
    several = OSError(f"Multiple exceptions: {caught.value}, [Errno 113] Connect call failed ('::1', 1, 0, 0)")
    assert describe(several) == (
        f"Multiple exceptions: Connection refused ('127.0.0.1', {port}), No route to host ('::1', 1, 0, 0)"
    )


def test_an_error_of_the_system_is_told_without_its_number(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file") as caught:
        (tmp_path / "gone").open()
    assert describe(caught.value) == f"No such file or directory: {tmp_path / 'gone'}"
    assert reason_of(caught.value) == "No such file or directory"


def test_a_group_says_what_its_errors_say() -> None:
    ended = BackendError(SSHCode.START_FAILED, "it ended")
    assert describe(_caused(ended, ExceptionGroup("unhandled", [BackendError(SSHCode.START_FAILED, "it ended")]))) == (
        "it ended"
    )
    assert describe(ExceptionGroup("unhandled", [ValueError("one"), ExceptionGroup("", [KeyError("two")])])) == (
        "one; 'two'"
    )


def test_an_error_among_its_own_causes_is_told_once() -> None:
    ended = BackendError(SSHCode.START_FAILED, "it ended")
    assert describe(_caused(ended, ExceptionGroup("unhandled", [ended]))) == "it ended"
    assert describe(_caused(ended, ExceptionGroup("unhandled", [ended, ValueError("one")]))) == "it ended (one)"
