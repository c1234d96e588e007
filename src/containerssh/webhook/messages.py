"""What webhooks are asked and what they answer (``webhooks.md`` sections 3 to 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from containerssh.core.metadata import Files, SocketAddress, Texts

# The text beside a type is the field's description in the OpenAPI document.


@dataclass(frozen=True, kw_only=True)
class Request:
    """What every webhook is told."""

    remote_address: Annotated[SocketAddress, "The client's IP address and port, an IPv6 address in brackets."]
    connection_id: Annotated[str, "32 lower-case hexadecimal digits; the reference that users and logs show."] = field(
        metadata={"pattern": "^[0-9a-f]{32}$"}
    )
    metadata: Annotated[Texts, "What earlier webhooks returned; left out when empty."] = field(default_factory=dict)
    environment: Annotated[Texts, "Variables for the container; left out when empty."] = field(default_factory=dict)
    files: Annotated[Files, "Absolute path in the container to content; left out when empty."] = field(
        default_factory=dict, repr=False
    )
    client_version: Annotated[str, "The client's identification string, SSH-2.0-OpenSSH_9.2p1."]
    username: Annotated[str, "The name given in SSH."]


@dataclass(frozen=True, kw_only=True)
class PasswordRequest(Request):
    """Is this the user's password?"""

    password: Annotated[bytes, "The password's bytes as the client sent them."] = field(
        repr=False, metadata={"wire": "passwordBase64"}
    )


@dataclass(frozen=True, kw_only=True)
class PublicKeyRequest(Request):
    """May the user log in with this key? Asked before the client proves that it holds the key."""

    public_key: Annotated[str, "Type and base64 as in authorized_keys, without comment; a certificate as a whole."]


@dataclass(frozen=True, kw_only=True)
class AuthorizationRequest(Request):
    """May this login, whose credentials proved right, go on?"""

    authenticated_username: Annotated[str, "The name that authentication vouched for; left out when there is none."] = (
        ""
    )


@dataclass(frozen=True, kw_only=True)
class ConfigRequest(AuthorizationRequest):
    """What does this login get?"""


@dataclass(frozen=True, kw_only=True)
class Entries:
    """What every webhook may add to a login; raises ValueError as below."""

    authenticated_username: Annotated[str, "The name that the webhook vouches for."] = ""
    metadata: Annotated[Texts, "Entries for the login."] = field(default_factory=dict)
    environment: Annotated[Texts, "Variables for the container."] = field(default_factory=dict)
    files: Annotated[Files, "Absolute path in the container to content."] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name, variable in self.environment.items():
            if not name or "=" in name or "\0" in name + variable.value:
                raise ValueError(f"environment {name!r} cannot be a variable: an empty name, =, or a NUL byte")
        for path in self.files:
            if not path.startswith("/") or "\0" in path:
                raise ValueError(f"file {path!r} is no absolute path")


@dataclass(frozen=True, kw_only=True)
class Answer(Entries):
    """
    Yes or no to a password, a public key or a login; what comes with a no is thrown away by the gateway.

    Raises:
        TypeError: *success* is neither True nor False: what merely counts as true lets nobody in.
        ValueError: a variable or a path cannot be one.
    """

    success: Annotated[bool, "Only true is a yes."]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.success, bool):
            raise TypeError("success is neither True nor False")


@dataclass(frozen=True, kw_only=True)
class ConfigAnswer(Entries):
    """
    A part of the configuration, and more entries for the login.

    Raises:
        ValueError: a variable or a path cannot be one.
    """

    config: Annotated[Mapping[str, Any], "A part of the configuration; durations in nanoseconds."] = field(
        default_factory=dict, repr=False
    )
    """As in the configuration file; a ``timedelta`` may stand for a duration."""
    overlay: Annotated[bool, "With overlay, zero and empty values in config count too."] = field(
        default=False, metadata={"wire": "configMode"}
    )
