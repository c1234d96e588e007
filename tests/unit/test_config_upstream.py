"""Every key of upstream's reference manual outside of the backends: its name, its type, its default, its unit."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from containerssh.config.app import AppConfig
from containerssh.config.findings import findings_of
from containerssh.config.model import Spelling

TEXT, FLAG, WHOLE, DURATION, TEXTS = "text", "flag", "whole", "duration", "texts"

Keys = dict[str, tuple[str, Any]]

CURVES = ["x25519", "secp256r1", "secp384r1", "secp521r1"]
SUITES = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
]


def under(section: str, *blocks: Keys) -> Keys:
    return {f"{section}.{key}": entry for block in blocks for key, entry in block.items()}


TLS: Keys = {
    "cert": (TEXT, ""),
    "key": (TEXT, ""),
    "tlsVersion": (TEXT, "1.3"),
    "curves": (TEXTS, CURVES),
    "cipher": (TEXTS, SUITES),
}
CLIENT: Keys = {
    **TLS,
    "url": (TEXT, ""),
    "allowRedirects": (FLAG, False),
    "timeout": (DURATION, "2s"),
    "cacert": (TEXT, ""),
}
SERVER: Keys = {**TLS, "listen": (TEXT, "0.0.0.0:8080"), "clientcacert": (TEXT, "")}
WEBHOOK: Keys = {**CLIENT, "authTimeout": (DURATION, "1m0s")}
KERBEROS: Keys = {
    "keytab": (TEXT, "/etc/krb5.keytab"),
    "acceptor": (TEXT, "any"),
    "enforceUsername": (FLAG, True),
    "credentialCachePath": (TEXT, "/tmp/krb5cc"),
    "configPath": (TEXT, "/etc/containerssh/krb5.conf"),
    "clockSkew": (DURATION, "5m0s"),
}
METHOD: Keys = {"method": (TEXT, "")}
MODE: Keys = {"mode": (TEXT, "")}
LISTS: Keys = {**MODE, "allow": (TEXTS, []), "deny": (TEXTS, [])}

OAUTH2: Keys = {
    **under("redirect", SERVER, {"webroot": (TEXT, "")}),
    "clientId": (TEXT, ""),
    "clientSecret": (TEXT, ""),
    "provider": (TEXT, ""),
    "qrCodeClients": (TEXTS, []),
    "deviceFlowClients": (TEXTS, []),
    "authTimeout": (DURATION, "2m0s"),
    **under(
        "github",
        TLS,
        {
            "cacert": (TEXT, ""),
            "timeout": (DURATION, "10s"),
            "url": (TEXT, "https://github.com"),
            "apiurl": (TEXT, "https://api.github.com"),
            "enforceUsername": (FLAG, True),
            "requireOrgMembership": (TEXT, ""),
            "require2FA": (FLAG, False),
            "extraScopes": (TEXTS, []),
            "enforceScopes": (FLAG, False),
        },
    ),
    **under(
        "oidc",
        CLIENT,
        {
            "deviceFlow": (FLAG, False),
            "authorizationCodeFlow": (FLAG, False),
            "usernameField": (TEXT, "sub"),
            "redirectURI": (TEXT, ""),
            "extraScopes": (TEXTS, []),
            "enforceScopes": (FLAG, False),
        },
    ),
    "generic.authorizeEndpointURL": (TEXT, ""),
    "generic.redirectURI": (TEXT, ""),
    **under("generic.tokenEndpoint", CLIENT),
}

KEYS: Keys = {
    "ssh.listen": (TEXT, "0.0.0.0:2222"),
    "ssh.serverVersion": (TEXT, "SSH-2.0-ContainerSSH"),
    "ssh.ciphers": (
        TEXTS,
        [
            "chacha20-poly1305@openssh.com",
            "aes256-gcm@openssh.com",
            "aes128-gcm@openssh.com",
            "aes256-ctr",
            "aes192-ctr",
            "aes128-ctr",
        ],
    ),
    "ssh.kex": (TEXTS, ...),  # ours has more
    "ssh.macs": (TEXTS, ...),
    "ssh.banner": (TEXT, ""),
    "ssh.hostkeys": (TEXTS, []),
    "ssh.clientAliveInterval": (DURATION, "0s"),
    "ssh.clientAliveCountMax": (WHOLE, 3),
    **under("configserver", CLIENT, {"transmitSensitiveMetadata": (FLAG, False)}),
    "log.level": (TEXT, "notice"),
    "log.format": (TEXT, "ljson"),
    "log.destination": (TEXT, "stdout"),
    "log.file": (TEXT, "/var/log/containerssh/containerssh.log"),
    "log.syslog.destination": (TEXT, "/dev/log"),
    "log.syslog.facility": (TEXT, "auth"),
    "log.syslog.tag": (TEXT, "ContainerSSH"),
    "log.syslog.pid": (FLAG, False),
    **under(
        "metrics",
        SERVER,
        {"listen": (TEXT, "0.0.0.0:9100"), "enable": (FLAG, False), "path": (TEXT, "/metrics")},
    ),
    "geoip.provider": (TEXT, "dummy"),
    "geoip.maxmind-geoip2-file": (TEXT, "/var/lib/GeoIP/GeoIP2-Country.mmdb"),
    **under("health", SERVER, {"listen": (TEXT, "0.0.0.0:7000"), "enable": (FLAG, False)}),
    **under("health.client", CLIENT, {"url": (TEXT, "http://127.0.0.1:7000/")}),
    "security.defaultMode": (TEXT, ""),
    "security.forceCommand": (TEXT, ""),
    **under("security.env", LISTS),
    **under("security.command", MODE, {"allow": (TEXTS, [])}),
    **under("security.shell", MODE),
    **under("security.subsystem", LISTS),
    **under("security.tty", MODE),
    **under("security.signal", LISTS),
    "security.forwarding.reverseForwardingMode": (TEXT, "disable"),
    "security.forwarding.forwardingMode": (TEXT, "disable"),
    "security.forwarding.socketForwardingMode": (TEXT, "disable"),
    "security.forwarding.socketListenMode": (TEXT, "disable"),
    "security.forwarding.x11ForwardingMode": (TEXT, "disable"),
    "security.maxSessions": (WHOLE, -1),
    **under("auth", CLIENT, {"authTimeout": (DURATION, "1m0s"), "pubkey": (FLAG, True)}),
    **under("auth.password", METHOD),
    **under("auth.password.webhook", WEBHOOK),
    **under("auth.password.kerberos", KERBEROS),
    **under("auth.publicKey", METHOD),
    **under("auth.publicKey.webhook", WEBHOOK),
    **under("auth.keyboardInteractive", METHOD),
    **under("auth.keyboardInteractive.oauth2", OAUTH2),
    **under("auth.gssapi", METHOD),
    **under("auth.gssapi.kerberos", KERBEROS),
    **under("auth.authz", METHOD),
    **under("auth.authz.webhook", WEBHOOK),
}


def at(path: str, value: object) -> dict[str, Any]:
    for key in reversed(path.split(".")):
        value = {key: value}
    assert isinstance(value, dict)
    return value


WRONG: dict[str, tuple[object, ...]] = {
    TEXT: ([], {}, 1, True),
    FLAG: ([], {}, 2, "perhaps", 1.5, 0, 1, "1", "t"),
    WHOLE: ([], {}, "5", "many", 1.5, True, False),
    DURATION: ([], {}, "5", "soon", True, "1 week"),
    TEXTS: ({}, 5, True, [[]], [{}], [5]),
}


def mistakes(path: str, value: object) -> list[str]:
    """Where a configuration with this value alone is wrong."""
    try:
        AppConfig.model_validate(at(path, value), context=Spelling())
    except ValidationError as exc:
        return [finding.path for finding in findings_of(exc, AppConfig)]
    return []


def value_at(path: str, config: AppConfig) -> object:
    value: Any = config.model_dump(mode="json", by_alias=True)
    for key in path.split("."):
        value = value[key]
    return value


@pytest.mark.parametrize("path", KEYS)
def test_each_key_has_upstreams_name_and_default(path: str) -> None:
    _, default = KEYS[path]
    value = value_at(path, AppConfig.model_validate({}))
    assert default is ... or value == default
    assert value_at(path, AppConfig.model_validate(at(path, value))) == value


@pytest.mark.parametrize("path", KEYS)
def test_a_value_of_another_type_is_refused_at_its_key(path: str) -> None:
    kind, _ = KEYS[path]
    for value in WRONG[kind]:
        if (path, value) == ("log.level", 1):
            continue  # levels have numbers, too
        places = mistakes(path, value)
        assert any(place == path or place.startswith(f"{path}.") for place in places), f"{value!r}: {places}"


@pytest.mark.parametrize("path", [path for path, (kind, _) in KEYS.items() if kind == DURATION])
def test_durations_are_texts_with_units_or_nanoseconds(path: str) -> None:
    for value in ("1m30s", 90_000_000_000):
        assert value_at(path, AppConfig.model_validate(at(path, value))) == "1m30s"


@pytest.mark.parametrize("path", [path for path, (kind, _) in KEYS.items() if kind == FLAG])
def test_switches_keep_what_they_are_set_to(path: str) -> None:
    for value, meant in ((True, True), (False, False), ("Yes", True), ("off", False)):
        assert value_at(path, AppConfig.model_validate(at(path, value))) is meant
