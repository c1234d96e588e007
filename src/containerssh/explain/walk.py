"""Runs a login through the layers, with a backend that starts nothing."""

from __future__ import annotations

import logging
import secrets
import tempfile
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from containerssh.auth.authenticator import Authorizer
from containerssh.auth.config_server import ConfigAnswer, open_config_server
from containerssh.auth.users import UsersFile
from containerssh.authenticators import open_authenticators
from containerssh.backends.registry import Backends, ByName, DockerLogins, OCILogins
from containerssh.config.app import AppConfig
from containerssh.config.dump import masked
from containerssh.config.merge import overlay
from containerssh.core.errors import AuthFailed, AuthUnavailable, BackendError, ConfigError
from containerssh.core.handlers import AuthMethod, ConnectionHandler, NetworkHandler, Notices, PartialSuccess
from containerssh.core.instance import open_instance
from containerssh.core.messages import Event
from containerssh.core.metadata import AuthAttempt, ConnectionMetadata, Login
from containerssh.core.requests import to_wire
from containerssh.explain.credentials import NO_KEY, NoPrompts, Question, Recalled, Supposed, Tickets
from containerssh.explain.parts import changes, container, force_command, limits, limits_of_login, permissions, webhooks
from containerssh.explain.report import Explanation, Method, described, gained
from containerssh.layers.authentication import AuthenticationServer, Authenticators
from containerssh.layers.per_login import LoginConfiguration, PerLoginServer
from containerssh.layers.security import SecurityConnection
from containerssh.ssh.auth import read_username

_ORDER = (AuthMethod.GSSAPI, AuthMethod.PUBLIC_KEY, AuthMethod.KEYBOARD_INTERACTIVE, AuthMethod.PASSWORD)
"""The order in which clients try methods."""


async def explain(config: AppConfig, question: Question) -> Explanation:
    """
    What a server with *config* would do with a login. Webhooks, identity providers and KDCs are called unless the
    question forbids it; one-time codes are used up.

    Raises:
        ConfigError, BackendError: a server could not start with this configuration.
    """
    told = Explanation(question.username, str(question.address))
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="containerssh-explain-")))
        instance = stack.enter_context(open_instance(folder / "state", folder / "run"))
        backends = await stack.enter_async_context(Backends.opened(instance))
        by_name = await backends.choose(config)
        opened = await open_authenticators(config, stack)
        told.methods = [_method(method, opened, config) for method in AuthMethod]
        told.limits = limits(config, question.address)
        told.webhooks = webhooks(config) if question.webhooks else []
        stack.enter_context(_heard(told))
        walk = _Walk(config, question, told)
        config_server: LoginConfiguration | None = None
        if config.configserver.url:
            asked = await stack.enter_async_context(open_config_server(config.configserver))
            config_server = _ConfigServer(asked, walk)
        inner = PerLoginServer(config, config_server, _DryBackends(by_name, walk))
        server = AuthenticationServer(inner, walk.authenticators(opened))
        meta = ConnectionMetadata(question.address, secrets.token_hex(16), question.metadata)
        network = await stack.enter_async_context(server.accept(meta))
        await walk.run(network, meta)
    return told


def _method(method: AuthMethod, opened: Authenticators, config: AppConfig) -> Method:
    why_not = opened.why_not_first(method)
    if method not in config.auth.configured_methods:
        why_not = f"auth.{_SECTIONS[method]}.method is not set"
    return Method(method.value, not why_not, why_not)


_SECTIONS = {
    AuthMethod.PASSWORD: "password",
    AuthMethod.PUBLIC_KEY: "publicKey",
    AuthMethod.KEYBOARD_INTERACTIVE: "keyboardInteractive",
    AuthMethod.GSSAPI: "gssapi",
}


@dataclass(eq=False)
class _Walk:
    """One login; *told* collects its steps."""

    config: AppConfig
    question: Question
    told: Explanation
    supposed: frozenset[AuthMethod] = frozenset()
    answer: ConfigAnswer | None = None

    def authenticators(self, opened: Authenticators) -> Authenticators:
        """*opened*, with stand-ins for authenticators that have no credential to check or must not be called."""
        auth = self.config.auth
        methods = {
            AuthMethod.PASSWORD: auth.password.method,
            AuthMethod.PUBLIC_KEY: auth.public_key.method,
            AuthMethod.KEYBOARD_INTERACTIVE: auth.keyboard_interactive.method,
            AuthMethod.GSSAPI: auth.gssapi.method,
        }
        unasked = {method for method, judge in methods.items() if judge == "webhook" and not self.question.webhooks}
        self.supposed = frozenset((set(AuthMethod) - set(self.question.given)) | unasked)
        users = opened.user_chains if isinstance(opened.user_chains, UsersFile) else None

        def stand_in(method: AuthMethod) -> Supposed:
            judge = methods[method]
            return Supposed(users if judge == "users" else None, opened.public_key, vouches=judge != "remember")

        changed = replace(opened, memory=Recalled(opened.memory)) if opened.memory else opened
        if opened.password and AuthMethod.PASSWORD in self.supposed:
            changed = replace(changed, password=stand_in(AuthMethod.PASSWORD))
        if opened.public_key and AuthMethod.PUBLIC_KEY in self.supposed:
            changed = replace(changed, public_key=stand_in(AuthMethod.PUBLIC_KEY))
        if opened.interactive and AuthMethod.KEYBOARD_INTERACTIVE in self.supposed:
            changed = replace(changed, interactive=stand_in(AuthMethod.KEYBOARD_INTERACTIVE))
        if opened.gssapi and AuthMethod.GSSAPI in self.supposed:
            changed = replace(changed, gssapi=stand_in(AuthMethod.GSSAPI))
        return replace(changed, authorizer=_Authorizer(opened.authorizer, self)) if opened.authorizer else changed

    async def run(self, network: NetworkHandler, meta: ConnectionMetadata) -> None:
        """Authentication, authorization and configuration."""
        login = await self._authenticate(network, meta)
        if login is None:
            return
        try:
            async with network.login(login, _Silent()) as connection:
                assert isinstance(connection, SecurityConnection)
                self.told.permissions = permissions(connection.policy)
                self.told.force_command = force_command(connection.policy)
            self.told.admitted = True
        except (ConfigError, BackendError) as exc:
            self.told.refuse(exc, "the login is authenticated, and ends")

    async def _authenticate(self, network: NetworkHandler, meta: ConnectionMetadata) -> Login | None:
        before: PartialSuccess | None = None
        offered: Collection[AuthMethod] = network.auth_methods
        tried: set[AuthMethod] = set()
        while method := self._next(offered, tried, before):
            tried.add(method)
            try:
                result = await self._prove(network, meta, method, before)
            except (AuthFailed, AuthUnavailable) as exc:
                self.told.refuse(exc, method.value)
                continue
            if isinstance(result, Login):
                return result
            before, offered, tried = result, result.methods, set()
        if before and not tried:
            self.told.reason = f"nothing is shown for what must follow: {', '.join(sorted(offered))}"
        elif not tried:
            names = ", ".join(self.question.methods) or "no method"
            rest = ", ".join(sorted(offered)) or "none"
            self.told.reason = f"{names}: not offered here; what can be tried is {rest}"
        return None

    def _next(
        self, offered: Collection[AuthMethod], tried: Collection[AuthMethod], before: PartialSuccess | None
    ) -> AuthMethod | None:
        """The method that the client tries next."""
        wanted = self.question.methods or self.question.given
        left = [method for method in (*wanted, *_ORDER) if method in offered and method not in tried]
        if wanted and (before is None or self.question.methods):
            left = [method for method in left if method in wanted]
        return left[0] if left else None

    async def _prove(
        self, network: NetworkHandler, meta: ConnectionMetadata, method: AuthMethod, before: PartialSuccess | None
    ) -> Login | PartialSuccess:
        known: ConnectionMetadata = before.login if before else meta
        attempt = AuthAttempt(
            **{name: getattr(known, name) for name in ConnectionMetadata.__dataclass_fields__},
            client_version=self.question.client_version,
            username=self.question.username,
        )
        with self.told.step(method.value, supposed=method in self.supposed) as step:
            read_username(to_wire(attempt.username))
            login = await self._judge(network, attempt, method)
            step.adds = gained(before.login if before else None, login)
            key = self.question.key if method is AuthMethod.PUBLIC_KEY else None
            result = await network.authenticated(login, method, before, key)
            if isinstance(result, PartialSuccess):
                step.outcome = "more"
                step.reason = f"one of these must follow: {', '.join(sorted(result.methods))}"
        return result

    async def _judge(self, network: NetworkHandler, attempt: AuthAttempt, method: AuthMethod) -> Login:
        question = self.question
        match method:
            case AuthMethod.PASSWORD:
                return await network.authenticate_password(attempt, question.password or b"")
            case AuthMethod.PUBLIC_KEY:
                return await network.authenticate_public_key(attempt, question.key or NO_KEY)
            case AuthMethod.KEYBOARD_INTERACTIVE:
                return await network.authenticate_interactive(attempt, question.prompts or NoPrompts())
            case AuthMethod.GSSAPI:
                return await network.authenticate_gssapi(attempt, Tickets(question.service))

    def settled(self, name: str, config: AppConfig, login: Login) -> None:
        """Called where the backend *name* would start a container."""
        after_users = overlay(self.config, login.config_overlay) if login.config_overlay else self.config
        self.told.changes = [
            *changes(self.config, after_users, "users file"),
            *changes(after_users, config, "config server"),
        ]
        self.told.login = described(login)
        self.told.container = container(name, config, login)
        self.told.limits |= limits_of_login(config)


@dataclass(eq=False)
class _Authorizer:
    """The authorization webhook."""

    inner: Authorizer
    walk: _Walk

    async def authorize(self, login: Login) -> Login:
        with self.walk.told.step("authorization") as step:
            if not self.walk.question.webhooks:
                step.outcome, step.reason = "not asked", str(masked(self.walk.config.auth.authz.webhook.url))
                return login
            authorized = await self.inner.authorize(login)
            step.adds = gained(login, authorized)
            return authorized


@dataclass(eq=False)
class _ConfigServer:
    """The config server."""

    inner: LoginConfiguration
    walk: _Walk

    async def ask(self, login: Login) -> ConfigAnswer:
        with self.walk.told.step("config server") as step:
            if not self.walk.question.webhooks:
                step.outcome, step.reason = "not asked", str(masked(self.walk.config.configserver.url))
                return ConfigAnswer(login, None, overlay=False)
            answer = await self.inner.ask(login)
            step.adds = gained(login, answer.login)
            return answer


class _DryBackends(Mapping[str, "_DryBackend"]):
    """The server's backends by name; none of them starts anything."""

    def __init__(self, by_name: ByName, walk: _Walk) -> None:
        self._by_name = by_name
        self._walk = walk

    def __getitem__(self, name: str) -> _DryBackend:
        return _DryBackend(name, self._by_name[name], self._walk)

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)


@dataclass(eq=False)
class _DryBackend:
    name: str
    real: object
    walk: _Walk

    @asynccontextmanager
    async def login(self, login: Login, config: AppConfig, notices: Notices) -> AsyncIterator[ConnectionHandler]:
        name = self.name
        if isinstance(self.real, DockerLogins):
            name, config = "docker", config.model_copy(update={"docker": self.real.section(config)})
        elif isinstance(self.real, OCILogins):
            name = "oci"
        self.walk.settled(name, config, login)
        yield _NoContainer()


class _NoContainer(ConnectionHandler):
    """Nobody opens sessions."""

    def session(self, channel: object) -> object:  # type: ignore[override]  # never called
        raise NotImplementedError


class _Silent(Notices):
    def notice(self, text: str) -> None:
        """There is no terminal of a user's."""


@contextmanager
def _heard(told: Explanation) -> Iterator[None]:
    """Collects what is logged and adds it to the current step."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if isinstance(record.msg, Event) and told.steps:
                event = record.msg
                hidden = ("connectionId", "username", "authenticatedUsername", "providedUsername", "authtype")
                labels = {key: value for key, value in event.labels.items() if key not in hidden}
                told.steps[-1].log.append({"code": event.code.value, "text": event.text, "labels": labels})

    logger, handler = logging.getLogger("containerssh"), Handler()
    level, propagates = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagates
