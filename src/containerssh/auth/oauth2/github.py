"""GitHub.com and GitHub Enterprise (``auth.md`` section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, urlsplit

from containerssh.auth.fields import readable
from containerssh.auth.oauth2.answers import DeviceCode, Reply, Token, is_visible, read_device_code, read_token
from containerssh.auth.oauth2.calls import Caller, basic, until_answered, with_query
from containerssh.auth.oauth2.provider import DEVICE_GRANT, Provider, Secrets, refused
from containerssh.config.oauth2 import OAuth2Config
from containerssh.core.codes import OAuth2Code
from containerssh.core.metadata import AuthAttempt, Login, Value
from containerssh.web.client import WebhookError

_NAME_CHARACTERS = 255
_FIELD_CHARACTERS = 16 * 1024

_FIELDS = {
    "GITHUB_LOGIN": "login",
    "GITHUB_ID": "id",
    "GITHUB_NODE_ID": "node_id",
    "GITHUB_NAME": "name",
    "GITHUB_AVATAR_URL": "avatar_url",
    "GITHUB_BIO": "bio",
    "GITHUB_COMPANY": "company",
    "GITHUB_EMAIL": "email",
    "GITHUB_BLOG_URL": "blog",
    "GITHUB_LOCATION": "location",
    "GITHUB_TWITTER_USERNAME": "twitter_username",
    "GITHUB_PROFILE_URL": "html_url",
    "GITHUB_2FA": "two_factor_authentication",
}
"""Metadata keys, and the field of the user that each contains."""

_LADDER = ("read", "write", "admin")
"""The levels of scopes such as ``read:org``; each includes those before it."""


class GitHubProvider(Provider):
    """GitHub as a provider; the login name is a GitHub user name."""

    has_device_flow = True
    has_code_flow = True
    token_failed = OAuth2Code.GITHUB_ACCESS_TOKEN_FETCH_FAILED

    def __init__(self, config: OAuth2Config, caller: Caller) -> None:
        self._config = config.github
        self._client_id = config.client_id
        self._secret = config.client_secret.get_secret_value()
        self._caller = caller
        self._url = config.github.url.rstrip("/")
        self._api = config.github.apiurl.rstrip("/")
        self._scopes = ",".join(wanted_scopes(config))

    async def device_code(self) -> DeviceCode:
        fields = {"client_id": self._client_id, "scope": self._scopes}
        reply = await self._caller.form(f"{self._url}/login/device/code", fields)
        return read_device_code(reply, secure=urlsplit(self._url).scheme.lower() == "https")

    async def poll(self, device: DeviceCode) -> Token:
        return await self._token({"grant_type": DEVICE_GRANT, "device_code": device.code})

    async def link(self, attempt: AuthAttempt, values: Secrets) -> str:
        parts = urlsplit(self._url)
        return with_query(
            f"{parts.scheme}://{parts.netloc}/login/oauth/authorize",
            {
                "client_id": self._client_id,
                "login": attempt.username,
                "scope": self._scopes,
                "state": values.state,
                **values.challenge,
            },
        )

    async def redeem(self, code: str, values: Secrets) -> Token:
        return await self._token({"client_secret": self._secret, "code": code, "code_verifier": values.verifier})

    async def _token(self, fields: Mapping[str, str]) -> Token:
        url = f"{self._url}/login/oauth/access_token"
        return read_token(await self._caller.form(url, {**fields, "client_id": self._client_id}))

    async def login(self, attempt: AuthAttempt, token: Token, values: Secrets | None) -> Login:
        self._check_scopes(token)
        user = await until_answered(lambda: self._user(token))
        name = user.get("login")
        if not isinstance(name, str) or not 0 < len(name) <= _NAME_CHARACTERS or not is_visible(name):
            raise WebhookError(OAuth2Code.GITHUB_USER_REQUEST_FAILED, "GitHub's user has no usable name", passing=False)
        # GitHub's user names are case-insensitive.
        if self._config.enforce_username and name.lower() != attempt.username.lower():
            raise refused(
                f"the GitHub user is {name!r}, and not the one who logs in",
                f"You are {name} at GitHub; log in under that name.",
                OAuth2Code.GITHUB_USER_DOES_NOT_MATCH,
            )
        if self._config.require_2fa and user.get("two_factor_authentication") is not True:
            raise refused(
                "two-factor authentication is off, or GitHub does not tell",
                "Your GitHub account must have two-factor authentication.",
                OAuth2Code.GITHUB_2FA_NOT_ENABLED,
            )
        if self._config.require_org_membership:
            await until_answered(lambda: self._check_membership(token))
        metadata = {
            "GITHUB_METHOD": Value("device" if values is None else "authorization_code"),
            "GITHUB_TOKEN": Value(token.access, sensitive=True),
            **{key: Value(_text(user.get(field)), sensitive=True) for key, field in _FIELDS.items()},
        }
        return Login.of(attempt, name).with_values(metadata, {}, {})

    def _check_scopes(self, token: Token) -> None:
        if not self._config.enforce_scopes or token.scopes is None:
            return
        missing = [scope for scope in self._config.extra_scopes if not is_granted(scope, token.scopes)]
        if missing:
            raise refused(
                f"not granted: {' '.join(missing)}",
                f"The login needs more than was granted: {' '.join(missing)}",
                OAuth2Code.GITHUB_REQUIRED_SCOPE_NOT_GRANTED,
            )

    async def _user(self, token: Token) -> Mapping[str, object]:
        reply = await self._caller.get(f"{self._api}/user", token=token.access)
        if reply.status != 200 or not reply.fields:
            raise WebhookError(
                OAuth2Code.GITHUB_USER_REQUEST_FAILED,
                f"GitHub's user request was answered with status {reply.status}",
                passing=reply.passing,
            )
        return reply.fields

    async def _check_membership(self, token: Token) -> None:
        organisation = self._config.require_org_membership
        url = f"{self._api}/user/memberships/orgs/{quote(organisation, safe='')}"
        reply = await self._caller.get(url, token=token.access)
        if reply.passing:
            raise WebhookError(
                OAuth2Code.GITHUB_USER_REQUEST_FAILED,
                f"GitHub's membership request was answered with status {reply.status}",
                passing=True,
            )
        found = reply.fields.get("organization")
        name = found.get("login") if isinstance(found, Mapping) else None
        is_same = isinstance(name, str) and name.lower() == organisation.lower()
        if reply.status != 200 or reply.text("state") != "active" or not is_same:
            raise refused(
                f"not an active member of {organisation!r}, or the membership cannot be seen (status {reply.status})",
                f"You are not a member of the GitHub organization {organisation}.",
                OAuth2Code.GITHUB_NOT_A_MEMBER,
            )

    async def revoke(self, token: Token) -> None:
        url = f"{self._api}/applications/{quote(self._client_id, safe='')}/token"
        await until_answered(lambda: self._delete(url, token))

    async def _delete(self, url: str, token: Token) -> None:
        reply: Reply = await self._caller.delete(
            url, {"access_token": token.access}, authorization=basic(self._client_id, self._secret)
        )
        # 404 and 422 mean that the token is already revoked.
        if not reply.good and reply.status not in (404, 422):
            raise WebhookError(
                OAuth2Code.GITHUB_DELETE_ACCESS_TOKEN_FAILED,
                f"a token could not be deleted: status {reply.status}",
                passing=reply.passing,
            )


def wanted_scopes(config: OAuth2Config) -> list[str]:
    """The scopes to request: the configured ones, and those that configured checks need."""
    github = config.github
    scopes = list(dict.fromkeys(github.extra_scopes))
    if github.require_org_membership and not {"org", "read:org"} & set(scopes):
        scopes.append("read:org")
    if github.require_2fa and not {"user", "read:user"} & set(scopes):
        scopes.append("read:user")
    return scopes


def is_granted(scope: str, granted: frozenset[str]) -> bool:
    """Whether *granted* contains *scope* or one that includes it: ``user`` includes ``user:email``."""
    first, _, last = scope.partition(":")
    wider = {scope, first}
    if first in _LADDER:
        wider = {scope, last, *(f"{step}:{last}" for step in _LADDER[_LADDER.index(first) :])}
    return bool(wider & granted)


def _text(value: object) -> str:
    """The value as a metadata string; empty if it has none."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    usable = isinstance(value, str) and len(value) <= _FIELD_CHARACTERS and "\0" not in value
    return readable(str(value)) if usable else ""
