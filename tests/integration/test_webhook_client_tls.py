"""Webhooks over TLS: who is believed, and what is told where nobody is."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

import pytest

from containerssh.core.codes import HTTPCode
from containerssh.core.errors import ConfigError, describe
from containerssh.web.client import open_http_client
from tests.support.webhook import Authority, Reply, webhook
from tests.support.webhook_client import config, failed, post


async def test_https_with_an_authority_of_ones_own(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with webhook(authority.server_tls("hook")) as hook:
        assert (await post(hook.url, cacert=str(authority.cert))).status == 200
        assert (await post(hook.url, cacert=authority.cert.read_text())).status == 200


async def test_a_client_certificate_is_shown(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    own = authority.issue("client")
    async with webhook(authority.server_tls("hook", ask_clients=True)) as hook:
        trusting = {"cacert": str(authority.cert)}
        assert (await post(hook.url, **trusting, cert=str(own.cert), key=str(own.key))).status == 200
        assert (await failed(hook.url, **trusting)).code == HTTPCode.CLIENT_CONNECTION_FAILED


@pytest.mark.parametrize("fault", ["other authority", "system's authorities", "wrong name", "expired"])
async def test_a_server_that_cannot_prove_itself_is_not_asked_and_not_again(tmp_path: Path, fault: str) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    days = -1 if fault == "expired" else 1
    async with webhook(authority.server_tls("hook", days=days)) as hook:
        url = hook.url.replace("127.0.0.1", "localhost") if fault == "wrong name" else hook.url
        trusted = {"other authority": str(other.cert), "system's authorities": ""}.get(fault, str(authority.cert))
        error = await failed(url, cacert=trusted)
        assert not error.passing
        assert not hook.requests


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:1", "POST http://127.0.0.1:1/password failed: Connection refused"),
        ("http://user:secret@127.0.0.1:1", "POST http://127.0.0.1:1/password failed: Connection refused"),
        (
            "http://nowhere.invalid",
            "POST http://nowhere.invalid/password failed: no address of nowhere.invalid is known",
        ),
    ],
)
async def test_a_server_that_is_not_there_is_told_in_plain_words(url: str, words: str) -> None:
    assert describe(await failed(url)).startswith(words)


async def test_a_certificate_that_is_not_trusted_is_told_with_the_reason(tmp_path: Path) -> None:
    async with webhook(Authority(tmp_path).server_tls("hook")) as hook:
        words = describe(await failed(hook.url))
    assert re.fullmatch(
        r"POST https://127.0.0.1:\d+/password failed: the server's certificate is not trusted: [a-z -]+", words
    )


async def test_a_server_without_tls_is_told_as_such() -> None:
    async with webhook() as hook:
        words = describe(await failed(hook.url.replace("http:", "https:")))
    assert "/password failed: no TLS: " in words


async def test_a_time_limit_is_told_once() -> None:
    async with webhook() as hook:
        hook.answers = [Reply(delay=5)]
        words = describe(await failed(hook.url, timeout="100ms"))
    assert words == f"POST {hook.url}/password: no complete answer within 0.1 s"


async def test_an_older_tls_version_must_be_asked_for(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = authority.server_tls("hook")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with webhook(context) as hook:
        await failed(hook.url, cacert=str(authority.cert))
        assert (await post(hook.url, cacert=str(authority.cert), tlsVersion="1.2")).status == 200


async def test_a_renewed_certificate_needs_no_restart(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = authority.server_tls("hook")
    async with webhook(context) as hook, open_http_client(config(hook.url, cacert=str(authority.cert))) as client:
        await client.post("", {})
        renewed = authority.issue("renewed")
        context.load_cert_chain(renewed.cert, renewed.key)
        hook.answers = [Reply({}, headers={"Connection": "close"})]
        for _ in range(3):
            assert (await client.post("", {})).status == 200


async def test_unusable_tls_settings_are_told_before_anything_is_asked(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    with pytest.raises(ConfigError, match="cacert"):
        async with open_http_client(config("https://127.0.0.1:1", cacert=str(bad))):
            pass
