"""What ``kubernetes.agentLink`` may say but hardly should; a part of :mod:`containerssh.config.advice`."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Iterator

from containerssh.config.address import is_local
from containerssh.config.findings import Finding
from containerssh.config.kubernetes_link import ADVERTISE, KubernetesAgentLinkConfig

_PATH = "kubernetes.agentLink"


def link_advice(link: KubernetesAgentLinkConfig) -> Iterator[Finding]:
    """Remarks about a well-formed section."""
    if link.mode == "exec":
        if link != KubernetesAgentLinkConfig.default():
            yield Finding("info", _PATH, "has no effect: the mode is exec", suggestion="set mode to auto")
        return
    host, ports = link.place
    advertised = link.advertise or os.environ.get(ADVERTISE, "")
    if not advertised and "KUBERNETES_SERVICE_HOST" not in os.environ:
        text = "agents are told the address that this server has towards the API server; can pods reach that one?"
        yield Finding("warning", f"{_PATH}.advertise", text, suggestion="set the address at which they reach it")
    if is_local(advertised) or is_local(host):
        key = "advertise" if is_local(advertised) else "listen"
        yield Finding("warning", f"{_PATH}.{key}", "pods cannot reach a loopback address of this machine")
    yield from _bindable(host, ports)


def _bindable(host: str, ports: range) -> Iterator[Finding]:
    family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    failures = []
    for port in ports[:64]:
        try:
            socket.create_server((host, port), family=family).close()
        except OSError as exc:
            failures.append(exc)
    if not failures:
        return
    if all(failure.errno == errno.EADDRINUSE for failure in failures):
        text = f"{len(failures)} of {len(ports)} ports are in use just now; a server that runs has one for each process"
        yield Finding("info", f"{_PATH}.listen", text)
    else:
        text = f"this machine cannot listen there: {os.strerror(failures[0].errno or 0)}"
        yield Finding("warning", f"{_PATH}.listen", text)
