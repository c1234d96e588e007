"""What can go wrong, told apart by who can do something about it.

Every error carries a message code for the log (``observability.md`` section 5), a text for the administrator, labels,
and a ``user_message``: the only part of it that a client may ever see.
"""

from __future__ import annotations

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
    """The administrator's configuration, or a config server's answer, cannot be used."""

    default_user_message = "Failed to initialize SSH session: the server's configuration for this login is not valid."


class AuthFailed(ContainerSSHError):
    """The credentials were judged and found wrong."""

    default_user_message = "Permission denied."


class AuthUnavailable(ContainerSSHError):
    """Nobody could be asked whether the credentials are right."""

    default_user_message = "Authentication is not available at the moment."


class BackendError(ContainerSSHError):
    """The container, or what runs it, failed."""

    default_user_message = "Failed to initialize SSH session."


class Rejected(ContainerSSHError):
    """Policy says no; the same request will be refused again."""

    default_user_message = "The request was refused by the server's policy."


class ProtocolError(ContainerSSHError):
    """A peer (client, guest agent, engine, webhook) did not keep to its protocol."""

    default_user_message = "Protocol error."


def describe(error: BaseException) -> str:
    """
    One line about *error* for a log, never empty: many exceptions have no text of their own. Its cause follows in
    brackets, unless the text says the same already.
    """
    if not isinstance(error, ContainerSSHError):
        return _plain(error) or type(error).__name__
    cause = "" if error.__cause__ is None else describe(error.__cause__)
    return f"{error.explanation} ({cause})" if cause and cause not in error.explanation else error.explanation


def reason_of(error: BaseException) -> str:
    """What *error* says, an operating system's without its number and the name of the file, which the caller names."""
    return getattr(error, "strerror", None) or str(error)


def _plain(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(describe(one) for one in error.exceptions))
    if isinstance(error, OSError) and type(error).__str__ is OSError.__str__ and error.filename is not None:
        return f"{reason_of(error)}: {error.filename}"
    return reason_of(error) if type(error).__str__ is OSError.__str__ else str(error)
