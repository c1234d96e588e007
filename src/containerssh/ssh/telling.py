"""What a user is told, where something went wrong."""

from __future__ import annotations

from containerssh.core.errors import ContainerSSHError, describe


def user_line(message: str, connection_id: str) -> str:
    """What a user reads when something failed; the reference is the log's ``connectionId``."""
    return f"containerssh: {message} (reference {connection_id})"


class LoginFailed(Exception):
    """There is no container for the sessions of this connection, because of *error*."""

    def __init__(self, error: Exception) -> None:
        super().__init__(describe(error))
        self.error = error


def message_of(error: Exception) -> str:
    """What a user may know of *error*."""
    return error.user_message if isinstance(error, ContainerSSHError) else ContainerSSHError.default_user_message


def terminal_line(text: str) -> bytes:
    """A line for a terminal that the client has put into raw mode."""
    return f"{text}\r\n".encode()
