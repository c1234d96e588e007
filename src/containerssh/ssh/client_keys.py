"""Clients' public keys and certificates, and verification of their signatures (RFC 4252 section 7)."""

from __future__ import annotations

from dataclasses import dataclass

from asyncssh.misc import Error as LibraryError
from asyncssh.public_key import KeyImportError, SSHKey, decode_ssh_public_key

from containerssh.core.codes import SSHCode
from containerssh.core.errors import AuthFailed, ProtocolError
from containerssh.core.handlers import PublicKey
from containerssh.core.metadata import Restrictions
from containerssh.core.requests import from_wire
from containerssh.keys.certificate import Certificate, is_certificate, plain_name, read_certificate
from containerssh.keys.public import fingerprint, is_security_key, read_rsa
from containerssh.keys.signatures import TOUCHED, VERIFIED, flags_of
from containerssh.keys.wire import Malformed, Reader
from containerssh.ssh.algorithms import CLIENT_SIGNATURES
from containerssh.ssh.requests import Fields


@dataclass(frozen=True)
class ClientKey:
    """A key or certificate and the signature algorithm of its request; created by :func:`read_key`."""

    algorithm: bytes
    key: PublicKey
    certificate: Certificate | None
    _public: SSHKey

    def verified(self, message: bytes, signature: bytes) -> bool:
        """Whether *signature* is a valid signature of *message* by this key."""
        try:
            used = Fields(signature).string()
            # The signature must use the algorithm named in the request, not a weaker one.
            named = plain_name(from_wire(self.algorithm))
            return used.decode("ascii") == named and self._public.verify(message, signature)
        except (ProtocolError, LibraryError, ValueError):
            return False

    def check_presence(self, restrictions: Restrictions, signature: bytes) -> None:
        """
        Check the user presence and verification flags of a security key's *signature*, which must have been verified.
        Other key types carry no flags and pass (sshd_config(5), PubkeyAuthOptions).

        Raises:
            AuthFailed: the login requires a flag that is not set.
        """
        if not is_security_key(self.key.algorithm):
            return
        try:
            flags = flags_of(signature)
        except Malformed:
            flags = 0
        if restrictions.touch_required and not flags & TOUCHED:
            raise AuthFailed(SSHCode.AUTH_FAILED, "nobody touched the security key")
        if restrictions.verify_required and not flags & VERIFIED:
            raise AuthFailed(SSHCode.AUTH_FAILED, "the security key has not asked for a PIN or a fingerprint")

    @property
    def labels(self) -> dict[str, str]:
        """The labels of log lines."""
        if self.certificate is None:
            return {"fingerprint": self.key.fingerprint}
        return {
            "fingerprint": fingerprint(self.certificate.key),
            # The key id is chosen by the authority; shorten it to one line.
            "certificate": self.certificate.name[:256],
            "serial": str(self.certificate.serial),
            "authority": fingerprint(self.certificate.authority),
        }


def read_key(algorithm: bytes, blob: bytes) -> ClientKey:
    """
    The key or certificate of a request.

    Raises:
        AuthFailed: it is malformed, or does not match the signature algorithm.
    """
    name = from_wire(algorithm)
    base = plain_name(name)
    if base not in CLIENT_SIGNATURES:
        raise AuthFailed(SSHCode.AUTH_FAILED, "the signature algorithm is not accepted", algorithm=name)
    try:
        certificate = read_certificate(blob) if is_certificate(name) else None
        if base.startswith("rsa-sha2-") and certificate is None:
            # Check lengths before the library parses a number of possibly 256 KiB.
            fields = Reader(blob)
            fields.string()
            read_rsa(fields)
        public = decode_ssh_public_key(certificate.key if certificate else blob)
    except Malformed as exc:
        what = "certificate" if is_certificate(name) else "key"
        raise AuthFailed(SSHCode.AUTH_FAILED, f"the {what} cannot be used: {exc}") from exc
    except (KeyImportError, LibraryError, ValueError) as exc:
        raise AuthFailed(SSHCode.AUTH_FAILED, "the key cannot be read") from exc
    kind = public.algorithm.decode("ascii")
    if kind != ("ssh-rsa" if base.startswith("rsa-sha2-") else base):
        raise AuthFailed(SSHCode.AUTH_FAILED, "the key does not fit its algorithm")
    if public.public_data != (certificate.key if certificate else blob):
        # Reject non-canonical encodings: they have another fingerprint, which a revocation list would not contain.
        raise AuthFailed(SSHCode.AUTH_FAILED, "the key is not encoded as keys are")
    return ClientKey(algorithm, PublicKey(from_wire(Fields(blob).string()), blob), certificate, public)
