"""
For webhooks written in Python: what the gateway asks and is answered, and an application that serves them.

:func:`app` makes a server of up to five asynchronous functions; the manual's page ``auth/sdk`` shows one. Nothing in
here needs the rest of the gateway.
"""

from containerssh.core.metadata import Files, SocketAddress, Texts, Value
from containerssh.webhook.messages import (
    Answer,
    AuthorizationRequest,
    ConfigAnswer,
    ConfigRequest,
    InteractiveAnswer,
    InteractiveRequest,
    PasswordRequest,
    Prompt,
    PublicKeyRequest,
    Question,
)
from containerssh.webhook.server import app
from containerssh.webhook.wire import InvalidRequest, read_request, write_answer

__all__ = [
    "Answer",
    "AuthorizationRequest",
    "ConfigAnswer",
    "ConfigRequest",
    "Files",
    "InteractiveAnswer",
    "InteractiveRequest",
    "InvalidRequest",
    "PasswordRequest",
    "Prompt",
    "PublicKeyRequest",
    "Question",
    "SocketAddress",
    "Texts",
    "Value",
    "app",
    "read_request",
    "write_answer",
]
