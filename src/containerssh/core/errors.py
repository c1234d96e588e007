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
        cause = self.__cause__
        text = self.explanation if cause is None else f"{self.explanation} ({describe(cause)})"
        return Event(self.code, text, **self.labels)

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
    """One line about *error* for a log, never empty: many exceptions have no text of their own."""
    text = error.explanation if isinstance(error, ContainerSSHError) else str(error)
    cause = error.__cause__
    if isinstance(error, ContainerSSHError) and cause is not None:
        text = f"{text} ({describe(cause)})"
    return text or type(error).__name__
