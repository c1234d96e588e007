"""The Prometheus metrics, with upstream's names (``observability.md`` section 6)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

CONFIG_SERVER_REQUESTS = "containerssh_config_server_requests_total"
CONFIG_SERVER_FAILURES = "containerssh_config_server_failures_total"
BACKEND_REQUESTS = "containerssh_backend_requests_total"
BACKEND_ERRORS = "containerssh_backend_errors_total"
AUTH_SERVER_REQUESTS = "containerssh_auth_server_requests_total"
AUTH_SERVER_FAILURES = "containerssh_auth_server_failures_total"
AUTH_SUCCESS = "containerssh_auth_success_total"
AUTH_FAILURES = "containerssh_auth_failures_total"
CONNECTIONS = "containerssh_ssh_connections_total"
CURRENT_CONNECTIONS = "containerssh_ssh_current_connections"
HANDSHAKES = "containerssh_ssh_successful_handshakes_total"
FAILED_HANDSHAKES = "containerssh_ssh_failed_handshakes_total"
LIMITS = "containerssh_ssh_limits_total"

NOWHERE = "XX"
"""The country of an address whose country is not known."""


@dataclass(frozen=True)
class Metric:
    """The OpenMetrics metadata of a metric."""

    name: str
    unit: str
    """The suffix of the name, as upstream has it."""
    help: str
    kind: Literal["counter", "gauge"] = "counter"


METRICS = (
    Metric(CONFIG_SERVER_REQUESTS, "requests_total", "The number of requests sent to the configuration server."),
    Metric(CONFIG_SERVER_FAILURES, "failures_total", "The number of request failures to the configuration server."),
    Metric(BACKEND_REQUESTS, "requests_total", "The number of requests to the backend."),
    Metric(BACKEND_ERRORS, "errors_total", "The number of failed requests to the backend."),
    Metric(AUTH_SERVER_REQUESTS, "requests_total", "The number of requests sent to the authentication server."),
    Metric(AUTH_SERVER_FAILURES, "failures_total", "The number of request failures to the authentication server."),
    Metric(AUTH_SUCCESS, "success_total", "The number of successful authentications."),
    Metric(AUTH_FAILURES, "failures_total", "The number of failed authentications."),
    Metric(CONNECTIONS, "connections_total", "Number of connections since start"),
    Metric(CURRENT_CONNECTIONS, "connections", "Current open SSH connections", "gauge"),
    Metric(HANDSHAKES, "handshakes_total", "Successful SSH handshakes since start"),
    Metric(FAILED_HANDSHAKES, "handshakes_total", "Failed SSH handshakes since start"),
    Metric(LIMITS, "limits_total", "How often a limit was reached since start"),
)
"""In the order of upstream's page, followed by additional ones."""

GAUGES = frozenset(metric.name for metric in METRICS if metric.kind == "gauge")

Labels = tuple[tuple[str, str], ...]
Sample = tuple[tuple[str, Labels], int]
"""A name, its labels in order, and the value."""


def page(samples: Iterable[Sample]) -> str:
    """
    The samples in the OpenMetrics text format, as upstream writes it; those of one name and labels are added up. What
    is not one of :data:`METRICS` is left out.
    """
    sums: dict[str, dict[Labels, int]] = {metric.name: {} for metric in METRICS}
    for (name, labels), value in samples:
        if name in sums:
            sums[name][labels] = sums[name].get(labels, 0) + value
    lines = []
    for metric in METRICS:
        lines += [
            f"# HELP {metric.name} {metric.help}",
            f"# UNIT {metric.name} {metric.unit}",
            f"# TYPE {metric.name} {metric.kind}",
        ]
        lines += [f"{metric.name}{_braces(labels)} {value:.6f}" for labels, value in sums[metric.name].items()]
    return "\n".join([*lines, "# EOF", ""])


def _braces(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
