"""Errors, classified by who can act on them.

Every error carries a message code for the log (``observability.md`` section 5), a text for the administrator, labels,
and a ``user_message``, which is the only part that a client may see.
"""

from __future__ import annotations

import os
import re

from containerssh.core.messages import Code, Event, LabelValue


class ContainerSSHError(Exception):
    """The base of the errors below; raise one of those."""

    default_user_message = "The request failed."

    def __init__(
        self,
        code: Code,
        explanation: str,
        /,
        *,
        user_message: str | None = None,
        **labels: LabelValue,
    ) -> None:
        super().__init__(explanation)
        self.code = code
        self.explanation = explanation
        self.user_message = user_message or self.default_user_message
        self.labels = labels

    def event(self) -> Event:
        """The error as a log message, its cause in brackets, as upstream writes it."""
        return Event(self.code, describe(self), **self.labels)

    def __str__(self) -> str:
        return self.explanation


class ConfigError(ContainerSSHError):
    """The configuration file or a config server's response is invalid."""

    default_user_message = "Failed to initialize SSH session: the server's configuration for this login is not valid."


class AuthFailed(ContainerSSHError):
    """The credentials are wrong."""

    default_user_message = "Permission denied."


class AuthUnavailable(ContainerSSHError):
    """The credentials could not be checked."""

    default_user_message = "Authentication is not available at the moment."


class BackendError(ContainerSSHError):
    """The container or its engine failed."""

    default_user_message = "Failed to initialize SSH session."


class Rejected(ContainerSSHError):
    """The policy forbids the request; repeating it is useless."""

    default_user_message = "The request was refused by the server's policy."


class ProtocolError(ContainerSSHError):
    """A peer (client, guest agent, engine, webhook) violated its protocol."""

    default_user_message = "Protocol error."


_ASYNCIO_CONNECT = re.compile(r"(?:\[Errno (\d{1,4})\] )?Connect call failed (\([^()]{0,100}\))")
"""What asyncio's create_connection says instead of the system's reason; with several addresses, once for each."""


def describe(error: BaseException) -> str:
    """
    One line about *error* for a log, never empty: many exceptions have no text of their own. Its cause follows in
    brackets, unless the text says the same already.
    """
    return _describe(error, frozenset())


def _describe(error: BaseException, above: frozenset[int]) -> str:
    """The line; *above*: the ids of the errors that lead to this one, since an error can be among its own causes."""
    if id(error) in above:
        return ""
    above |= {id(error)}
    if isinstance(error, BaseExceptionGroup):
        texts = dict.fromkeys(_describe(one, above) for one in error.exceptions)
        return "; ".join(filter(None, texts))
    if not isinstance(error, ContainerSSHError):
        return _plain(error) or type(error).__name__
    cause = "" if error.__cause__ is None else _describe(error.__cause__, above)
    return f"{error.explanation} ({cause})" if cause and cause not in error.explanation else error.explanation


def reason_of(error: BaseException) -> str:
    """The text of *error*; of an OSError without errno and file name, which the caller adds."""
    text: str = getattr(error, "strerror", None) or str(error)

    def reason(found: re.Match[str]) -> str:
        errno = found[1] or getattr(error, "errno", None)
        return f"{os.strerror(int(errno))} {found[2]}" if errno else found[0]

    return _ASYNCIO_CONNECT.sub(reason, text)


def _plain(error: BaseException) -> str:
    if isinstance(error, OSError) and type(error).__str__ is OSError.__str__ and error.filename is not None:
        return f"{reason_of(error)}: {error.filename}"
    return reason_of(error) if type(error).__str__ is OSError.__str__ else str(error)
