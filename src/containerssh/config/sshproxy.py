"""The ``sshproxy`` section (``config.md`` section 4.9)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar

from pydantic import Field, SecretStr, field_validator

from containerssh.config.host_keys import check_private_key
from containerssh.config.model import ConfigModel, Duration, Problem, Secret, default_for_zero, seconds
from containerssh.config.ssh import CIPHERS, KEX, MACS, CipherList, KexList, MACList

HOST_KEY_ALGORITHMS = (
    "ssh-ed25519-cert-v01@openssh.com",
    "ecdsa-sha2-nistp256-cert-v01@openssh.com",
    "ecdsa-sha2-nistp384-cert-v01@openssh.com",
    "ecdsa-sha2-nistp521-cert-v01@openssh.com",
    "rsa-sha2-512-cert-v01@openssh.com",
    "rsa-sha2-256-cert-v01@openssh.com",
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
    "ssh-rsa",
)


class SSHProxyConfig(ConfigModel):
    """The sshproxy backend: passes logins on to another SSH server."""

    other_spellings: ClassVar[Mapping[str, str]] = {"hostKeyAlgorithms": "hostKeyAlgos"}

    server: str = ""
    """Host name or address of the target server."""

    port: Annotated[int, Field(ge=0, le=65_535)] = 22
    """Its port."""

    username_pass_through: bool = False
    """Log in to the target under the client's user name."""

    username: str = ""
    """The user name for the target."""

    password: Secret = SecretStr("")
    """The password for the target."""

    private_key: Secret = SecretStr("")
    """The private key for the target: PEM text, or the name of a file."""

    allowed_host_key_fingerprints: tuple[str, ...] = ()
    """SHA256 fingerprints of the target's accepted host keys; one at least is required."""

    ciphers: CipherList = CIPHERS
    """Ciphers, best first."""

    kex: KexList = KEX
    """Key exchange methods, best first."""

    macs: MACList = MACS
    """Message authentication codes, best first."""

    host_key_algos: tuple[str, ...] = HOST_KEY_ALGORITHMS
    """Host key algorithms, best first."""

    timeout: Duration = seconds(60)
    """How long connecting may take, retries included."""

    client_version: str = "SSH-2.0-ContainerSSH"
    """The identification string that is sent to the target."""

    _zeros = field_validator("port", "timeout")(default_for_zero)

    def problems(self) -> Iterator[Problem]:
        if not self.server:
            yield Problem("server", "must be set")
        if not self.username and not self.username_pass_through:
            yield Problem("username", "set username, or turn usernamePassThrough on")
        if not self.allowed_host_key_fingerprints:
            yield Problem("allowedHostKeyFingerprints", "must not be empty")
        lists = {
            "ciphers": self.ciphers, "kex": self.kex, "macs": self.macs, "hostKeyAlgos": self.host_key_algos,
        }  # fmt: skip
        yield from (Problem(path, "the list must not be empty") for path, names in lists.items() if not names)
        if key := self.private_key.get_secret_value():
            try:
                check_private_key(key)
            except ValueError as exc:
                yield Problem("privateKey", str(exc))
