"""The ``ssh`` section (``config.md`` section 4.1)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, field_validator

from containerssh.config.address import split_address
from containerssh.config.host_keys import check_private_key
from containerssh.config.model import ConfigModel, Duration, Problem, Secret, default_for_zero, seconds

KEX = (
    "mlkem768x25519-sha256",
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
)
"""A client's order decides which of them is used (RFC 4253 section 7.1)."""

OTHER_KEX = (
    "diffie-hellman-group14-sha256",
    "diffie-hellman-group16-sha512",
    "diffie-hellman-group18-sha512",
    "diffie-hellman-group14-sha1",
    "diffie-hellman-group1-sha1",
)
"""Finite fields cost the server much more than the client: only on request."""

CIPHERS = (
    "chacha20-poly1305@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-gcm@openssh.com",
    "aes256-ctr",
    "aes192-ctr",
    "aes128-ctr",
)

OTHER_CIPHERS = (
    "aes256-cbc",
    "aes192-cbc",
    "aes128-cbc",
    "3des-cbc",
    "arcfour256",
    "arcfour128",
    "arcfour",
)

MACS = (
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "hmac-sha2-256",
    "hmac-sha2-512",
)

OTHER_MACS = (
    "hmac-sha1-etm@openssh.com",
    "hmac-sha1",
    "hmac-sha1-96",
)

_MISNAMED = {
    # Upstream's name for a cipher that every client calls otherwise.
    "tripledescbcID": "3des-cbc",
}


def _known(*names: str) -> AfterValidator:
    def check(chosen: tuple[str, ...]) -> tuple[str, ...]:
        settled = tuple(dict.fromkeys(_MISNAMED.get(name, name) for name in chosen))
        for name in settled:
            if name not in names:
                raise ValueError(f"{name!r} is not supported; known are {', '.join(names)}")
        return settled

    return AfterValidator(check)


KexList = Annotated[tuple[str, ...], _known(*KEX, *OTHER_KEX)]
CipherList = Annotated[tuple[str, ...], _known(*CIPHERS, *OTHER_CIPHERS)]
MACList = Annotated[tuple[str, ...], _known(*MACS, *OTHER_MACS)]

_VERSION = re.compile(r"SSH-2\.0-[!-,.-~]+( [a-zA-Z0-9\- _.]+)?")


def check_version(version: str) -> str:
    """An SSH identification string (RFC 4253 section 4.2); raises ValueError."""
    if len(version.encode()) > 253 or not _VERSION.fullmatch(version):
        raise ValueError("a server version looks like SSH-2.0-Name or SSH-2.0-Name comment, at most 253 bytes")
    return version


class SSHConfig(ConfigModel):
    """The SSH server itself: where it listens, how it proves who it is, which algorithms it speaks."""

    listen: str = "0.0.0.0:2222"
    """`host:port` to listen on. `[::]:2222` takes IPv6 and IPv4."""

    server_version: Annotated[str, AfterValidator(check_version)] = "SSH-2.0-ContainerSSH"
    """What the server calls itself: `SSH-2.0-` and a name, perhaps a blank and a comment."""

    ciphers: CipherList = CIPHERS
    """Ciphers, best first. Weak ones (`aes128-cbc`, `arcfour`...) have to be asked for by name."""

    kex: KexList = KEX
    """Key exchange methods, best first; the client's order decides. Weak ones have to be asked for by name."""

    macs: MACList = MACS
    """Message authentication codes, best first. They are not used with chacha20-poly1305 and AES-GCM."""

    banner: str = ""
    """Text shown to a client before it authenticates."""

    hostkeys: tuple[Secret, ...] = Field((), alias="hostkeys")
    """Private host keys without passphrase (Ed25519, ECDSA or RSA): each PEM text, or the name of a file. Empty: keys
    are made at the first start and kept in `hostKeyDirectory`."""

    host_key_directory: str = ""
    """Where generated host keys are kept. Empty: `hostkeys` in the server's state folder."""

    client_alive_interval: Duration = seconds(0)
    """How often a silent client is asked whether it is still there; at least a second, and 0 for never."""

    client_alive_count_max: Annotated[int, Field(ge=0)] = 3
    """After how many unanswered questions the connection is closed; 0 stands for the default."""

    _zero_count = field_validator("client_alive_count_max")(default_for_zero)

    login_grace_time: Duration = seconds(120)
    """How long a client may take to authenticate; 0 for as long as it likes."""

    max_auth_tries: Annotated[int, Field(ge=1, le=1000)] = 6
    """How many failed tries to authenticate a connection has."""

    max_sessions_per_connection: Annotated[int, Field(ge=1, le=100_000)] = 100
    """How many sessions of one connection may be open at once, whatever `security.maxSessions` says."""

    def problems(self) -> Iterator[Problem]:
        try:
            split_address(self.listen)
        except ValueError as exc:
            yield Problem("listen", str(exc))
        for path, names in (("ciphers", self.ciphers), ("kex", self.kex), ("macs", self.macs)):
            if not names:
                yield Problem(path, "the list must not be empty")
        if self.client_alive_interval and self.client_alive_interval < seconds(1):
            yield Problem("clientAliveInterval", "must be 0 or at least 1s")
        if self.login_grace_time < seconds(0):
            yield Problem("loginGraceTime", "must not be negative")
        for number, key in enumerate(self.hostkeys):
            try:
                check_private_key(key.get_secret_value())
            except ValueError as exc:
                yield Problem(f"hostkeys.{number}", str(exc))
        if self.host_key_directory and not Path(self.host_key_directory).is_absolute():
            yield Problem("hostKeyDirectory", "must be an absolute path")
