"""What ``kubernetes.connection`` may say but hardly should; a part of :mod:`containerssh.config.advice`."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from pathlib import Path

from containerssh.config.findings import Finding
from containerssh.config.kubeconfig import KubeConfigError, read_kubeconfig
from containerssh.config.kubernetes_connection import KubernetesConnectionConfig
from containerssh.config.pem import is_pem
from containerssh.config.urls import parts_of

_PATH = "kubernetes.connection"


def connection_advice(connection: KubernetesConnectionConfig) -> Iterator[Finding]:
    """Remarks about a well-formed connection."""
    if connection.kube_config:
        yield from _kubeconfig(connection)
        return
    url = parts_of(connection.url)
    if connection.says_nothing and "KUBERNETES_SERVICE_HOST" not in os.environ:
        text = "nothing is set, and this is not a pod: outside of one there is no account to use"
        yield Finding("info", _PATH, text, suggestion="set kubeConfig, or host and who we are there")
    if url.scheme == "http" and not _is_loopback(url.hostname or ""):
        text = "whoever reads the traffic gains the server's rights in the cluster"
        yield Finding("warning", f"{_PATH}.host", text, suggestion="write https://")
    if connection.username or connection.password.get_secret_value():
        text = "Kubernetes takes no names and passwords since 1.19; only some proxy in front of it may"
        yield Finding("warning", f"{_PATH}.username", text)
    if connection.bearer_token.get_secret_value() and connection.bearer_token_file:
        yield Finding("warning", f"{_PATH}.bearerToken", "has no effect: bearerTokenFile wins")
    elif connection.bearer_token.get_secret_value():
        text = "a token in the configuration cannot be renewed while the server runs"
        yield Finding("info", f"{_PATH}.bearerToken", text, suggestion="use bearerTokenFile")


def secret_files(connection: KubernetesConnectionConfig) -> Iterator[tuple[str, Path, str]]:
    """Files that nobody else should read: the key, the path, and what it is."""
    for key, name, what in (
        ("kubeConfig", connection.kube_config, "the kubeconfig file"),
        ("keyFile", connection.key_file, "the private key"),
        ("bearerTokenFile", connection.bearer_token_file, "the token"),
    ):
        if name and not is_pem(name):
            yield f"{_PATH}.{key}", Path(name), what


def _kubeconfig(connection: KubernetesConnectionConfig) -> Iterator[Finding]:
    try:
        cluster, user = read_kubeconfig(Path(connection.kube_config)).choose(connection.context)
    except KubeConfigError:
        return
    path = f"{_PATH}.kubeConfig"
    if cluster.insecure:
        text = "insecure-skip-tls-verify: the cluster can be impersonated"
        yield Finding("warning", path, text, suggestion="set certificate-authority there")
    if parts_of(cluster.server).scheme == "http" and not _is_loopback(parts_of(cluster.server).hostname or ""):
        yield Finding("warning", path, "its server is http://: whoever reads the traffic gains the server's rights")
    if user.impersonation:
        yield Finding("info", path, f"the server acts as {user.impersonation[0][1]!r} there")
    if not connection.context:
        yield Finding(
            "info", path, "its current context may be changed by kubectl", suggestion="set connection.context"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
