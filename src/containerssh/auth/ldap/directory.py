"""The gateway's side: selection of the directory's server, and interpretation of the answer."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from containerssh.auth.helper import HelperProcess
from containerssh.auth.ldap.limits import CHILDREN
from containerssh.config.ldap import LDAPConfig
from containerssh.config.pem import is_pem
from containerssh.core.codes import AuthCode
from containerssh.core.counters import counters
from containerssh.core.errors import AuthFailed, AuthUnavailable, ConfigError, describe
from containerssh.core.messages import Event, LabelValue
from containerssh.core.metrics import AUTH_SERVER_FAILURES, AUTH_SERVER_REQUESTS
from containerssh.core.retry import retry

logger = logging.getLogger(__name__)

AVOIDED = 30.0
"""How long in seconds an unresponsive server is tried only after the others."""

MOST_WAITING = 256
"""The maximum of attempts in progress and waiting; further ones fail as unavailable."""

_FIRST_PAUSE = timedelta(seconds=1)
_LONGEST_PAUSE = timedelta(seconds=5)


@dataclass(frozen=True)
class Found:
    """A user's entry."""

    dn: str
    names: Sequence[str]
    """The values of `usernameAttribute`."""
    groups: Sequence[str]
    attributes: Mapping[str, Sequence[bytes]]


class DirectoryFailure(Exception):
    """A server could not decide."""

    def __init__(self, reason: str, *, passing: bool) -> None:
        super().__init__(reason)
        self.passing = passing
        """Whether a retry could help."""


class Helper(HelperProcess):
    """The helper process of one directory."""

    libraries = "LDAP"
    worker = "containerssh.auth.ldap.worker"

    def __init__(self, config: LDAPConfig, authorities: str) -> None:
        super().__init__(CHILDREN)
        self._config = config
        # The helper runs in another folder, so paths must be absolute.
        self._authorities = str(Path(authorities).absolute()) if authorities else ""

    @property
    def arguments(self) -> Sequence[str]:
        config = self._config
        settings = {
            "start_tls": config.start_tls,
            "authorities": self._authorities,
            "tls_version": config.tls_version,
            "timeout": config.timeout.total_seconds(),
            "bind_dn": config.bind_dn,
            "bind_password_file": str(Path(config.bind_password_file).absolute()) if config.bind_dn else "",
            "user_bind": config.user_bind,
            "user_base": config.user_base,
            "user_scope": config.user_scope,
            "user_filter": config.user_filter,
            "username_attribute": config.username_attribute,
            "required_groups": config.required_groups,
            "group_attribute": config.group_attribute,
            "group_base": config.group_base,
            "group_filter": config.group_filter,
            "attributes": sorted({*config.metadata.values(), config.public_key_attribute} - {""}),
        }
        return (json.dumps(settings),)

    @property
    def environment(self) -> Mapping[str, str]:
        # Ignore the configuration files and variables of the machine's other LDAP clients.
        return {"LDAPNOINIT": "1"}

    def greeted(self, greeting: Any) -> None:
        if not isinstance(greeting, dict) or "ok" not in greeting:
            reason = greeting.get("unavailable") if isinstance(greeting, dict) else "its answer cannot be understood"
            raise ConfigError(AuthCode.CONFIG_ERROR, f"The directory cannot be used: {reason}")


@dataclass
class _Question:
    """A question to the servers until one answers; counted in metrics like a request to a webhook."""

    order: Mapping[str, str]
    labels: Mapping[str, LabelValue]
    tries: int = 0

    def count(self) -> None:
        """Count a request."""
        self.tries += 1
        counters.add(AUTH_SERVER_REQUESTS, **self._counted)

    def count_failure(self, how: str) -> None:
        """Count a temporary (``soft``) or final (``hard``) failure."""
        counters.add(AUTH_SERVER_FAILURES, type=how, reason=AuthCode.BACKEND_ERROR, **self._counted)

    @property
    def _counted(self) -> dict[str, str]:
        return {"retry": "1" if self.tries > 1 else "0", "authtype": str(self.labels["authtype"])}


class Directory:
    """The servers of one directory; created by :func:`open_directory`."""

    def __init__(self, config: LDAPConfig, helper: Helper) -> None:
        self._config = config
        self._helper = helper
        self._avoided: dict[str, float] = {}
        self._waiting = 0

    async def judge_password(self, username: str, password: bytes, labels: Mapping[str, LabelValue]) -> Found:
        """
        Verify the password with a server; return the user's entry.

        Raises:
            AuthFailed: the password is wrong, or the user is not permitted.
            AuthUnavailable: no server could decide; this has been logged.
        """
        encoded = base64.b64encode(password).decode()
        return await self._ask({"do": "password", "user": username, "password": encoded}, labels)

    async def look_up(self, username: str, labels: Mapping[str, LabelValue]) -> Found:
        """The user's entry, without verification of a password; raises as above."""
        return await self._ask({"do": "keys", "user": username}, labels)

    async def _ask(self, order: Mapping[str, str], labels: Mapping[str, LabelValue]) -> Found:
        if self._waiting >= MOST_WAITING:
            raise AuthUnavailable(AuthCode.BACKEND_ERROR, "too many attempts wait for the directory")
        self._waiting += 1
        question = _Question(order, labels)
        try:
            return await retry(
                lambda: self._ask_servers(question),
                on=DirectoryFailure,
                within=self._config.auth_timeout,
                every=_FIRST_PAUSE,
                at_most=_LONGEST_PAUSE,
                unless=lambda exc: isinstance(exc, DirectoryFailure) and not exc.passing,
            )
        except (DirectoryFailure, TimeoutError) as exc:
            reason = describe(exc) if isinstance(exc, DirectoryFailure) else "no answer in time"
            text = f"Directory request failed, giving up ({reason})"
            logger.error(Event(AuthCode.BACKEND_ERROR, text, **labels))  # noqa: TRY400  told by its own words
            question.count_failure("hard")
            raise AuthUnavailable(AuthCode.BACKEND_ERROR, "the directory is not available") from exc
        finally:
            self._waiting -= 1

    async def _ask_servers(self, question: _Question) -> Found:
        now = asyncio.get_running_loop().time()
        last = DirectoryFailure("no server", passing=False)
        # The sort is stable.
        for url in sorted(self._config.urls, key=lambda url: self._avoided.get(url, 0) > now):
            told = {**question.labels, "url": url}
            question.count()
            logger.debug(Event(AuthCode.REQUEST, "Directory request", **told))
            try:
                return await self._ask_server(url, question.order)
            except DirectoryFailure as exc:
                logger.debug(Event(AuthCode.BACKEND_ERROR, f"Directory request failed ({exc})", **told))
                question.count_failure("soft")
                last = exc
                if not exc.passing:
                    # Other servers of the directory hold the same account and would give the same answer.
                    break
                self._avoided[url] = asyncio.get_running_loop().time() + AVOIDED
        raise last

    async def _ask_server(self, url: str, order: Mapping[str, str]) -> Found:
        try:
            async with self._helper.child() as child:
                answer = await child.ask({**order, "url": url})
        except AuthUnavailable as exc:
            raise DirectoryFailure(describe(exc), passing=True) from exc
        return read_answer(answer)


def read_answer(answer: Any) -> Found:
    """
    Parse the answer of a helper's child, which has processed the server's data.

    Raises:
        AuthFailed: the user is refused.
        DirectoryFailure: the server could not decide.
    """
    match answer:
        case {
            "ok": {
                "dn": str() as dn,
                "names": list() as names,
                "groups": list() as groups,
                "attributes": dict() as more,
            }
        } if all(isinstance(text, str) for text in (*names, *groups)):
            try:
                return Found(
                    dn, names, groups, {str(name): [_decoded(v) for v in values] for name, values in more.items()}
                )
            except (ValueError, TypeError) as exc:
                raise DirectoryFailure("the helper process for LDAP sent a malformed answer", passing=True) from exc
        case {"refused": str() as reason}:
            raise AuthFailed(AuthCode.FAILED, reason)
        case {"unavailable": str() as reason, "passing": bool() as passing}:
            raise DirectoryFailure(reason, passing=passing)
        case _:
            raise DirectoryFailure("the helper process for LDAP sent a malformed answer", passing=True)


def _decoded(value: Any) -> bytes:
    if not isinstance(value, str):
        raise TypeError("no text")
    return base64.b64decode(value, validate=True)


@asynccontextmanager
async def open_directory(config: LDAPConfig) -> AsyncIterator[Directory]:
    """
    A directory for the lifetime of the server, with a helper process that ends with the scope.

    Raises:
        ConfigError: the libraries, or names in the configuration, cannot be used.
    """
    folder = Path(tempfile.mkdtemp(prefix="containerssh-ldap-"))
    try:
        authorities = config.authorities
        if is_pem(authorities):
            # The libraries accept only file names.
            path = folder / "authorities.pem"
            await asyncio.to_thread(path.write_text, authorities, encoding="ascii")
            authorities = str(path)
        helper = Helper(config, authorities)
        try:
            await helper.start()
            yield Directory(config, helper)
        finally:
            await helper.close()
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
