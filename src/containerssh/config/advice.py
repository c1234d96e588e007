"""What a configuration may say but hardly should: remarks for ``config check``, never a reason not to start."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from containerssh.config.address import is_local, split_address
from containerssh.config.app import AppConfig
from containerssh.config.auth import KerberosConfig
from containerssh.config.auth_advice import directory_advice, memory_advice, names_advice
from containerssh.config.backend_advice import docker_advice, oci_advice
from containerssh.config.certificate_advice import certificate_advice, listed_files
from containerssh.config.findings import Finding, Severity
from containerssh.config.kubernetes_advice import connection_advice, secret_files
from containerssh.config.link_advice import link_advice
from containerssh.config.log import LogLevel
from containerssh.config.model import ConfigModel, seconds
from containerssh.config.pem import is_pem
from containerssh.config.pod_advice import pod_advice
from containerssh.config.security import CommandModeConfig, ListModeConfig, SecurityConfig
from containerssh.config.services import HealthConfig
from containerssh.config.ssh import CIPHERS, KEX, MACS, SSHConfig
from containerssh.config.unused_advice import unused_advice
from containerssh.config.urls import parts_of
from containerssh.core.forwarding import Endpoint
from containerssh.core.requests import SIGNALS
from containerssh.core.writers import other_writers


def advice(config: AppConfig) -> Iterator[Finding]:
    """Remarks about a well-formed configuration."""
    yield from _ssh(config.ssh)
    yield from _webhooks(config)
    yield from _chains(config.auth.authentication_methods)
    yield from _identity(config)
    yield from _kerberos(config)
    yield from directory_advice(config.auth)
    yield from names_advice(config.auth)
    yield from memory_advice(config.auth)
    yield from certificate_advice(config)
    yield from unused_advice(config)
    yield from _security(config.security)
    yield from _sftp(config)
    if config.log.level < LogLevel.ERROR:
        yield _say("warning", "log.level", "errors are not logged at this level")
    elif config.log.level == LogLevel.DEBUG:
        yield _say("info", "log.level", "at this level the log tells every step of every connection, and grows quickly")
    yield from _health(config.health)
    yield from _backends(config)
    yield from _where_forwards_end(config)


def advice_about_files(path: Path, config: AppConfig) -> Iterator[Finding]:
    """Remarks about who may read and write the files of a configuration that was read from *path*."""
    has_secrets = any(is_pem(key.get_secret_value()) for key in config.ssh.hostkeys) or any(_secrets(config))
    yield from _mode("", path, "the configuration", secret=has_secrets)
    for number, key in enumerate(config.ssh.hostkeys):
        if not is_pem(name := key.get_secret_value()):
            yield from _mode(f"ssh.hostkeys.{number}", Path(name), "the host key", secret=True)
    if config.auth.users.file:
        yield from _mode("auth.users.file", Path(config.auth.users.file), "the users file", secret=True)
    for where, file, what in listed_files(config):
        yield from _mode(where, file, what, secret=False)
    if config.auth.uses_ldap and config.auth.ldap.bind_password_file:
        name = config.auth.ldap.bind_password_file
        yield from _mode("auth.ldap.bindPasswordFile", Path(name), "the directory's password", secret=True)
    for where, section in _kerberos_sections(config):
        yield from _mode(f"{where}.keytab", Path(section.keytab), "the keytab", secret=True)
    if config.backend == "kubernetes":
        for where, file, what in secret_files(config.kubernetes.connection):
            yield from _mode(where, file, what, secret=True)


def _say(severity: Severity, path: str, message: str, suggestion: str = "") -> Finding:
    return Finding(severity, path, message, suggestion=suggestion)


def _ssh(ssh: SSHConfig) -> Iterator[Finding]:
    lists = {"ciphers": (ssh.ciphers, CIPHERS), "kex": (ssh.kex, KEX), "macs": (ssh.macs, MACS)}
    for key, (chosen, good) in lists.items():
        weak = [name for name in chosen if name not in good and _is_weak(name)]
        if weak:
            yield _say("warning", f"ssh.{key}", f"{', '.join(weak)}: weak by today's standards")
    if ssh.kex and not any("mlkem" in name or "sntrup" in name for name in ssh.kex):
        yield _say("info", "ssh.kex", "no method of the list resists quantum computers", "add mlkem768x25519-sha256")
    if not ssh.login_grace_time:
        yield _say("warning", "ssh.loginGraceTime", "connections that never authenticate stay open forever")
    yield from _limits(ssh)


def _limits(ssh: SSHConfig) -> Iterator[Finding]:
    limits = ssh.limits
    if not limits.unauthenticated.full and not limits.unauthenticated_per_address:
        path = "ssh.limits.unauthenticated.full"
        yield _say("warning", path, "strangers may hold as many connections as they like")
    if not limits.connections:
        text = "the server takes connections until it has no file descriptors left"
        yield _say("warning", "ssh.limits.connections", text)
    if not limits.unreachable and not ssh.client_alive_interval:
        text = "a client whose host has vanished may keep its container for hours"
        yield _say("warning", "ssh.limits.unreachable", text)
    if not limits.rekeys:
        yield _say("warning", "ssh.limits.rekeys", "a user may keep the server busy with key exchanges alone")
    for path, networks in (("limits.allow", limits.allow), ("proxyProtocol.trusted", ssh.proxy_protocol.trusted)):
        if any(network.endswith("/0") for network in networks):
            what = "nobody is limited by address" if path == "limits.allow" else "anybody can claim any address"
            yield _say("warning", f"ssh.{path}", f"the whole Internet is listed: {what}")


def _is_weak(name: str) -> bool:
    return name.endswith(("-cbc", "-sha1", "-96")) or name.startswith("arcfour") or "sha1" in name


def _webhooks(config: AppConfig) -> Iterator[Finding]:
    auth = config.auth
    urls = {
        "configserver.url": config.configserver.url,
        "auth.password.webhook.url": auth.password.webhook.url if auth.password.method == "webhook" else "",
        "auth.publicKey.webhook.url": auth.public_key.webhook.url if auth.public_key.method == "webhook" else "",
        "auth.keyboardInteractive.webhook.url": (
            auth.keyboard_interactive.webhook.url if auth.keyboard_interactive.method == "webhook" else ""
        ),
        "auth.authz.webhook.url": auth.authz.webhook.url if auth.authz.method == "webhook" else "",
    }
    for path, url in urls.items():
        if url.startswith("http://") and not is_local(parts_of(url).hostname or ""):
            yield _say("warning", path, "what is sent there can be read and modified in transit", "use https://")


def _kerberos(config: AppConfig) -> Iterator[Finding]:
    for where, section in _kerberos_sections(config):
        # A password is judged for the name that the user gave, so that there is nothing to enforce.
        if where.startswith("auth.gssapi") and not section.enforce_username and not config.auth.authz.method:
            text = "everybody with a ticket, of any trusted realm, may log in under any name"
            yield _say("warning", f"{where}.enforceUsername", text, "set auth.authz, or leave it true")
    named = "key_exchange" in config.auth.gssapi.model_fields_set and config.auth.exchanges_by_tickets
    if named and tuple(config.ssh.kex) != KEX:
        text = "has no effect: ssh.kex names all ways to exchange keys"
        yield _say("info", "auth.gssapi.keyExchange", text, "leave ssh.kex out")


def _kerberos_sections(config: AppConfig) -> Iterator[tuple[str, KerberosConfig]]:
    for name, way in (("password", config.auth.password), ("gssapi", config.auth.gssapi)):
        if way.method == "kerberos":
            yield f"auth.{name}.kerberos", way.kerberos


def _chains(methods: tuple[str, ...]) -> Iterator[Finding]:
    for number, chain in enumerate(methods):
        shorter = [other for other in methods if other != chain and f"{chain},".startswith(f"{other},")]
        if shorter:
            text = f"nobody needs all of {chain}: {shorter[0]} is enough"
            yield _say("warning", f"auth.authenticationMethods.{number}", text)


def _identity(config: AppConfig) -> Iterator[Finding]:
    """A provider knows people, and nothing of the names that they log in with."""
    interactive, authz = config.auth.keyboard_interactive, config.auth.authz
    if interactive.method != "oauth2":
        return
    path = "auth.keyboardInteractive.oauth2"
    oauth2 = interactive.oauth2
    compares = oauth2.provider == "github" and oauth2.github.enforce_username
    if not compares and not authz.method:
        yield _say(
            "warning",
            f"{path}.provider",
            "whoever has an account there may log in under any name",
            "set auth.authz, or compare the names in the configuration server",
        )
    grace = config.ssh.login_grace_time
    if grace and grace < oauth2.auth_timeout:
        yield _say("info", f"{path}.authTimeout", "ssh.loginGraceTime is shorter, and ends the login first")


def _security(security: SecurityConfig) -> Iterator[Finding]:
    if security.max_sessions == 0:
        yield _say("warning", "security.maxSessions", "nobody can open a session", "-1 means unlimited")
    if security.force_command.startswith("internal-sftp "):
        text = "internal-sftp has no options here, so a program of this name is run"
        yield _say("warning", "security.forceCommand", text, "write internal-sftp, and its rules in the section sftp")
    if security.max_login_time and security.max_login_time < seconds(60):
        yield _say(
            "warning", "security.maxLoginTime", "logins end before anybody can do much", "a number is nanoseconds"
        )
    rules = {"env": security.env, "subsystem": security.subsystem, "signal": security.signal}
    for name, rule in rules.items():
        yield from _lists(f"security.{name}", rule, rule.mode or security.default_mode or "enable")
    for name, named in (("env", security.env), ("subsystem", security.subsystem)):
        for key, listed_names in (("allow", named.allow), ("deny", named.deny)):
            for pattern in (one for one in listed_names if "*" in one or "?" in one):
                text = f"names are compared literally, so {pattern} is none of a client's"
                yield _say("warning", f"security.{name}.{key}", text, "list each name")
    mode = security.command.mode or security.default_mode or "enable"
    if security.command.allow and mode != "filter":
        yield _say("warning", "security.command.allow", f"the list has no effect in mode {mode}")
    filters: dict[str, ListModeConfig | CommandModeConfig] = {**rules, "command": security.command}
    for name, listed in filters.items():
        if listed.mode == "filter" and not listed.allow:
            yield _nothing_passes(f"security.{name}.mode", f"security.{name}.allow")
    for name, unlisted in (("shell", security.shell), ("tty", security.tty)):
        if unlisted.mode == "filter":
            yield _say("info", f"security.{name}.mode", "there is nothing to filter; all are refused", "write disable")
    for key in ("allow", "deny"):
        listed_signals: tuple[str, ...] = getattr(security.signal, key)
        for signal in sorted(set(listed_signals) - SIGNALS):
            plain = signal.upper().removeprefix("SIG")
            suggestion = f"write {plain}" if plain in SIGNALS else f"there are {', '.join(sorted(SIGNALS))}"
            yield _say("warning", f"security.signal.{key}", f"{signal} is no signal that clients can send", suggestion)
    yield from _forwarding(security)


def _nothing_passes(path: str, allow: str) -> Finding:
    return _say(
        "warning", path, "in mode filter nothing passes without an allow list", f"set {allow}, or write disable"
    )


def _forwarding(security: SecurityConfig) -> Iterator[Finding]:
    rule, where = security.forwarding, "security.forwarding"
    listed = {
        "forwarding": (rule.forwarding_mode, rule.forwarding_allow, rule.forwarding_deny),
        "reverseForwarding": (
            rule.reverse_forwarding_mode,
            rule.reverse_forwarding_allow,
            rule.reverse_forwarding_deny,
        ),
        "socketForwarding": (rule.socket_forwarding_mode, rule.socket_forwarding_allow, rule.socket_forwarding_deny),
        "socketListen": (rule.socket_listen_mode, rule.socket_listen_allow, rule.socket_listen_deny),
    }
    for name, (mode, allow, deny) in listed.items():
        if mode == "filter" and not allow:
            yield _nothing_passes(f"{where}.{name}Mode", f"{where}.{name}Allow")
        if allow and mode != "filter":
            yield _say("warning", f"{where}.{name}Allow", f"the list has no effect in mode {mode}")
        if deny and mode == "disable":
            yield _say("warning", f"{where}.{name}Deny", f"the list has no effect in mode {mode}")
    for number, text in enumerate(rule.forwarding_deny):
        if (Endpoint.parse(text).name or "*") != "*":
            message = "a name that is denied can still be reached by its address, or by another name"
            yield _say("warning", f"{where}.forwardingDeny.{number}", message, "deny the network")
    unlisted: dict[str, str] = {
        "x11Forwarding": rule.x11_forwarding_mode,
        "agentForwarding": rule.agent_forwarding_mode,
    }
    for name, unlisted_mode in unlisted.items():
        if unlisted_mode == "filter":
            yield _say("info", f"{where}.{name}Mode", "there is nothing to filter; all are refused", "write disable")
    if rule.x11_forwarding_mode == "enable":
        text = "whoever controls a container can read the screen and the keyboard of the user in it"
        yield _say("warning", f"{where}.x11ForwardingMode", text)
    if security.force_command:
        for name, (mode, *_) in listed.items():
            if mode != "disable":
                text = "a client can forward without running the forced command"
                yield _say("warning", f"{where}.{name}Mode", text, "write disable to confine users to the command")


def _where_forwards_end(config: AppConfig) -> Iterator[Finding]:
    modes = config.security.forwarding.model_dump(by_alias=True)
    allowed = [
        name
        for name, mode in modes.items()
        if name.endswith("Mode") and name != "agentForwardingMode" and mode != "disable"
    ]
    docker = config.docker.execution
    with_docker, with_oci = (config.backend in (name, "auto") for name in ("docker", "oci"))
    with_pods = config.backend == "kubernetes"
    if not allowed:
        return
    where = f"security.forwarding.{allowed[0]}"
    if (with_docker and docker.host.get("NetworkMode") == "host") or (with_oci and config.oci.network == "host"):
        text = "containers are in the host's network: forwarded connections begin and end there"
        yield _say("warning", where, text, "give containers a network of their own")
    in_a_session = [name for name in allowed if name != "x11ForwardingMode"]
    ways = {"docker.execution": with_docker and docker.mode, "kubernetes.pod": with_pods and config.kubernetes.pod.mode}
    for section, mode in ways.items():
        if mode == "session" and in_a_session:
            text = "in session mode a login has no container to forward to; these requests are refused"
            yield _say("warning", f"security.forwarding.{in_a_session[0]}", text, f"set {section}.mode: connection")


def _sftp(config: AppConfig) -> Iterator[Finding]:
    security, rules = config.security, config.sftp.rules
    if not rules.binding or security.force_command == "internal-sftp":
        return
    ways = {"shell": security.shell.mode, "command": security.command.mode}
    open_ways = [name for name, mode in ways.items() if (mode or security.default_mode or "enable") == "enable"]
    if open_ways and not security.force_command:
        text = f"whoever may use a {' or a '.join(open_ways)} is not bound by the rules for SFTP"
        yield _say("warning", "sftp", text, "set security.forceCommand: internal-sftp, or disable the others")
    modes = (security.subsystem.mode or security.default_mode or "enable", security.subsystem.deny)
    if modes[0] == "disable" or (modes[0] == "enable" and "sftp" in modes[1]):
        yield _say("info", "sftp", "has no effect: security.subsystem refuses sftp")


def _lists(path: str, rule: ListModeConfig, mode: str) -> Iterator[Finding]:
    if rule.allow and mode != "filter":
        yield _say("warning", f"{path}.allow", f"the list has no effect in mode {mode}")
    if rule.deny and mode != "enable":
        yield _say("warning", f"{path}.deny", f"the list has no effect in mode {mode}")


def _backends(config: AppConfig) -> Iterator[Finding]:
    used = {"docker", "oci"} if config.backend == "auto" else {config.backend}
    for name in ("docker", "oci", "kubernetes", "sshproxy"):
        section: ConfigModel = getattr(config, name)
        if name not in used and section.model_fields_set and not config.configserver.url:
            yield _say("info", name, f"has no effect while the backend is {config.backend}")
    if "docker" in used:
        yield from docker_advice(config.docker)
        yield from _without_own_agent(config, config.docker.execution.agent_in_use)
    if "oci" in used:
        yield from oci_advice(config.oci)
    if "kubernetes" in used:
        yield from connection_advice(config.kubernetes.connection)
        yield from pod_advice(config.kubernetes.pod)
        yield from link_advice(config.kubernetes.agent_link)
        yield from _without_own_agent(config, config.kubernetes.pod.agent_in_use)


def _without_own_agent(config: AppConfig, way: str) -> Iterator[Finding]:
    if way in ("image", "none") and (config.sftp.server == "builtin" or config.sftp.rules.binding):
        yield _say("warning", "sftp", "these rules need the server's own agent: without it SFTP is refused")


def _health(health: HealthConfig) -> Iterator[Finding]:
    if not health.enable:
        return
    asked = parts_of(health.client.url)
    port = asked.port or {"http": 80, "https": 443}.get(asked.scheme)
    try:
        listens = split_address(health.listen)[1]
    except ValueError:
        return
    if port and port != listens:
        text = f"--healthcheck asks port {port}, and the endpoint listens on {health.listen}"
        yield _say("warning", "health.client.url", text)


def _secrets(model: ConfigModel) -> Iterator[bool]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, ConfigModel):
            yield from _secrets(value)
        elif hasattr(value, "get_secret_value") and value.get_secret_value():
            # Where a key may be the name of a file, only the key itself is a secret.
            yield is_pem(value.get_secret_value()) or name not in ("key", "private_key")


def _mode(where: str, path: Path, what: str, *, secret: bool) -> Iterator[Finding]:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return
    if not stat.S_ISREG(mode):
        return
    if mode & 0o022:
        yield _say("warning", where, f"others may write to {what} {path}", "chmod go-w")
    elif writer := _writer(path):
        yield _say("warning", where, f"{what} {path} can be written, or replaced, by {writer}")
    if secret and mode & 0o004:
        yield _say("warning", where, f"everybody may read {what} {path}, which holds secrets", "chmod o-r")


def _writer(path: Path) -> str:
    try:
        return other_writers(path)
    except OSError:
        return ""
