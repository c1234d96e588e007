"""Host keys: loading configured keys, and generating missing ones."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import asyncssh

from containerssh.config.host_keys import read_host_certificate
from containerssh.core.codes import CoreCode
from containerssh.core.errors import ConfigError
from containerssh.core.messages import Event
from containerssh.keys.certificate import certificate_name, is_certificate, plain_name
from containerssh.ssh.algorithms import HOST_KEY_ALGORITHMS

logger = logging.getLogger(__name__)

_QUICK: Mapping[str, tuple[str, dict[str, int]]] = {
    "ssh_host_ed25519_key": ("ssh-ed25519", {}),
    "ssh_host_ecdsa_key": ("ecdsa-sha2-nistp256", {}),
}
_SLOW: Mapping[str, tuple[str, dict[str, int]]] = {"ssh_host_rsa_key": ("ssh-rsa", {"key_size": 3072})}


@dataclass(frozen=True)
class HostKey:
    """A private host key, optionally with a certificate."""

    key: asyncssh.SSHKey
    certificate: bytes = b""
    """The wire encoding of the key's certificate, as presented to clients; empty for none."""
    valid: tuple[int, int] = (0, 0)
    """The validity of the certificate: seconds since the epoch, the end excluded."""

    @property
    def type(self) -> str:
        """The key's type, ``ssh-ed25519``."""
        return self.key.get_algorithm()

    @property
    def blob(self) -> bytes:
        """The public key's wire encoding."""
        return self.key.public_data

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The signature algorithms offered with this key, in order of preference."""
        return HOST_KEY_ALGORITHMS[self.type]

    @property
    def certificate_algorithms(self) -> tuple[str, ...]:
        """The algorithms offered with its certificate, if it has one."""
        return tuple(certificate_name(name) for name in self.algorithms) if self.certificate else ()

    def public_data(self, algorithm: str) -> bytes:
        """The key or certificate that is presented for one of these algorithms."""
        return self.certificate if is_certificate(algorithm) else self.blob

    @property
    def fingerprint(self) -> str:
        """``SHA256:...`` as OpenSSH shows it."""
        return self.key.get_fingerprint("sha256")

    @property
    def authorized_key(self) -> str:
        """``type base64`` of the public key, as in a known_hosts file."""
        return self.key.export_public_key("openssh").decode("ascii").strip()

    def sign(self, data: bytes, algorithm: str) -> bytes:
        """The signature blob of *data* (RFC 4253 section 6.6) by one of these algorithms."""
        return self.key.sign(data, plain_name(algorithm).encode("ascii"))


def load_host_keys(sources: Iterable[str]) -> list[HostKey]:
    """
    Load the keys of *sources*, each the text of a key or the path of a file; at most one key of each type.

    Raises:
        ConfigError: a source cannot be read, is encrypted, is not a private key, or is of a type that is not offered;
            two keys have the same type; or *sources* is empty.
    """
    keys: dict[str, HostKey] = {}
    for number, source in enumerate(sources):
        where = f"ssh.hostkeys[{number}]"
        key = HostKey(_load(source, where))
        if key.type not in HOST_KEY_ALGORITHMS:
            known = ", ".join(HOST_KEY_ALGORITHMS)
            raise _error(f"{where}: keys of type {key.type} cannot be used as host keys. Use one of {known}.")
        if key.type in keys:
            raise _error(f"{where}: there is another key of type {key.type}; a client could not tell them apart.")
        keys[key.type] = key
    if not keys:
        raise _error("ssh.hostkeys is empty: a server needs at least one host key.")
    order = list(HOST_KEY_ALGORITHMS)
    return sorted(keys.values(), key=lambda key: order.index(key.type))


def with_certificates(keys: Sequence[HostKey], sources: Iterable[str]) -> list[HostKey]:
    """
    Add the certificates of *sources*, each the text of a certificate or the path of a file, to *keys*.

    A certificate that matches no key or is not currently valid is logged; clients then get the plain key.

    Raises:
        ConfigError: a source cannot be read, or is not a host certificate.
    """
    certified = {key.blob: key for key in keys}
    for number, source in enumerate(sources):
        where = f"ssh.hostCertificates[{number}]"
        try:
            blob, certificate = read_host_certificate(source)
        except ValueError as exc:
            raise _error(f"{where}: {exc}") from exc
        key = certified.get(certificate.key)
        problem = certificate.invalid(time.time()) if key else "it is for none of the host keys"
        if problem:
            text = f"{where} is not shown to clients: {problem}"
            logger.warning(Event(CoreCode.HOST_CERTIFICATE_UNUSED, text, certificate=certificate.name))
        if key:
            valid = (certificate.valid_after, certificate.valid_before)
            certified[key.blob] = replace(key, certificate=blob, valid=valid)
    return list(certified.values())


def generate_host_keys(folder: Path, *, without_slow: bool = False) -> Sequence[HostKey]:
    """
    Load the keys in *folder*: Ed25519, ECDSA and RSA (3072 bits). Missing keys are generated with mode 0600; with
    *without_slow*, the RSA key, which takes some tenths of a second, is left out.

    Servers that start at the same time end up with the same keys.

    Raises:
        ConfigError: *folder* is unusable, or contains an unreadable key.
    """
    wanted = _QUICK if without_slow else {**_QUICK, **_SLOW}
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, (algorithm, details) in wanted.items():
            if not (folder / name).exists():
                key = asyncssh.generate_private_key(algorithm, comment="containerssh", **details)
                _publish(folder / name, key.export_private_key("openssh"))
    except OSError as exc:
        raise ConfigError(
            CoreCode.HOST_KEY_GENERATION_FAILED, f"no host key could be saved in {folder}", folder=str(folder)
        ) from exc
    return load_host_keys(str(folder / name) for name in (*_QUICK, *_SLOW) if (folder / name).exists())


def lacks_host_keys(folder: Path) -> bool:
    """Whether :func:`generate_host_keys` would generate keys."""
    return not all((folder / name).exists() for name in (*_QUICK, *_SLOW))


def _publish(path: Path, content: bytes) -> None:
    """Create *path* with *content* atomically, unless it exists."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(name, path)
        except FileExistsError:
            return
    finally:
        Path(name).unlink()


def _load(source: str, where: str) -> asyncssh.SSHKey:
    text = source.strip()
    if not text:
        raise _error(f"{where} is empty.")
    if text.startswith("-----BEGIN"):
        data = text.encode()
    else:
        try:
            data = Path(text).read_bytes()
        except OSError as exc:
            raise ConfigError(CoreCode.CONFIG_ERROR, f"{where}: the file {text!r} cannot be read") from exc
        where = f"{where} ({text})"
    try:
        # The full check of an RSA key (primality) takes a tenth of a second; a test signature is sufficient.
        key = asyncssh.import_private_key(data, unsafe_skip_rsa_key_validation=True)
        if key.get_algorithm() == "ssh-rsa" and not _signs(key):
            raise ConfigError(CoreCode.CONFIG_ERROR, f"{where}: the key's signatures are wrong")
        return key
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError, ValueError) as exc:
        # The library has no public type for this.
        if isinstance(exc, asyncssh.KeyEncryptionError) or "passphrase" in str(exc).lower():
            raise ConfigError(CoreCode.CONFIG_ERROR, f"{where}: the key is encrypted; a server's must not be") from exc
        raise ConfigError(CoreCode.CONFIG_ERROR, f"{where}: not a private key that can be read") from exc


def _signs(key: asyncssh.SSHKey) -> bool:
    return key.convert_to_public().verify(b"", key.sign(b"", b"rsa-sha2-256"))


def _error(text: str) -> ConfigError:
    return ConfigError(CoreCode.CONFIG_ERROR, text)
