"""Remarks about settings that nothing reads, for ``config check``."""

from __future__ import annotations

from collections.abc import Iterator

from containerssh.config.app import AppConfig
from containerssh.config.auth import AuthConfig
from containerssh.config.findings import Finding
from containerssh.config.http import HTTPClientConfig
from containerssh.config.model import ConfigModel

_FORMER_SWITCHES = ("auth_timeout", "pubkey")
"""Keys of version 0.4 which upstream's versions accept as well, and ignore."""


def unused_advice(config: AppConfig) -> Iterator[Finding]:
    """Of all sections but the backends'."""
    yield from _former_keys(config.auth)
    yield from _other_methods(config.auth)
    if config.geoip.provider != "dummy" and not config.metrics.enable:
        yield _unused("geoip.provider", "has no effect: countries appear in the metrics only", "set metrics.enable")


def _former_keys(auth: AuthConfig) -> Iterator[Finding]:
    for name, field in AuthConfig.model_fields.items():
        key = field.alias or name
        if name not in auth.model_fields_set:
            continue
        if name in _FORMER_SWITCHES:
            yield _unused(f"auth.{key}", "is from version 0.4 and has no effect", "remove it")
        elif name in HTTPClientConfig.model_fields and not auth.url:
            text = "has no effect: each webhook has a key of this name"
            yield _unused(f"auth.{key}", text, f"set it at password.webhook.{key} and the like")


def _other_methods(auth: AuthConfig) -> Iterator[Finding]:
    sections: dict[str, tuple[str, ConfigModel]] = {
        "password": (auth.password.method, auth.password),
        "publicKey": (auth.public_key.method, auth.public_key),
        "keyboardInteractive": (auth.keyboard_interactive.method, auth.keyboard_interactive),
        "gssapi": (auth.gssapi.method, auth.gssapi),
        "authz": (auth.authz.method, auth.authz),
    }
    for path, (method, section) in sections.items():
        for name in ("webhook", "kerberos", "oauth2"):
            if name in section.model_fields_set and name != method:
                using = f"the method is {method}" if method else "no method is set"
                yield _unused(f"auth.{path}.{name}", f"has no effect while {using}", f"set auth.{path}.method: {name}")


def _unused(path: str, message: str, suggestion: str) -> Finding:
    return Finding("info", path, message, suggestion=suggestion)
