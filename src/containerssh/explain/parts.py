"""Parts of the explanation: a login's configuration, container, permissions and limits."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_network
from typing import Any

from containerssh.backends.outline import FILE_MODE, outline
from containerssh.config.app import AppConfig
from containerssh.config.dump import masked
from containerssh.config.model import format_duration
from containerssh.core.metadata import Login, SocketAddress
from containerssh.explain.report import Change, Permission, files
from containerssh.layers.security import FORWARDS, Policy, Verdict
from containerssh.settings import admission, connection_limits
from containerssh.ssh.admission import ConnectionLimiter, is_within

_UNLISTED = secrets.token_hex(16)
"""A value that is in no list."""

_ENVIRONMENT = "env"
"""Keys whose values are environment variables. These may be secrets, so only names are shown."""


def changes(before: AppConfig, after: AppConfig, by: str) -> list[Change]:
    """The keys whose values differ in *after*, with secrets masked."""
    if before is after:
        return []
    old, new = _flat(before.model_dump(by_alias=True)), _flat(after.model_dump(by_alias=True))
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return [Change(".".join(key), by, _shown(key, old), _shown(key, new)) for key in keys]


def _flat(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    found: dict[tuple[str, ...], Any] = {}
    for key, value in tree.items():
        place = (*path, str(key))
        if isinstance(value, Mapping) and value:
            found |= _flat(value, place)
        else:
            found[place] = value
    return found


def _shown(key: tuple[str, ...], tree: Mapping[tuple[str, ...], Any]) -> Any:
    return _without_variables(masked(tree.get(key), key[-1]), key[-1])


def _without_variables(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_variables(entry, name) for name, entry in value.items()}
    if not isinstance(value, list):
        return value
    if key.lower() == _ENVIRONMENT:
        return [str(entry.get("name")) if isinstance(entry, Mapping) else entry.partition("=")[0] for entry in value]
    return [_without_variables(entry, "") for entry in value]


def webhooks(config: AppConfig) -> list[str]:
    """The URLs of the webhooks, with passwords masked."""
    auth = config.auth
    sections = (auth.password, auth.public_key, auth.keyboard_interactive, auth.authz)
    urls = [section.webhook.url for section in sections if section.method == "webhook"]
    return [str(masked(url)) for url in dict.fromkeys([*urls, config.configserver.url]) if url]


def container(name: str, config: AppConfig, login: Login) -> dict[str, Any]:
    """What the backend *name* would start."""
    found = outline(name, config, login)
    return {
        "backend": name,
        **found.target,
        "environment": list(found.variables),
        "files": files(login, FILE_MODE) if found.takes_files else [],
    }


def permissions(policy: Policy) -> list[Permission]:
    """Whether each kind of request is allowed."""
    config = policy.config
    names = {
        "env": (policy.allows_env, {*config.env.allow, *config.env.deny, *policy.restrictions.environment, "LANG"}),
        "exec": (policy.allows_command, config.command.allow),
        "subsystem": (policy.allows_subsystem, {*config.subsystem.allow, *config.subsystem.deny}),
        "signal": (policy.allows_signal, {*config.signal.allow, *config.signal.deny}),
    }
    told = [
        _single("shell", policy.allows_shell()),
        *(_listed(request, judge, known) for request, (judge, known) in names.items()),
        _single("pty", policy.allows_pty()),
        _single("x11", policy.allows_x11()),
        _single("ssh-agent", policy.allows_agent()),
    ]
    for kind, key in FORWARDS.items():
        verdict = policy.allows_forwards(kind)
        lists = config.forwarding
        only = getattr(lists, f"{kind}_allow") if getattr(lists, f"{kind}_mode") == "filter" else ()
        denied = getattr(lists, f"{kind}_deny") if verdict else ()
        narrower = {
            "forwarding": policy.restrictions.connections,
            "reverse_forwarding": policy.restrictions.listeners,
        }
        by = f"{verdict.by}; the credential's options allow less" if verdict and narrower.get(kind) else verdict.by
        told.append(Permission(key, bool(verdict), by, excepted=tuple(only), denied=tuple(denied)))
    return told


def _single(request: str, verdict: Verdict) -> Permission:
    return Permission(request, verdict.allowed, verdict.by)


def _listed(request: str, judge: Callable[[str], Verdict], known: Iterable[str]) -> Permission:
    usual = judge(_UNLISTED)
    others = sorted(name for name in known if judge(name).allowed != usual.allowed)
    return Permission(request, usual.allowed, usual.by, excepted=others)


def force_command(policy: Policy) -> dict[str, str]:
    """The forced command and where it is configured; empty if there is none."""
    if not policy.force_command:
        return {}
    by = "security.forceCommand" if policy.config.force_command else "the credential's options"
    return {"command": policy.force_command, "by": by}


def limits(config: AppConfig, address: SocketAddress) -> dict[str, Any]:
    """The limits that apply to clients from *address*. Limits of 0 have no effect and are left out."""
    entry = admission(config.ssh.limits)
    own = connection_limits(config.ssh)
    exempt = ConnectionLimiter(entry).enter(address.host, 0.0).exempt
    trusted = [ip_network(network) for network in config.ssh.proxy_protocol.trusted]
    told: dict[str, Any] = {"exempt": exempt, "proxyHeader": is_within(address.host, trusted)}
    counted = {"connections": entry.connections}
    if not exempt:
        counted |= {
            "connectionsPerAddress": entry.connections_per_address,
            "connectionsPerPrefix": entry.connections_per_prefix,
            "unauthenticatedPerAddress": entry.unauthenticated_per_address,
            "unauthenticatedPerPrefix": entry.unauthenticated_per_prefix,
        }
    counted |= {
        "maxAuthTries": own.auth_tries,
        "maxSessionsPerConnection": own.sessions,
        "forwards": own.forwards,
        "listeners": own.listeners,
    }
    told |= {name: number for name, number in counted.items() if number}
    if config.ssh.login_grace_time:
        told["loginGraceTime"] = format_duration(config.ssh.login_grace_time)
    told["penalties"] = entry.penalties is not None and not exempt
    return told


def limits_of_login(config: AppConfig) -> dict[str, Any]:
    """The limits in the login's own configuration."""
    told: dict[str, Any] = {}
    if config.security.max_sessions >= 0:
        told["maxSessions"] = config.security.max_sessions
    if config.security.max_login_time:
        told["maxLoginTime"] = format_duration(config.security.max_login_time)
    return told
