"""The composition root: a configuration goes in, a running server comes out. The one place that knows everyone."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any, TypeVar

from containerssh.auth.authenticator import PasswordAuthenticator, PublicKeyAuthenticator
from containerssh.auth.config_server import ConfigServer, open_config_server
from containerssh.auth.users import UsersFile
from containerssh.auth.webhook import open_webhook
from containerssh.backends.registry import Backends
from containerssh.config.address import split_address
from containerssh.config.app import AppConfig
from containerssh.config.load import Loaded, load
from containerssh.config.log import LogConfig
from containerssh.config.merge import overlay
from containerssh.config.ssh import LimitsConfig, SSHConfig
from containerssh.core.codes import CoreCode, ServiceCode
from containerssh.core.errors import ContainerSSHError
from containerssh.core.instance import Instance, open_instance
from containerssh.core.messages import Event
from containerssh.core.metadata import SocketAddress
from containerssh.layers.authentication import AuthenticationServer, Authenticators
from containerssh.layers.per_login import PerLoginServer
from containerssh.logs.setup import LogSetup, setup_logging
from containerssh.ssh.host_keys import generate_host_keys
from containerssh.ssh.options import Admission, Limits, Penalties, ServerOptions
from containerssh.ssh.server import SSHServer
from containerssh.web.health import check_health, health_endpoint

logger = logging.getLogger(__name__)

T = TypeVar("T")

SHUTDOWN_GRACE = timedelta(seconds=20)
"""From SIGTERM to the end of sessions that do not end by themselves (``config.md`` section 11)."""


def serve(path: Path) -> int:
    """Run the server configured by *path* until SIGTERM or SIGINT; the exit status is upstream's (``config.md`` 9)."""
    logs = setup_logging(LogConfig())
    try:
        loaded = load(path)
        configured = setup_logging(loaded.config.log)
    except ContainerSSHError as exc:
        logger.critical(exc.event())
        logs.close()
        return 1
    logs.close()
    try:
        return run(_serve(loaded, configured))
    finally:
        configured.close()


def healthcheck(path: Path) -> int:
    """``--healthcheck``: ask the running server; 0 when it is healthy, or when the endpoint is off."""
    logs = setup_logging(LogConfig())
    try:
        loaded = load(path, to_serve=False)
        healthy = run(check_health(loaded.config.health)) if loaded.config.health.enable else True
    except ContainerSSHError as exc:
        logger.critical(exc.event())
        return 1
    else:
        if healthy:
            logger.info(Event(CoreCode.HEALTH_CHECK_SUCCESSFUL, "Health check successful"))
        else:
            logger.critical(Event(CoreCode.HEALTH_CHECK_FAILED, "Health check failed"))
        return 0 if healthy else 1
    finally:
        logs.close()


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run *main* on uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


async def _serve(loaded: Loaded, logs: LogSetup) -> int:
    logger.debug(Event(CoreCode.CONFIG_FILE, f"Using configuration file {loaded.path}", file=str(loaded.path)))
    for warning in loaded.warnings:
        logger.warning(warning)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, logs.reopen)
    try:
        with open_instance() as instance:
            logger.info(Event(ServiceCode.POOL_STARTING, "Starting"))
            async with running(loaded.config, instance, stopping=stop.is_set):
                logger.info(Event(ServiceCode.POOL_RUNNING, "Running"))
                await stop.wait()
                logger.info(Event(ServiceCode.POOL_STOPPING, "Stopping"))
        logger.info(Event(ServiceCode.POOL_STOPPED, "Stopped"))
    except ContainerSSHError as exc:
        logger.critical(exc.event())
        return 1
    except OSError as exc:
        logger.critical(Event(ServiceCode.CRASHED, f"The server cannot run here ({exc})"))
        return 1
    return 0


@asynccontextmanager
async def running(
    config: AppConfig, instance: Instance, *, stopping: Callable[[], bool] = lambda: False
) -> AsyncIterator[Sequence[SocketAddress]]:
    """
    The whole server: listening on the yielded addresses inside the scope, gone with all its containers after it.

    Raises:
        ConfigError: something configured cannot be used.
        BackendError: ``backend: auto`` found none.
    """
    ready = False
    async with AsyncExitStack() as stack:
        if config.health.enable:
            health = health_endpoint(config.health, lambda: ready and not stopping())
            await stack.enter_async_context(_service("Health check endpoint", health))
        backends = await stack.enter_async_context(Backends.opened(instance))
        await backends.choose(config)
        config_server: ConfigServer | None = None
        if config.configserver.url:
            config_server = await stack.enter_async_context(open_config_server(config.configserver))
        authenticators = await _authenticators(config, stack)
        handler = AuthenticationServer(PerLoginServer(config, config_server, backends.by_name), authenticators)
        server = SSHServer(handler, _server_options(config, instance))
        listening = await stack.enter_async_context(_service("SSH server", server.serving()))
        reaper = asyncio.create_task(backends.reap(config))
        stack.push_async_callback(_cancelled, reaper)
        ready = True
        yield listening.addresses


@asynccontextmanager
async def _service(name: str, scope: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """*scope*, with upstream's messages about its life."""
    logger.info(Event(ServiceCode.STARTING, "Service starting", service=name))
    async with scope as service:
        logger.info(Event(ServiceCode.RUNNING, "Service running", service=name))
        try:
            yield service
        finally:
            logger.info(Event(ServiceCode.STOPPING, "Service stopping", service=name))
    logger.info(Event(ServiceCode.STOPPED, "Service stopped", service=name))


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _authenticators(config: AppConfig, stack: AsyncExitStack) -> Authenticators:
    users: UsersFile | None = None
    if "users" in (config.auth.password.method, config.auth.public_key.method):
        users = UsersFile(Path(config.auth.users.file), check_config=lambda patch: overlay(config, patch))
    password: PasswordAuthenticator | None = None
    public_key: PublicKeyAuthenticator | None = None
    match config.auth.password.method:
        case "webhook":
            password = await stack.enter_async_context(open_webhook(config.auth.password.webhook))
        case "users":
            password = users
    match config.auth.public_key.method:
        case "webhook":
            public_key = await stack.enter_async_context(open_webhook(config.auth.public_key.webhook))
        case "users":
            public_key = users
    return Authenticators(password, public_key)


def _server_options(config: AppConfig, instance: Instance) -> ServerOptions:
    ssh = config.ssh
    host, port = split_address(ssh.listen)
    return ServerOptions(
        host_keys=_host_keys(config, instance),
        host=host,
        port=port,
        server_version=ssh.server_version,
        ciphers=ssh.ciphers,
        kex=ssh.kex,
        macs=ssh.macs,
        banner=ssh.banner,
        client_alive_interval=ssh.client_alive_interval,
        client_alive_count_max=ssh.client_alive_count_max or 3,
        login_grace=ssh.login_grace_time,
        shutdown_grace=SHUTDOWN_GRACE,
        limits=_limits(ssh),
        admission=_admission(ssh.limits),
        proxies=[ip_network(network) for network in ssh.proxy_protocol.trusted],
        proxy_header_within=ssh.proxy_protocol.timeout,
    )


def _limits(ssh: SSHConfig) -> Limits:
    limits = ssh.limits
    return Limits(
        auth_tries=ssh.max_auth_tries,
        # Neither may take away tries that the configuration grants.
        auth_requests=max(limits.auth_requests or sys.maxsize, 2 * ssh.max_auth_tries),
        auth_calls=max(limits.auth_calls or sys.maxsize, ssh.max_auth_tries),
        sessions=ssh.max_sessions_per_connection,
        env_count=limits.env_count or sys.maxsize,
        env_bytes=limits.env_bytes or sys.maxsize,
        queued_requests=limits.queued_requests,
        queued_bytes=limits.queued_bytes,
        unsent_bytes=limits.unsent_bytes,
        unsent_bytes_unauthenticated=limits.unsent_bytes // 8,
        rekey=limits.rekey_time,
        unreachable=limits.unreachable,
    )


def _admission(limits: LimitsConfig) -> Admission:
    penalties = limits.penalties
    return Admission(
        connections=limits.connections,
        connections_per_address=limits.connections_per_address,
        connections_per_prefix=limits.connections_per_prefix,
        unauthenticated_start=limits.unauthenticated.start,
        unauthenticated_rate=limits.unauthenticated.rate,
        unauthenticated_full=limits.unauthenticated.full,
        unauthenticated_per_address=limits.unauthenticated_per_address,
        unauthenticated_per_prefix=limits.unauthenticated_per_prefix,
        prefix_ipv4=limits.prefix_ipv4,
        prefix_ipv6=limits.prefix_ipv6,
        penalties=Penalties(
            auth_failed=penalties.auth_failed,
            no_auth=penalties.no_auth,
            grace_exceeded=penalties.grace_exceeded,
            threshold=penalties.threshold,
            longest=penalties.max,
            sources=penalties.sources,
        )
        if penalties.enable
        else None,
        allow=[ip_network(network) for network in limits.allow],
    )


def _host_keys(config: AppConfig, instance: Instance) -> list[str]:
    if config.ssh.hostkeys:
        return [key.get_secret_value() for key in config.ssh.hostkeys]
    folder = Path(config.ssh.host_key_directory or instance.state / "hostkeys")
    if not any(folder.glob("ssh_host_*_key")):
        text = f"No host keys are configured; keys are made and kept in {folder}"
        logger.warning(Event(CoreCode.NO_HOST_KEYS, text, file=str(folder)))
    generate_host_keys(folder)
    return [str(path) for path in sorted(folder.glob("ssh_host_*_key"))]
