"""What webhooks are asked and what they answer (``webhooks.md`` sections 3 to 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from containerssh.core.interview import LONGEST_STATE, LONGEST_TEXT, MOST_QUESTIONS
from containerssh.core.metadata import Files, SocketAddress, Texts
from containerssh.core.requests import can_be_variable

Answers = Sequence[str]

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
class InteractiveRequest(Request):
    """What is the user asked next? An addition to ContainerSSH 0.6."""

    round: Annotated[int, "0 with the first request of an attempt, then 1, 2 and so on up to 10."]
    state: Annotated[str, "What the webhook said before; left out at first."] = field(default="", repr=False)
    answers: Annotated[Answers, "To the last questions, in their order; left out at first."] = field(
        default=(), repr=False
    )


@dataclass(frozen=True, kw_only=True)
class Entries:
    """What every webhook may add to a login; raises ValueError as below."""

    authenticated_username: Annotated[str, "The name that the webhook vouches for."] = ""
    metadata: Annotated[Texts, "Entries for the login."] = field(default_factory=dict)
    environment: Annotated[Texts, "Variables for the container."] = field(default_factory=dict)
    files: Annotated[Files, "Absolute path in the container to content."] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name, variable in self.environment.items():
            if not can_be_variable(name, variable.value):
                raise ValueError(f"environment {name!r} cannot be a variable: an empty name, =, or a NUL byte")
        for path in self.files:
            if not path.startswith("/") or "\0" in path:
                raise ValueError(f"file {path!r} is not an absolute path")


@dataclass(frozen=True, kw_only=True)
class Decision(Entries):
    """Yes or no; raises as below."""

    success: Annotated[bool, "Only true is a yes."]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.success, bool):
            raise TypeError("success is neither True nor False")


@dataclass(frozen=True, kw_only=True)
class Answer(Decision):
    """
    Yes or no to a password, a public key or a login; what comes with a no is thrown away by the gateway.

    Raises:
        TypeError: *success* is neither True nor False: what merely counts as true lets nobody in.
        ValueError: a variable or a path cannot be one.
    """


@dataclass(frozen=True)
class Question:
    """
    A question to the user.

    Raises:
        ValueError: it has no text, or too much.
    """

    text: Annotated[str, "What the user reads, not empty."] = field(metadata={"longest": LONGEST_TEXT, "shortest": 1})
    echo: Annotated[bool, "Whether the answer is shown while it is typed."] = False

    def __post_init__(self) -> None:
        if not 0 < len(self.text) <= LONGEST_TEXT:
            raise ValueError(f"a question has between 1 and {LONGEST_TEXT} characters")


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """
    What the user is asked at once.

    Raises:
        ValueError: there is too much of it.
    """

    instruction: Annotated[str, "Shown before the questions, or alone."] = field(
        default="", metadata={"longest": LONGEST_TEXT}
    )
    questions: Annotated[Questions, "What is asked; it may be nothing."] = field(
        default=(), metadata={"longest": MOST_QUESTIONS}
    )

    def __post_init__(self) -> None:
        if len(self.instruction) > LONGEST_TEXT or len(self.questions) > MOST_QUESTIONS:
            raise ValueError(f"a prompt has at most {LONGEST_TEXT} characters and {MOST_QUESTIONS} questions")


Questions = Sequence[Question]


@dataclass(frozen=True, kw_only=True)
class InteractiveAnswer(Decision):
    """
    Yes or no; with a prompt neither: the user is asked, and then the webhook again.

    Raises:
        TypeError: *success* is neither True nor False.
        ValueError: a variable or a path cannot be one, *state* is too long, or there is a prompt with a yes.
    """

    prompt: Annotated[Prompt | None, "What to ask; not with a yes. Without it, what is not true is a no."] = None
    state: Annotated[str, "Comes back with the next request, never shown to the user."] = field(
        default="", repr=False, metadata={"longest": LONGEST_STATE}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.success and self.prompt is not None:
            raise ValueError("a yes cannot come with a prompt")
        if len(self.state) > LONGEST_STATE:
            raise ValueError(f"state has more than {LONGEST_STATE} characters")


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
