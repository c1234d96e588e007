"""The ``auth`` section (``config.md`` sections 5 and 6)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from containerssh.config.certificates import CertificatesConfig, SecurityKeysConfig, revoked_problems
from containerssh.config.codes import CodesConfig
from containerssh.config.http import (
    HTTPClientConfig,
)
from containerssh.config.ldap import LDAPConfig
from containerssh.config.model import ConfigModel, Duration, Problem, default_for_zero, seconds
from containerssh.config.oauth2 import OAuth2Config
from containerssh.config.remember import RememberConfig
from containerssh.core.errors import reason_of


class WebhookConfig(HTTPClientConfig):
    """A webhook that accepts or refuses credentials."""

    auth_timeout: Duration = seconds(60)
    """How long calls of the webhook are retried while they fail; at least 100 ms."""

    _zero_auth_timeout = field_validator("auth_timeout")(default_for_zero)

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if self.auth_timeout < seconds(0.1):
            yield Problem("authTimeout", "must be at least 100ms")


class KerberosConfig(ConfigModel):
    """Kerberos."""

    keytab: str = "/etc/krb5.keytab"
    """The keytab with the server's keys."""

    acceptor: str = "any"
    """Which keys may be used: `any`, `host` for `host/` and this machine's name, or a principal `service/name`."""

    enforce_username: bool = True
    """The principal must equal the user name."""

    credential_cache_path: str = "/tmp/krb5cc"  # noqa: S108 - a path inside the container
    """Where the user's tickets are stored in the container."""

    config_path: str = "/etc/containerssh/krb5.conf"
    """The configuration file of the Kerberos library."""

    clock_skew: Duration = seconds(300)
    """How much clocks may differ."""

    _zero_clock_skew = field_validator("clock_skew")(default_for_zero)

    @property
    def libraries_config(self) -> Path:
        """`configPath`; if it is not set and the default does not exist, the system's file."""
        path = Path(self.config_path)
        default = "config_path" not in self.model_fields_set and not path.exists()
        return Path("/etc/krb5.conf") if default else path

    def problems(self) -> Iterator[Problem]:
        if not all(find_spec(name) for name in ("gssapi", "krb5")):
            text = "needs Python packages that are not installed: pip install 'containerssh[kerberos]'"
            yield Problem("", f"{text} (building them takes gcc and libkrb5-dev)")
        try:
            with Path(self.keytab).open("rb"):
                pass
        except (OSError, ValueError) as exc:
            yield Problem("keytab", f"cannot read {self.keytab!r}: {reason_of(exc)}")
        if self.acceptor not in ("any", "host") and not re.fullmatch(
            r"[^/@\\\s]+/[^/@\\\s]+(@[^/@\\\s]+)?", self.acceptor
        ):
            yield Problem("acceptor", "must be any, host or service/name")
        if not re.fullmatch(r"(/[^/\0]+)+", self.credential_cache_path):
            yield Problem("credentialCachePath", "is not an absolute path of a file in the container")
        if self.clock_skew < seconds(0):
            yield Problem("clockSkew", "must not be negative")


class PasswordAuthConfig(ConfigModel):
    """Passwords."""

    method: Literal["", "webhook", "users", "ldap", "kerberos"] = ""
    """How they are checked: `webhook`, `users` (the users file), `ldap` (a directory), or `kerberos`. Empty: passwords
    are not offered."""

    webhook: WebhookConfig = WebhookConfig.default()
    kerberos: KerberosConfig = KerberosConfig.default()

    def problems(self) -> Iterator[Problem]:
        if self.method == "webhook":
            yield from (problem.under("webhook") for problem in self.webhook.problems())
        elif self.method == "kerberos":
            yield from (problem.under("kerberos") for problem in self.kerberos.problems())
            if not self.kerberos.libraries_config.is_file():
                # A ticket can be checked with the keytab alone; a password needs a KDC.
                yield Problem("kerberos.configPath", f"there is no file {str(self.kerberos.libraries_config)!r}")


class PublicKeyAuthConfig(ConfigModel):
    """Public keys."""

    method: Literal["", "webhook", "users", "ldap", "remember"] = ""
    """How they are checked: `webhook`, `users` (the users file) or `ldap` (a directory). `remember` accepts any key,
    but only together with keyboard-interactive, which `auth.remember` then skips at the next logins with this key."""

    webhook: WebhookConfig = WebhookConfig.default()

    certificates: CertificatesConfig = CertificatesConfig.default()
    """Trusted certificate authorities, independent of `method`."""

    security_keys: SecurityKeysConfig = SecurityKeysConfig.default()

    revoked_keys: str = ""
    """A file with revoked keys and certificates: OpenSSH's binary list (`ssh-keygen -k`), or text with a public key or
    a fingerprint `SHA256:...` in each line. It is read again when it changes. While it cannot be read, all keys are
    refused."""

    @property
    def is_configured(self) -> bool:
        """Whether public keys are offered."""
        return bool(self.method or self.certificates.trusted_user_ca_keys)

    def problems(self) -> Iterator[Problem]:
        if self.method == "webhook":
            yield from (problem.under("webhook") for problem in self.webhook.problems())
        if self.is_configured:
            yield from (problem.under("certificates") for problem in self.certificates.problems())
            yield from revoked_problems(self.revoked_keys) if self.revoked_keys else ()


class KeyboardInteractiveAuthConfig(ConfigModel):
    """Keyboard-interactive: questions and answers."""

    method: Literal["", "oauth2", "users", "ldap", "webhook"] = ""
    """`oauth2`, `users` (one-time codes of the users file, as a second factor), `ldap` (the directory's password) or
    `webhook` (any questions). Empty: not offered."""

    oauth2: OAuth2Config = OAuth2Config.default()
    webhook: WebhookConfig = WebhookConfig.default()
    codes: CodesConfig = CodesConfig.default()

    def problems(self) -> Iterator[Problem]:
        if self.method == "oauth2":
            yield from (problem.under("oauth2") for problem in self.oauth2.problems())
        elif self.method == "webhook":
            yield from (problem.under("webhook") for problem in self.webhook.problems())


class GSSAPIAuthConfig(ConfigModel):
    """Kerberos tickets."""

    method: Literal["", "kerberos"] = ""
    """`kerberos`. Empty: not offered."""

    kerberos: KerberosConfig = KerberosConfig.default()

    key_exchange: bool = True
    """Offer GSSAPI key exchange, in which a ticket authenticates the server. Has no effect if `ssh.kex` is set, which
    then lists all key exchange methods."""

    def problems(self) -> Iterator[Problem]:
        if self.method == "kerberos":
            yield from (problem.under("kerberos") for problem in self.kerberos.problems())


_METHODS = ("password", "publickey", "keyboard-interactive", "gssapi-with-mic")


def _chain(text: str) -> str:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in _METHODS:
            raise ValueError(f"{name!r} is not one of {', '.join(_METHODS)}")
    if len(set(names)) < len(names):
        raise ValueError("a method can appear only once")
    return ",".join(names)


AuthenticationMethods = tuple[Annotated[str, AfterValidator(_chain)], ...]
"""Lists of methods that must succeed in sequence, as in sshd's configuration: `publickey,password`."""


class AuthorizationConfig(ConfigModel):
    """A decision about every login, after authentication."""

    method: Literal["", "webhook"] = ""
    """`webhook`. Empty: no decision is needed."""

    webhook: WebhookConfig = WebhookConfig.default()

    def problems(self) -> Iterator[Problem]:
        if self.method == "webhook":
            yield from (problem.under("webhook") for problem in self.webhook.problems())


class UsersConfig(ConfigModel):
    """Users kept in a file, for the method `users`; no other service is needed."""

    file: str = ""
    """The users file; it is read again when it changes."""

    def problems(self) -> Iterator[Problem]:
        if not self.file:
            yield Problem("file", "the method users needs a users file")
            return
        try:
            with Path(self.file).open("rb"):
                pass
        except (OSError, ValueError) as exc:
            yield Problem("file", f"cannot read {self.file!r}: {reason_of(exc)}")


class AuthConfig(HTTPClientConfig):
    """Who may log in. Each section with a `method` is offered to clients."""

    password: PasswordAuthConfig = PasswordAuthConfig.default()
    """Passwords. (`true` and `false`, as in version 0.4, are accepted and have no effect.)"""

    public_key: PublicKeyAuthConfig = PublicKeyAuthConfig.default()
    """Public keys."""

    keyboard_interactive: KeyboardInteractiveAuthConfig = KeyboardInteractiveAuthConfig.default()
    """Keyboard-interactive: questions and answers."""

    gssapi: GSSAPIAuthConfig = Field(GSSAPIAuthConfig.default(), alias="gssapi")
    """Kerberos tickets."""

    authz: AuthorizationConfig = AuthorizationConfig.default()
    """A webhook that decides about every login, after authentication."""

    ldap: LDAPConfig = LDAPConfig.default()
    """The directory, for the method `ldap`."""

    remember: RememberConfig = RememberConfig.default()

    users: UsersConfig = UsersConfig.default()
    """The users file, for the method `users`."""

    authentication_methods: AuthenticationMethods = ()
    """Which methods must succeed in sequence, as in sshd's configuration: `publickey,keyboard-interactive`. Completing
    one of the lists is enough; without lists, one method is. A user in the users file may have different lists."""

    auth_timeout: Duration = seconds(60)
    """From version 0.4; has no effect."""

    pubkey: bool = True
    """From version 0.4; has no effect."""

    url: str = ""
    """From version 0.4: one webhook for passwords and public keys. Write `password.webhook.url` and
    `publicKey.webhook.url` instead, and move the settings beside it along."""

    @model_validator(mode="before")
    @classmethod
    def _drop_the_former_switch(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            words = (True, False, "yes", "no", "on", "off", "true", "false")
            return {
                key: value
                for key, value in data.items()
                if not (str(key).lower() == "password" and isinstance(value, bool | str) and value in words)
            }
        return data

    def without_former_url(self) -> AuthConfig:
        """The same in today's layout: what stands at `url` and beside it moves to both webhooks."""
        former = self.model_dump(by_alias=True, exclude_unset=True, include=set(HTTPClientConfig.model_fields))
        webhook = {"method": "webhook", "webhook": former}
        rest = self.model_dump(by_alias=True, exclude_unset=True, exclude=set(HTTPClientConfig.model_fields))
        return AuthConfig.model_validate({**rest, "password": webhook, "publicKey": webhook})

    @property
    def uses_users_file(self) -> bool:
        """Whether any method uses the users file."""
        return "users" in (self.password.method, self.public_key.method, self.keyboard_interactive.method)

    @property
    def uses_ldap(self) -> bool:
        """Whether any method uses the directory."""
        return "ldap" in (self.password.method, self.public_key.method, self.keyboard_interactive.method)

    @property
    def exchanges_by_tickets(self) -> bool:
        """Whether GSSAPI key exchange is offered."""
        return self.gssapi.method == "kerberos" and self.gssapi.key_exchange

    @property
    def takes_any_key(self) -> bool:
        """Whether any key is accepted as the first method (`remember`)."""
        return self.public_key.method == "remember"

    @property
    def codes_by_users_file(self) -> bool:
        """Whether keyboard-interactive asks for one-time codes, which are a second factor only."""
        return self.keyboard_interactive.method == "users"

    @property
    def configured_methods(self) -> Mapping[str, str]:
        """The SSH names of the configured methods, each with the path of its setting."""
        ways = {
            "password": ("password", self.password.method),
            "publickey": ("publicKey", self.public_key.is_configured),
            "keyboard-interactive": ("keyboardInteractive", self.keyboard_interactive.method),
            "gssapi-with-mic": ("gssapi", self.gssapi.method),
        }
        return {name: key for name, (key, method) in ways.items() if method}

    def problems(self) -> Iterator[Problem]:
        for number, chain in enumerate(self.authentication_methods):
            if self.codes_by_users_file and chain.startswith("keyboard-interactive"):
                text = f"{chain}: a one-time code is a second factor, it cannot come first"
                yield Problem(f"authenticationMethods.{number}", text)
            for name in chain.split(","):
                if name not in self.configured_methods:
                    text = f"{chain}: nobody can succeed: no method is configured for {name}"
                    yield Problem(f"authenticationMethods.{number}", text)
        if self.url:
            yield Problem("url", "both password.webhook.url and the former url are set; remove url")
        if not self.configured_methods:
            yield Problem("", "no authentication method is configured: set password.method or publicKey.method")
        elif self.codes_by_users_file and len(self.configured_methods) == 1:
            text = "a one-time code is a second factor: configure password or publicKey as well"
            yield Problem("keyboardInteractive.method", text)
        for path, block in (
            ("password", self.password),
            ("publicKey", self.public_key),
            ("keyboardInteractive", self.keyboard_interactive),
            ("gssapi", self.gssapi),
            ("authz", self.authz),
        ):
            yield from (problem.under(path) for problem in block.problems())
        if self.uses_users_file:
            yield from (problem.under("users") for problem in self.users.problems())
        yield from self._remember_problems()
        if self.uses_ldap:
            yield from (problem.under("ldap") for problem in self.ldap.problems())
            if self.public_key.method == "ldap" and self.ldap.user_bind and not self.ldap.bind_dn:
                yield Problem("ldap.bindDN", "a key brings no password to look users up with: set it for publicKey")

    def _remember_problems(self) -> Iterator[Problem]:
        yield from (problem.under("remember") for problem in self.remember.problems())
        asks = self.keyboard_interactive.method
        if self.remember.period and not asks:
            yield Problem("remember.period", "no questions are configured: set keyboardInteractive.method")
        if not self.takes_any_key:
            return
        if not self.remember.period:
            yield Problem("publicKey.method", "nothing is remembered: set remember.period")
        if asks in ("", "users"):
            text = "any key is taken, so that keyboardInteractive must tell who it is: by oauth2, ldap or webhook"
            yield Problem("publicKey.method", text)
        for number, chain in enumerate(self.authentication_methods):
            if chain == "publickey":
                yield Problem(f"authenticationMethods.{number}", "publicKey.method is remember, which takes any key")
