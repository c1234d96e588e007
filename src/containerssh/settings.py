"""The SSH server's options, built from the configuration."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

from containerssh.config.address import split_address
from containerssh.config.app import AppConfig
from containerssh.config.ssh import KEX, LimitsConfig, SSHConfig
from containerssh.core.codes import CoreCode
from containerssh.core.instance import Instance
from containerssh.core.messages import NOTICE, Event
from containerssh.ssh.host_keys import generate_host_keys, lacks_host_keys
from containerssh.ssh.options import Admission, Limits, Penalties, ServerOptions

logger = logging.getLogger(__name__)


def server_options(
    config: AppConfig, instance: Instance, processes: int = 1, *, without_slow_keys: bool = False
) -> ServerOptions:
    """
    Build the options. Missing host keys are generated; with *without_slow_keys*, those that take long are left out.

    Raises:
        ConfigError: host keys cannot be generated or read.
    """
    ssh = config.ssh
    host, port = split_address(ssh.listen)
    return ServerOptions(
        host_keys=_host_keys(config, instance, without_slow_keys),
        host_certificates=ssh.host_certificates,
        host=host,
        port=port,
        server_version=ssh.server_version,
        ciphers=ssh.ciphers,
        kex=ssh.kex,
        macs=ssh.macs,
        exchange_by_tickets=config.auth.exchanges_by_tickets and tuple(ssh.kex) == KEX,
        banner=ssh.banner,
        client_alive_interval=ssh.client_alive_interval,
        client_alive_count_max=ssh.client_alive_count_max or 3,
        login_grace=ssh.login_grace_time,
        shutdown_grace=ssh.shutdown_grace_time,
        limits=connection_limits(ssh),
        admission=share_of(admission(ssh.limits), processes),
        proxies=[ip_network(network) for network in ssh.proxy_protocol.trusted],
        proxy_header_within=ssh.proxy_protocol.timeout,
    )


def connection_limits(ssh: SSHConfig) -> Limits:
    """The limits on the resources of one client."""
    limits = ssh.limits
    return Limits(
        auth_tries=ssh.max_auth_tries,
        # Neither limit may be below the number of tries that the configuration allows.
        auth_requests=max(limits.auth_requests or sys.maxsize, 2 * ssh.max_auth_tries),
        auth_calls=max(limits.auth_calls or sys.maxsize, ssh.max_auth_tries),
        sessions=ssh.max_sessions_per_connection,
        forwards=limits.forwards,
        pending_forwards=limits.pending_forwards,
        listeners=limits.listeners,
        env_count=limits.env_count or sys.maxsize,
        env_bytes=limits.env_bytes or sys.maxsize,
        queued_requests=limits.queued_requests,
        queued_bytes=limits.queued_bytes,
        unsent_bytes=limits.unsent_bytes,
        unsent_bytes_unauthenticated=limits.unsent_bytes // 8,
        rekey=limits.rekey_time,
        rekeys=limits.rekeys or sys.maxsize,
        unreachable=limits.unreachable,
    )


def admission(limits: LimitsConfig) -> Admission:
    """The limits on who may connect."""
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


def share_of(whole: Admission, processes: int) -> Admission:
    """One process's share of the random early drop limits; the other limits are counted across all processes."""
    parts = {name: -(-getattr(whole, name) // processes) for name in ("unauthenticated_start", "unauthenticated_full")}
    return replace(whole, **parts)


def lacks_slow_keys(config: AppConfig, instance: Instance) -> bool:
    """Whether :func:`server_options` would leave out host keys when called with ``without_slow_keys``."""
    return not config.ssh.hostkeys and lacks_host_keys(_host_key_folder(config, instance))


def _host_key_folder(config: AppConfig, instance: Instance) -> Path:
    return Path(config.ssh.host_key_directory or instance.state / "hostkeys")


def _host_keys(config: AppConfig, instance: Instance, without_slow: bool) -> list[str]:
    if config.ssh.hostkeys:
        return [key.get_secret_value() for key in config.ssh.hostkeys]
    folder = _host_key_folder(config, instance)
    if not any(folder.glob("ssh_host_*_key")):
        if config.ssh.host_key_directory:
            level, text = NOTICE, f"There are no host keys in {folder} yet; they are generated there"
        else:
            level, text = logging.WARNING, f"No host keys are configured; they are generated and kept in {folder}"
        logger.log(level, Event(CoreCode.NO_HOST_KEYS, text, file=str(folder)))
    generate_host_keys(folder, without_slow=without_slow)
    return [str(path) for path in sorted(folder.glob("ssh_host_*_key"))]
