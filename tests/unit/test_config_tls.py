"""TLS settings of HTTP clients and servers, tried with real handshakes."""

from __future__ import annotations

import datetime as dt
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from containerssh.config.http import HTTPClientConfig, HTTPServerConfig
from containerssh.config.model import MASK
from containerssh.config.tls import SUITE_SPELLINGS, TLS12_SUITES
from containerssh.core.errors import ConfigError

PEM = dict[str, str]


def _issue(name: str, issuer: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None) -> tuple[PEM, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    issuer_name, signer = issuer or (subject, key)
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    )
    certificate = builder.sign(signer, hashes.SHA256())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return {"cert": certificate.public_bytes(Encoding.PEM).decode(), "key": private}, (subject, key)


@pytest.fixture(scope="module")
def authority() -> tuple[PEM, Any]:
    return _issue("authority", None)


@pytest.fixture(scope="module")
def ca(authority: tuple[PEM, Any]) -> str:
    return authority[0]["cert"]


@pytest.fixture(scope="module")
def pair(authority: tuple[PEM, Any]) -> PEM:
    return _issue("server.test", authority[1])[0]


def client(**keys: object) -> HTTPClientConfig:
    return HTTPClientConfig.model_validate({"url": "https://server.test", **keys})


def server(**keys: object) -> HTTPServerConfig:
    return HTTPServerConfig.model_validate({"listen": "127.0.0.1:0", **keys})


def handshake(near: ssl.SSLContext | None, far: ssl.SSLContext | None) -> ssl.SSLObject:
    """A whole handshake, the server's last words included; the client's end of it. Raises ssl.SSLError."""
    assert near is not None
    assert far is not None
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = near.wrap_bio(back, there, server_hostname="server.test")
    other = far.wrap_bio(there, back, server_side=True)
    waiting = [one, other]
    for _ in range(10):
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                pass
        if not waiting:
            return one
    raise AssertionError("the handshake does not end")


def test_a_client_trusts_its_own_authority_only(ca: str, pair: PEM) -> None:
    assert handshake(client(cacert=ca).ssl_context(), server(**pair).ssl_context()).version() == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(client().ssl_context(), server(**pair).ssl_context())


def test_certificates_and_keys_may_be_files(tmp_path: Path, ca: str, pair: PEM) -> None:
    for name, text in {**pair, "ca": ca}.items():
        (tmp_path / name).write_text(text)
    files = {"cert": str(tmp_path / "cert"), "key": str(tmp_path / "key")}
    handshake(client(cacert=str(tmp_path / "ca")).ssl_context(), server(**files).ssl_context())


def test_the_name_of_the_service_is_verified(ca: str, authority: tuple[PEM, Any]) -> None:
    other = _issue("other.test", authority[1])[0]
    with pytest.raises(ssl.SSLCertVerificationError, match="match"):
        handshake(client(cacert=ca).ssl_context(), server(**other).ssl_context())


def test_a_server_can_ask_for_client_certificates(ca: str, pair: PEM) -> None:
    asking = server(**pair, clientcacert=ca).ssl_context()
    handshake(client(cacert=ca, **pair).ssl_context(), asking)
    with pytest.raises(ssl.SSLError, match="certificate"):
        handshake(client(cacert=ca).ssl_context(), asking)


@pytest.mark.parametrize("written", ["1.2", 1.2, ["1.3", "1.2"]])
def test_the_version_is_a_minimum(ca: str, pair: PEM, written: object) -> None:
    old = server(**pair, tlsVersion="1.2").ssl_context()
    assert old is not None
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert handshake(client(cacert=ca, tlsVersion=written).ssl_context(), old).version() == "TLSv1.2"
    with pytest.raises(ssl.SSLError):
        handshake(client(cacert=ca).ssl_context(), old)


@pytest.mark.parametrize("spelling", [name for name, proper in SUITE_SPELLINGS.items() if proper in TLS12_SUITES])
def test_a_suite_of_tls_1_2_can_be_chosen_in_every_spelling(ca: str, spelling: str) -> None:
    context = client(cacert=ca, tlsVersion="1.2", cipher=spelling).ssl_context()
    assert context is not None
    chosen = [suite["name"] for suite in context.get_ciphers() if suite["protocol"] == "TLSv1.2"]
    assert chosen == [TLS12_SUITES[SUITE_SPELLINGS[spelling]]]


def test_suites_of_tls_1_3_alone_mean_tls_1_3(ca: str) -> None:
    suites = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
    context = client(cacert=ca, tlsVersion="1.2", cipher=suites).ssl_context()
    assert context is not None
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3


def test_a_single_curve_is_kept_to(ca: str, pair: PEM) -> None:
    narrow = server(**pair, curves="secp384r1").ssl_context()
    handshake(client(cacert=ca, curves="secp384r1").ssl_context(), narrow)
    with pytest.raises(ssl.SSLError):
        handshake(client(cacert=ca, curves="x25519").ssl_context(), narrow)


def refusal(config: HTTPClientConfig | HTTPServerConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        config.ssl_context()
    return caught.value.explanation


@pytest.mark.skipif(hasattr(ssl.SSLContext, "set_groups"), reason="this Python can choose curves")
def test_a_choice_of_curves_that_python_cannot_keep_is_refused() -> None:
    assert "curves" in refusal(client(curves="x25519:secp256r1"))


def test_a_choice_among_the_suites_of_tls_1_3_is_refused() -> None:
    assert "cipher" in refusal(client(cipher=["TLS_AES_128_GCM_SHA256"]))


@pytest.mark.parametrize("key", ["curves", "cipher"])
def test_an_empty_choice_is_refused(key: str) -> None:
    assert f"{key} (at least one" in refusal(client(**{key: []}))


def test_settings_of_tls_do_not_matter_without_it() -> None:
    plain = client(url="http://server.test", curves="x25519:secp256r1", cipher=[])
    assert plain.ssl_context() is None
    assert server(curves=[]).ssl_context() is None


def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path, ca: str, pair: PEM) -> None:
    (tmp_path / "large").write_bytes(b"x" * (2 << 20))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for value in ("/no/such/file", str(tmp_path), str(tmp_path / "large"), str(tmp_path / "binary"), "a\0b"):
        assert "cacert" in refusal(client(cacert=value))
    broken = "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n"
    assert "cacert" in refusal(client(cacert=broken))
    assert "cacert" in refusal(client(cacert=pair["key"]))
    assert "clientCert" in refusal(client(cert=broken, key=pair["key"]))
    assert "clientcacert" in refusal(server(**pair, clientcacert="/no/such/file"))


def test_halves_of_a_pair_are_refused(ca: str, pair: PEM) -> None:
    assert "clientKey" in refusal(client(cert=pair["cert"]))
    assert "clientCert" in refusal(client(key=pair["key"]))
    assert "(cert and key" in refusal(server(cert=pair["cert"]))
    assert "clientcacert" in refusal(server(clientcacert=ca))


def test_a_key_of_another_certificate_is_refused(authority: tuple[PEM, Any], pair: PEM) -> None:
    assert "not a usable pair" in refusal(client(cert=pair["cert"], key=authority[0]["key"]))


def test_an_encrypted_key_is_refused_and_nobody_asked_for_its_password(pair: PEM) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")).decode()
    assert "encrypted" in refusal(client(cert=pair["cert"], key=encrypted))


def test_keys_do_not_show(pair: PEM) -> None:
    config = server(**pair)
    assert pair["key"].splitlines()[1] not in repr(config) + str(config) + config.model_dump_json()


@pytest.mark.parametrize(
    "url", ["/path", "server.test", "ftp://server.test", "https://", "http://a b/", "http://[::1", "http://h:99999/",
            "http://h:0/", "https://h/\n", "http://user@/"],
)  # fmt: skip
def test_an_address_that_cannot_be_called_is_refused(url: str) -> None:
    assert [problem.path for problem in client(url=url).problems()] == ["url"]


@pytest.mark.parametrize("url", ["http://h", "HTTPS://h:1/p?q=1", "http://[::1]:8080/", "http://user:pw@h/"])
def test_an_address_that_can_be_called_is_accepted(url: str) -> None:
    assert not list(client(url=url).problems())


def test_the_mask_of_a_dump_is_refused_as_key() -> None:
    with pytest.raises(ValueError, match="mask"):
        client(key=MASK)
