"""Error messages for users."""

from __future__ import annotations

from containerssh.core.errors import ContainerSSHError, describe


def user_line(message: str, connection_id: str) -> str:
    """The line that a user sees when something failed; the reference number is the log's ``connectionId``."""
    return f"containerssh: {message} (reference {connection_id})"


class LoginFailed(Exception):
    """The sessions of this connection have no container, because of *error*."""

    def __init__(self, error: Exception) -> None:
        super().__init__(describe(error))
        self.error = error


def message_of(error: Exception) -> str:
    """The part of *error* that may be shown to users."""
    return error.user_message if isinstance(error, ContainerSSHError) else ContainerSSHError.default_user_message


def terminal_line(text: str) -> bytes:
    """A line for a terminal that the client has put into raw mode."""
    return f"{text}\r\n".encode()
