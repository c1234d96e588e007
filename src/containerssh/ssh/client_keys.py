"""Keys and certificates that clients show, and what they sign (RFC 4252 section 7)."""

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
    """A key or certificate with the signature algorithm that it came with; made by :func:`read_key`."""

    algorithm: bytes
    key: PublicKey
    certificate: Certificate | None
    _public: SSHKey

    def verified(self, message: bytes, signature: bytes) -> bool:
        """Whether *signature* is the key's, of *message*."""
        try:
            used = Fields(signature).string()
            # The request names the algorithm and so does the signature: a weaker one must not slip in.
            named = plain_name(from_wire(self.algorithm))
            return used.decode("ascii") == named and self._public.verify(message, signature)
        except (ProtocolError, LibraryError, ValueError):
            return False

    def check_presence(self, restrictions: Restrictions, signature: bytes) -> None:
        """
        Look whether somebody was at the security key that made *signature*, which has been verified. Other keys cannot
        tell, and are not asked (sshd_config(5), PubkeyAuthOptions).

        Raises:
            AuthFailed: nobody was, or nobody whom it knew, and the login needs that.
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
        """For the log."""
        if self.certificate is None:
            return {"fingerprint": self.key.fingerprint}
        return {
            "fingerprint": fingerprint(self.certificate.key),
            # Of any length, by the authority's choice, and in one line.
            "certificate": self.certificate.name[:256],
            "serial": str(self.certificate.serial),
            "authority": fingerprint(self.certificate.authority),
        }


def read_key(algorithm: bytes, blob: bytes) -> ClientKey:
    """
    The key or certificate of a request.

    Raises:
        AuthFailed: it cannot be read, or does not fit the signature algorithm it came with.
    """
    name = from_wire(algorithm)
    base = plain_name(name)
    if base not in CLIENT_SIGNATURES:
        raise AuthFailed(SSHCode.AUTH_FAILED, "the signature algorithm is not accepted", algorithm=name)
    try:
        certificate = read_certificate(blob) if is_certificate(name) else None
        if base.startswith("rsa-sha2-") and certificate is None:
            # Before the library makes a number of what may be a quarter of a million bytes.
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
        # A key that may be written in two ways has two fingerprints, of which a list of revoked keys knows one.
        raise AuthFailed(SSHCode.AUTH_FAILED, "the key is not encoded as keys are")
    return ClientKey(algorithm, PublicKey(from_wire(Fields(blob).string()), blob), certificate, public)
